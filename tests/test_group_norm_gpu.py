"""The GroupNorm kernel compared with PyTorch, on a GPU."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from benchmarks.group_norm import SHAPES
from ldm.norm import GroupNorm
from plugins.group_norm.joined import group_norm_joined
from plugins.group_norm.layer import fuse_norms
from plugins.group_norm.op import group_norm
from tests.norm_maps import EPS, FORMATS, JOINED, ODD, SHIFTED, error, parts, tensors, torchs


def on_gpu(shape: tuple[int, int, int, int, int], memory: torch.memory_format, mean: float = 0.0) -> list[Tensor]:
    return [tensor.cuda() for tensor in tensors(*shape[:4], memory, mean)]


@pytest.mark.gpu
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize(
    ("shape", "silu"), [*((shape, True) for shape in (*SHAPES, *ODD)), *((shape, False) for shape in ODD)], ids=str
)
def test_the_kernel(shape: tuple[int, int, int, int, int], memory: torch.memory_format, silu: bool) -> None:
    x, weight, bias = on_gpu(shape, memory)
    options = shape[4], EPS, silu
    true = torchs(x.double(), weight.double(), bias.double(), *options)
    got = group_norm(x, weight, bias, *options)
    assert got.stride() == x.stride()
    assert error(got, true) <= 2 * error(torchs(x, weight, bias, *options), true)
    assert torch.equal(got, group_norm(x, weight, bias, *options)), "two runs differ"


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHIFTED, ids=str)
def test_a_shift(shape: tuple[int, int, int, int, int]) -> None:
    x, weight, bias = on_gpu(shape, torch.channels_last)
    options = shape[4], EPS, True
    shift = (3 * torch.randn(1, x.shape[1] + 8, generator=torch.Generator().manual_seed(0))).half().cuda()[:, 8:]
    true = torchs(x.double(), weight.double(), bias.double(), *options, shift.double())
    got = group_norm(x, weight, bias, *options, shift)
    assert error(got, true) <= 2 * error(torchs(x, weight, bias, *options, shift), true)


def bits(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous().view(torch.int16)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", JOINED, ids=str)
def test_two_maps(shape: tuple[int, int, int, int, int, int]) -> None:
    *sizes, groups = shape
    h, skip, residual, weight, bias = (one.cuda() for one in parts(*sizes))
    options = groups, EPS, True
    x, y = group_norm_joined(h, skip, residual, weight, bias, *options)
    assert torch.equal(bits(x), bits(torch.cat([h, skip + residual], dim=1)))
    true = torchs(x.double(), weight.double(), bias.double(), *options)
    assert error(y, true) <= 2 * error(torchs(x, weight, bias, *options), true)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, group_norm_joined(h, skip, residual, weight, bias, *options)[1]), "two runs differ"


@pytest.mark.gpu
def test_a_compiled_join_is_one_kernel() -> None:
    layer = GroupNorm(32, 960, EPS, silu=True).cuda().half().requires_grad_(False)
    h, skip, residual = (one.cuda() for one in parts(2, 640, 320, 32, 48)[:3])
    half = layer.join(h, skip, residual)
    true = deepcopy(layer).double()(half[0].double())
    fuse_norms(layer)
    assert torch.equal(layer.join(h, skip, residual)[1], half[1]), "the eager layer has changed"
    compiled = torch.compile(layer.join, fullgraph=True, dynamic=False)
    x, y = compiled(h, skip, residual)
    assert torch.equal(x, half[0])
    assert error(y, true) <= 2 * error(half[1], true)
    assert kernels(lambda: compiled(h, skip, residual)) == ["canny2image_group_norm"]
    assert error(compiled(h, skip, 0.0)[1], layer.join(h, skip, 0.0)[1].double()) < 2e-3, "without a residual"


def kernels(run: Callable[[], object]) -> list[str]:
    with torch.profiler.profile() as profile:
        run()
        torch.cuda.synchronize()
    return [event.name for event in profile.events() if event.device_type.name == "CUDA"]


@pytest.mark.gpu
def test_a_compiled_layer_is_one_kernel() -> None:
    layer = GroupNorm(32, 320, EPS, silu=True).cuda().half().requires_grad_(False)
    x, shift = (tensor.cuda() for tensor in tensors(2, 320, 32, 48, torch.channels_last)[::2])
    half = layer(x, shift[None])
    true = deepcopy(layer).double()(x.double(), shift[None].double())
    fuse_norms(layer)
    assert torch.equal(layer(x, shift[None]), half), "the eager layer has changed"
    compiled = torch.compile(layer, fullgraph=True)
    assert error(compiled(x, shift[None]), true) <= 2 * error(half, true)
    assert kernels(lambda: compiled(x, shift[None])) == ["canny2image_group_norm"]


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
@pytest.mark.parametrize("shape", [(2, 320, 32, 48, 32), (1, 128, 256, 384, 32)])  # one kernel, two kernels
def test_silu_of_large_values(shape: tuple[int, int, int, int, int]) -> None:
    """From 88 on, e^x is beyond the range of float32."""
    x, weight, bias = on_gpu(shape, torch.channels_last)
    weight *= 100
    options = shape[4], EPS, True
    true = torchs(x.double(), weight.double(), bias.double(), *options)
    got = group_norm(x, weight, bias, *options)
    assert error(got, true) <= 2 * error(torchs(x, weight, bias, *options), true)


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
    twice = torch.cat([weight, weight]), torch.cat([bias, bias])
    with pytest.raises(ValueError, match=r"group_norm_joined got residual as torch\.float16 \[1, 64, 4, 4\]"):
        group_norm_joined(x, x, x[:1], *twice, 8, EPS, True)
    with pytest.raises(ValueError, match=r"group_norm_joined got skip .* expected channels-last"):
        group_norm_joined(x, x.contiguous(), x, *twice, 8, EPS, True)
    with pytest.raises(ValueError, match="128 channels and 16 pixels in 3 groups"):
        group_norm_joined(x, x, x, *twice, 3, EPS, True)
