"""Attention over many tokens: what it refuses, where it is used, and that the kernel compiles."""

import re

import pytest
import torch
from torch import Tensor

from plugins.long_attention import op
from plugins.long_attention.op import ARCHITECTURE, SOURCE, is_faster, long_attention
from plugins.nvrtc import KernelError, compile_ptx, cubin
from plugins.waiting import waits_first
from tests.nvrtc import require_nvrtc


def test_the_kernel_compiles() -> None:
    require_nvrtc()
    assert waits_first(compile_ptx(SOURCE, (), ARCHITECTURE).decode())
    assert b".text.canny2image_long_attention" in cubin(SOURCE, (), ARCHITECTURE)


def test_constants_are_equal() -> None:
    found = dict(re.findall(r"\b([A-Z]+) = (\d+)\b", SOURCE.read_text()))
    groups = int(found["WARPGROUPS"])
    assert tuple(int(found[name]) for name in ("HEAD", "PART", "STAGES")) == (op.HEAD, op.PART, op.STAGES)
    assert (64 * groups, 128 * groups + 32) == (op.ROWS, op.THREADS)


@pytest.mark.parametrize(
    ("capability", "n", "rows", "tokens", "width", "faster"),
    [
        ((9, 0), 2, 1536, 1536, 320, True),
        ((9, 0), 8, 1536, 1536, 320, True),
        ((9, 0), 1, 1536, 1536, 320, False),  # half of the multiprocessors would have no work
        ((9, 0), 3, 1536, 1536, 320, False),
        ((9, 0), 2, 1536, 1500, 320, False),
        ((9, 0), 2, 1536, 77, 320, False),
        ((9, 0), 2, 1536, 1536, 640, False),
        ((10, 0), 2, 1536, 1536, 320, False),
        ((8, 9), 2, 1536, 1536, 320, False),
    ],
)
def test_where_it_is_faster(
    capability: tuple[int, int],
    n: int,
    rows: int,
    tokens: int,
    width: int,
    faster: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(op, "cubin", lambda *arguments: b"")
    op._runs_on.cache_clear()
    assert is_faster(torch.empty(n, rows, width), torch.empty(n, tokens, width), 8) == faster
    op._runs_on.cache_clear()


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*arguments: object) -> bytes:
        raise KernelError("no NVRTC")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(op, "cubin", fail)
    op._runs_on.cache_clear()
    x = torch.empty(2, 1536, 320)
    assert not is_faster(x, x, 8)
    assert not is_faster(x, x, 8)
    assert caplog.messages == ["attention over many tokens uses cuDNN, which is slower: no NVRTC"]
    op._runs_on.cache_clear()


def half(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float16)


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        (half(2, 9, 80), half(2, 100, 80), half(2, 100, 80), "got 100 tokens, expected a multiple of 96, at least 192"),
        (half(2, 9, 80), half(2, 96, 80), half(2, 96, 80), "got 96 tokens"),
        (half(2, 9, 96), half(2, 192, 80), half(2, 192, 80), r"got q as torch.float16 \[2, 9, 96\] on cpu, expected"),
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
