"""GroupNorm with SiLU: the op on the CPU, the compiler, the plugin, and the kernel against PyTorch on a GPU."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.group_norm import SHAPES
from ldm.norm import GroupNorm
from plugins.group_norm.compile import KernelError, Launch, compile_ptx, plan
from plugins.group_norm.layer import fuse_norms
from plugins.group_norm.op import group_norm, reference

ROOT = Path(__file__).resolve().parent.parent
EPS = 1e-5
FORMATS = [torch.channels_last, torch.contiguous_format]
# n, c, h, w, groups: no powers of two, groups that share a load, one pixel, a group wider than a block, many pixels
ODD = [
    (2, 320, 5, 7, 32),
    (1, 60, 9, 11, 6),
    (3, 33, 3, 5, 3),
    (1, 64, 1, 1, 8),
    (1, 8192, 3, 3, 1),
    (1, 8, 700, 300, 2),
]


SHIFTED = [(2, 320, 32, 48, 32), (2, 1280, 4, 6, 32), (1, 640, 16, 24, 32), (3, 96, 5, 7, 16), (1, 8, 300, 200, 2)]


def tensors(n: int, c: int, h: int, w: int, memory: torch.memory_format, mean: float = 0.0) -> list[Tensor]:
    """x, weight and bias, float16 on the CPU."""
    generator = torch.Generator().manual_seed(n + c + h + w)
    x = (mean + torch.randn(n, c, h, w, generator=generator)).half().contiguous(memory_format=memory)
    weight, bias = (torch.randn(c, generator=generator).half() for _ in range(2))
    return [x, weight + 1, bias]


def torchs(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool, shift: Tensor | None = None
) -> Tensor:
    y = F.group_norm(x if shift is None else x + shift[..., None, None], groups, weight, bias, eps)
    return F.silu(y) if silu else y


def error(got: Tensor, true: Tensor) -> float:
    assert got.shape == true.shape
    return float((got.double() - true).norm() / true.norm())


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("memory", FORMATS)
def test_the_reference_is_torchs(memory: torch.memory_format, silu: bool) -> None:
    x, weight, bias = (tensor.double() for tensor in tensors(2, 60, 5, 7, memory))
    for shift in (None, bias[None]):
        got = reference(x, weight, bias, 6, EPS, silu, shift)
        torch.testing.assert_close(got, torchs(x, weight, bias, 6, EPS, silu, shift))
        assert got.stride() == x.stride()


@pytest.mark.parametrize("memory", FORMATS)
def test_the_op_on_the_cpu(memory: torch.memory_format) -> None:
    x, weight, bias = tensors(2, 60, 5, 7, memory)
    options = 6, EPS, True
    got = torch.ops.canny2image.group_norm(x, weight, bias, *options)
    assert torch.equal(got, reference(x, weight, bias, *options))
    assert got.is_contiguous(memory_format=memory)
    assert got.dtype == torch.float16
    fake = group_norm(x.to("meta"), weight.to("meta"), bias.to("meta"), *options)
    assert (fake.shape, fake.stride(), fake.dtype) == (got.shape, got.stride(), got.dtype)
    torch.library.opcheck(group_norm, (x, weight, bias, *options))
    torch.library.opcheck(group_norm, (x, weight, bias, *options, bias[None]))


def test_the_constants_of_a_launch() -> None:
    def constants(launch: Launch) -> dict[str, int]:
        return {name: int(value) for name, value in launch.defines if name != "EPS"}

    launch = plan(2, 320, 1536, 32, EPS, True, channels_last=True, clusters=True)
    expected = {"VECTOR": 8, "SPAN": 40, "CLUSTER": 8, "CHANNELS_LAST": 1, "SILU": 1}
    assert constants(launch).items() >= expected.items(), "four groups of ten channels are five loads"
    assert launch.grid == (8, 8, 2)
    assert constants(plan(2, 320, 1536, 32, EPS, True, channels_last=True, clusters=False))["CLUSTER"] == 1
    assert constants(plan(1, 60, 99, 6, EPS, True, channels_last=True, clusters=True))["VECTOR"] == 4
    assert constants(plan(1, 60, 99, 6, EPS, True, channels_last=False, clusters=True))["VECTOR"] == 1
    assert constants(plan(1, 60, 99, 6, EPS, True, channels_last=True, clusters=True, shift=True))["SHIFT"] == 1
    with pytest.raises(ValueError, match="60 channels and 99 pixels in 7 groups"):
        plan(1, 60, 99, 7, EPS, True, channels_last=True, clusters=True)
    with pytest.raises(ValueError, match="a shift for groups of 10 channels, channels-last: False"):
        plan(1, 60, 99, 6, EPS, True, channels_last=False, clusters=True, shift=True)


@pytest.fixture(scope="module")
def nvrtc() -> None:
    """Skips where NVRTC is not there."""
    try:
        compile_ptx(plan(1, 8, 8, 1, EPS, False, channels_last=True, clusters=False).defines, 80)
    except KernelError as reason:
        if "cannot be loaded" not in str(reason):
            raise
        pytest.skip(str(reason))


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("architecture", [80, 90])
def test_the_kernel_compiles(architecture: int, channels_last: bool) -> None:
    for n, c, h, w, groups in [*SHAPES[::4], *ODD]:  # each takes a quarter of a second
        launch = plan(n, c, h * w, groups, EPS, True, channels_last, clusters=architecture >= 90)
        ptx = compile_ptx(launch.defines, architecture).decode()
        assert ".visible .entry group_norm(" in ptx
        assert f".target sm_{architecture}" in ptx
        assert (".reqnctapercluster" in ptx or ".explicitcluster" in ptx) == (launch.grid[0] > 1)


@pytest.mark.usefixtures("nvrtc")
def test_the_kernel_compiles_with_a_shift() -> None:
    for n, c, h, w, groups in SHIFTED:
        launch = plan(n, c, h * w, groups, EPS, True, channels_last=True, clusters=True, shift=True)
        assert compile_ptx(launch.defines, 90)


@pytest.mark.usefixtures("nvrtc")
def test_a_compilers_refusal_brings_its_log() -> None:
    with pytest.raises(KernelError, match=r"(?s)NVRTC_ERROR_COMPILATION.*no whole groups or warps"):
        compile_ptx((*plan(1, 8, 8, 1, EPS, False, True, False).defines, ("CHANNELS", "9")), 80)


def on_gpu(shape: tuple[int, int, int, int, int], memory: torch.memory_format, mean: float = 0.0) -> list[Tensor]:
    return [tensor.cuda() for tensor in tensors(*shape[:4], memory, mean)]


@pytest.mark.gpu
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("shape", [*SHAPES, *ODD], ids=str)
def test_the_kernel(shape: tuple[int, int, int, int, int], memory: torch.memory_format, silu: bool) -> None:
    x, weight, bias = on_gpu(shape, memory)
    options = shape[4], EPS, silu
    true = torchs(x.double(), weight.double(), bias.double(), *options)
    got = group_norm(x, weight, bias, *options)
    assert got.stride() == x.stride()
    assert error(got, true) <= 2 * error(torchs(x, weight, bias, *options), true)
    assert torch.equal(got, group_norm(x, weight, bias, *options)), "the same in every run"


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHIFTED, ids=str)
def test_a_shift(shape: tuple[int, int, int, int, int]) -> None:
    x, weight, bias = on_gpu(shape, torch.channels_last)
    options = shape[4], EPS, True
    shift = (3 * torch.randn(1, x.shape[1] + 8, generator=torch.Generator().manual_seed(0))).half().cuda()[:, 8:]
    true = torchs(x.double(), weight.double(), bias.double(), *options, shift.double())
    got = group_norm(x, weight, bias, *options, shift)
    assert error(got, true) <= 2 * error(torchs(x, weight, bias, *options, shift), true)


@pytest.mark.gpu
def test_a_compiled_layer_is_one_kernel() -> None:
    layer = GroupNorm(32, 320, EPS, silu=True).cuda().half().requires_grad_(False)
    x, shift = (tensor.cuda() for tensor in tensors(2, 320, 32, 48, torch.channels_last)[::2])
    half = layer(x, shift[None])
    true = deepcopy(layer).double()(x.double(), shift[None].double())
    fuse_norms(layer)
    assert torch.equal(layer(x, shift[None]), half), "as it was, where nothing is compiled"
    compiled = torch.compile(layer, fullgraph=True)
    assert error(compiled(x, shift[None]), true) <= 2 * error(half, true)
    with torch.profiler.profile() as profile:
        compiled(x, shift[None])
        torch.cuda.synchronize()
    kernels = [event.name for event in profile.events() if event.device_type.name == "CUDA"]
    assert kernels == ["group_norm"]


@pytest.mark.gpu
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("shape", [(2, 320, 32, 48, 32), (1, 128, 256, 384, 32)])
def test_large_means(shape: tuple[int, int, int, int, int], memory: torch.memory_format) -> None:
    x, weight, bias = on_gpu(shape, memory, mean=100.0)
    options = shape[4], EPS, True
    true = torchs(x.double(), weight.double(), bias.double(), *options)
    got = group_norm(x, weight, bias, *options)
    assert error(got, true) <= 2 * error(torchs(x, weight, bias, *options), true)
    assert error(got, true) < 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("memory", FORMATS)
def test_a_recorded_kernel_sees_new_values(memory: torch.memory_format) -> None:
    x, weight, bias = on_gpu((2, 320, 32, 48, 32), memory)
    group_norm(x, weight, bias, 32, EPS, True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = group_norm(x, weight, bias, 32, EPS, True)
    x.copy_(2 + x.flip(1))
    graph.replay()
    assert torch.equal(y, group_norm(x, weight, bias, 32, EPS, True))


@pytest.mark.gpu
def test_a_gpus_refusals() -> None:
    x, weight, bias = on_gpu((2, 64, 4, 4, 8), torch.channels_last)
    with pytest.raises(ValueError, match=r"shift as .* \[64\] .*, expected contiguous torch.float16 \[1, 64\]"):
        group_norm(x, weight, bias, 8, EPS, True, bias)
    with pytest.raises(ValueError, match=r"weight as torch\.float32"):
        group_norm(x, weight.float(), bias, 8, EPS, True)
    with pytest.raises(ValueError, match="expected channels-last or contiguous maps"):
        group_norm(x.transpose(2, 3)[:, :, ::2], weight, bias, 8, EPS, True)
    with pytest.raises(ValueError, match="64 channels and 16 pixels in 7 groups"):
        group_norm(x, weight, bias, 7, EPS, True)
