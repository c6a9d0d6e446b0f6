"""Attention: what the kernels refuse, where they are used, and that the one for many queries compiles."""

import pytest
import torch
from torch import Tensor

from plugins.hopper import cuda_kernel
from plugins.hopper.cuda_kernel import ARCHITECTURE
from plugins.long_attention import op
from plugins.long_attention.op import is_faster, long_attention
from plugins.long_attention.tiles import HEADS, TEXT, WARPGROUPS, Sizes
from plugins.nvrtc import KernelError, compile_ptx
from plugins.short_attention import op as short
from plugins.short_attention.compile import ShortAttention
from plugins.waiting import waits_first
from tests.nvrtc import require_nvrtc


@pytest.mark.parametrize(("tokens", "head"), [(1536, 40), (77, 40), (384, 80), (77, 80), (100, 40), (1, 80)])
def test_the_kernel_compiles(tokens: int, head: int) -> None:
    require_nvrtc()
    kernel = Sizes(2, 384, tokens, 8, head).kernel()
    assert waits_first(compile_ptx(kernel.source, kernel.constants, ARCHITECTURE).decode())
    assert f".text.{kernel.name}".encode() in kernel.cubin()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("tokens", [TEXT, TEXT + 1])
def test_it_suits_the_hardware(head: int, tokens: int) -> None:
    sizes = Sizes(2, 384, tokens, 8, head)
    static = 8 * (4 + 4 * sizes.stages) + 4 * WARPGROUPS * 16 * 2 * head
    assert sizes.kernel().shared + static <= 227 * 1024
    assert sizes.part % 16 == 0, "tensor cores add 16 products"


@pytest.mark.parametrize(
    ("n", "rows", "tokens", "width", "faster"),
    [
        (2, 1536, 1536, 320, True),
        (8, 1536, 1536, 320, True),
        (1, 1536, 1536, 320, False),  # half of the multiprocessors would have no work
        (3, 1536, 1536, 320, False),
        (2, 4096, 4096, 320, True),  # 512x512
        (2, 1536, 1500, 320, True),
        (2, 1536, 1000, 320, False),  # not measured
        (2, 1536, 77, 320, False),
        (4, 1536, 77, 320, True),  # two pictures
        (16, 384, 384, 640, True),
        (2, 384, 384, 640, False),
        (16, 1536, 1536, 640, False),  # not measured
        (16, 96, 96, 1280, False),
        (16, 100, 77, 320, False),
        (16, 1536, 77, 324, False),
    ],
)
def test_where_it_is_faster(n: int, rows: int, tokens: int, width: int, faster: bool) -> None:
    assert is_faster(torch.empty(n, rows, width), torch.empty(n, tokens, width), 8) == faster


FASTEST = {  # n, rows, tokens, heads and width of a head: rows of a program, keys at once, and stages
    (2, 1536, 77, 8, 40): (64, 128, 2),
    (16, 1536, 77, 8, 40): (64, 128, 2),
    (2, 384, 384, 8, 80): (64, 128, 2),
    (16, 384, 384, 8, 80): (64, 64, 3),
    (2, 384, 77, 8, 80): (64, 128, 2),
    (2, 96, 96, 8, 160): (16, 128, 2),
    (16, 96, 96, 8, 160): (64, 128, 2),
    (16, 96, 77, 8, 160): (64, 128, 2),
    (2, 24, 24, 8, 160): (16, 32, 2),
    (1, 77, 77, 12, 64): (16, 128, 2),
    (8, 77, 77, 12, 64): (64, 128, 2),
    (2, 1536, 1536, 8, 4): (64, 128, 2),
}


@pytest.mark.parametrize("sizes", FASTEST, ids=str)
def test_the_fastest_tile_over_few_tokens_is_chosen(sizes: tuple[int, int, int, int, int]) -> None:
    kernel = ShortAttention(*sizes, strides=(1, 1, 1, 1))
    assert (kernel.tile_rows, kernel.part, kernel.stages) == FASTEST[sizes]


@pytest.mark.parametrize(("capability", "runs"), [((9, 0), True), ((10, 0), False), ((8, 9), False)])
def test_where_it_runs(capability: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    for one, compiling in ((op, cuda_kernel), (short, short)):
        monkeypatch.setattr(compiling, "cubin", lambda *arguments: b"")
        assert one.runs_on.__wrapped__(torch.device("cuda")) == runs


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*arguments: object) -> bytes:
        raise KernelError("no NVRTC")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for one, compiling in ((op, cuda_kernel), (short, short)):
        monkeypatch.setattr(compiling, "cubin", fail)
        assert not one.runs_on.__wrapped__(torch.device("cuda"))
    assert caplog.messages == [
        "attention of many queries uses other kernels, which are slower: no NVRTC",
        "attention over few tokens uses PyTorch's kernels, which are slower: no NVRTC",
    ]


def half(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float16)


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        (
            half(2, 9, 96),
            half(2, 100, 96),
            half(2, 100, 96),
            "got 2 heads for a width of 96, expected heads of 40 or 80",
        ),
        (half(2, 9, 81), half(2, 100, 81), half(2, 100, 81), "got 2 heads for a width of 81"),
        (half(2, 9, 80), half(1, 192, 80), half(2, 192, 80), r"got k as torch.float16 \[1, 192, 80\]"),
        (half(2, 9, 80), half(2, 192, 80), half(2, 96, 80), "got v as"),
        (half(2, 9, 80).float(), half(2, 192, 80), half(2, 192, 80), r"got q as torch.float32"),
        (half(2, 9, 80), half(2, 80, 192).mT, half(2, 192, 80), r"got k with strides \[15360, 1, 192\]"),
        (half(2, 9, 80), half(2, 192, 80), half(2, 192, 84)[..., :80], r"got v with strides \[16128, 84, 1\]"),
        (half(2, 9, 80), half(2, 192, 88)[..., 4:84], half(2, 192, 80), "got k with strides"),
    ],
)
def test_refused_arguments(q: Tensor, k: Tensor, v: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"long_attention {message}"):
        op._check(q, k, v, 2)


def test_the_result_of_a_trace() -> None:
    with torch._subclasses.FakeTensorMode():
        q, k, v = torch.empty(2, 192, 240, dtype=torch.float16, device="cuda").chunk(3, dim=-1)
        result = long_attention(q, k, v, 2)
    assert (result.shape, result.dtype, result.is_contiguous()) == (q.shape, q.dtype, True)


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        (
            half(2, 9, 81),
            half(2, 7, 81),
            half(2, 7, 81),
            "got 2 heads for a width of 81, expected heads",
        ),
        (half(2, 9, 520), half(2, 7, 520), half(2, 7, 520), "got 2 heads for a width of 520"),
        (half(2, 9, 96), half(2, 7, 80), half(2, 7, 80), r"got k as torch.float16 \[2, 7, 80\] on cpu, expected"),
        (half(2, 9, 80).float(), half(2, 7, 80), half(2, 7, 80), "got q as torch.float32"),
        (half(2, 9, 80), half(2, 7, 80), half(2, 7, 160)[..., :80], r"got v with strides \[1120, 160, 1\]"),
        (half(2, 9, 80), half(2, 80, 7).mT, half(2, 80, 7).mT, r"got k with strides \[560, 1, 7\]"),
        (half(2, 9, 96)[..., 4:84], half(2, 7, 80), half(2, 7, 80), "got q with strides"),
    ],
)
def test_refused_arguments_of_short_attention(q: Tensor, k: Tensor, v: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^attention {message}"):
        short._check(q, k, v, 2)
