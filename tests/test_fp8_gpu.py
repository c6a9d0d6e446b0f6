"""The kernels of precision fp8 compared with PyTorch, on a Hopper GPU."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")

from benchmarks.convolution import SD15, SKIPS
from benchmarks.group_norm import SHAPES
from build.workers import compile_stage
from cldm.compiled_files import Compiled
from cldm.engine_files import Target
from plugins.convolution.compile import ConvolutionKernel
from plugins.convolution.op import convolution, convolution_skip, run
from plugins.convolution.tiles import Sizes, Tile, candidates
from plugins.group_norm.joined import group_norm_joined
from plugins.group_norm.joined import reference as joined_reference
from plugins.group_norm.op import FP8, group_norm, reference
from tests.hopper import check, check_at_the_same_time, check_in_a_graph, needs_hopper
from tests.norm_maps import EPS, FORMATS, JOINED, ODD, SHIFTED, parts, tensors

pytestmark = [pytest.mark.gpu, needs_hopper]

SMALL = [Sizes(2, 4, 6, 96, 96), Sizes(2, 8, 12, 160, 96), Sizes(2, 32, 48, 32, 32), Sizes(1, 5, 7, 16, 32)]
UNEVEN = Sizes(3, 9, 11, 80, 104, fp8=True)
ODD_MAPS = [Sizes(1, 5, 7, 128, 64), Sizes(3, 9, 11, 64, 192), Sizes(2, 1, 1, 128, 128), Sizes(16, 4, 6, 256, 128)]


def random(*shape: int) -> Tensor:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).cuda()
    return tensor.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else tensor


def inputs(sizes: Sizes) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return x and weight, e4m3, and scales, bias and residual."""
    n, h, w, channels, outs = sizes.n, sizes.h, sizes.w, sizes.channels, sizes.outs
    scales = (random(outs).abs() + 0.5) * (9 * channels) ** -0.5 / 32
    x, weight = (8 * random(n, channels, h, w)).to(FP8), (4 * random(outs, channels, 3, 3)).to(FP8)
    return x, weight, scales, random(outs).half(), random(n, outs, h, w).half()


def exact(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor) -> Tensor:
    sums = F.conv2d(x.double(), weight.double(), padding=1)
    return sums * scales.double()[:, None, None] + bias.double()[:, None, None]


def torchs(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution by cuBLAS's e4m3 product, which adds like the kernel: in tensor cores."""
    n, _, h, w = x.shape
    rows = F.unfold(x.float(), 3, padding=1).transpose(1, 2).flatten(0, 1).contiguous().to(FP8)
    one = torch.ones((), device="cuda")
    sums = torch._scaled_mm(rows, weight.float().flatten(1).to(FP8).t(), one, one, None, None, torch.float32, True)
    return (sums * scales + bias).half().view(n, h, w, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("sizes", [*SD15, *SMALL, *ODD_MAPS], ids=str)
def test_the_convolution(sizes: Sizes) -> None:
    x, weight, scales, bias, residual = inputs(sizes)
    got = convolution(x, weight, bias, residual, scales=scales)
    assert got.is_contiguous(memory_format=torch.channels_last)
    tensors = x, weight, scales, bias
    check(got, torchs(*tensors) + residual, exact(*tensors) + residual.double())
    assert all(torch.equal(got, convolution(x, weight, bias, residual, scales=scales)) for _ in range(20))
    check(
        convolution(x, weight, scales=scales), torchs(x, weight, scales, 0 * bias), exact(x, weight, scales, 0 * bias)
    )


@pytest.mark.parametrize("sizes", [*SKIPS, Sizes(2, 32, 48, 32, 32, 96), Sizes(3, 9, 11, 64, 192, 40)], ids=str)
def test_a_skip_connection(sizes: Sizes) -> None:
    x, weight, scales, bias, _ = inputs(sizes)
    extra = random(sizes.n, sizes.extra, sizes.h, sizes.w).half()
    extra_weight = (random(sizes.outs, sizes.extra, 1, 1) * sizes.extra**-0.5).half()
    got = convolution_skip(x, weight, bias, extra, extra_weight, bias, scales=scales)
    half = F.conv2d(extra, extra_weight, bias)
    true = F.conv2d(extra.double(), extra_weight.double(), bias.double())
    check(got, torchs(x, weight, scales, bias) + half, exact(x, weight, scales, bias) + true)


@pytest.mark.parametrize("tile", candidates(UNEVEN), ids=str)
def test_nothing_else_is_written(tile: Tile) -> None:
    """Memory before and after the result stays, and its own is written whole, with each tile."""
    sizes = UNEVEN
    x, weight, scales, bias, _ = inputs(sizes)
    size = sizes.n, sizes.h, sizes.w, sizes.outs
    memory = torch.full((2**20 + math.prod(size),), math.nan, dtype=torch.float16, device="cuda")
    result = memory[2**19 : -(2**19)].view(size)
    run(ConvolutionKernel(sizes, tile, bias=True, residual=False), x, weight, bias, None, result, scales=scales)
    assert memory[: 2**19].isnan().all()
    assert memory[-(2**19) :].isnan().all()
    torch.testing.assert_close(
        result.permute(0, 3, 1, 2).double(), exact(x, weight, scales, bias), rtol=0.02, atol=0.02
    )


def test_at_the_same_time() -> None:
    cases = []
    for sizes in (SD15[0], SD15[2], SD15[-1]):
        x, weight, scales, bias, residual = inputs(sizes)
        cases.append((x, weight, bias, residual, 1, scales))
    check_at_the_same_time(convolution, cases)


def test_in_a_graph() -> None:
    x, weight, scales, bias, residual = inputs(SD15[0])

    def op(residual: Tensor, *others: Tensor) -> Tensor:
        return convolution(*others[:3], residual, scales=scales)

    check_in_a_graph(op, residual, x, weight, bias)


def same(got: Tensor, true: Tensor) -> None:
    """Equal but for results between two e4m3 numbers, which an error of float32 may round to the other."""
    assert (got.dtype, got.stride()) == (FP8, true.stride())
    differ = got.float() != true.float()
    assert float(differ.float().mean()) < 0.001
    torch.testing.assert_close(got.float(), true.float(), rtol=2**-3, atol=2**-9)


@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("shape", [*SHAPES, *ODD], ids=str)
def test_the_norm(shape: tuple[int, int, int, int, int], memory: torch.memory_format) -> None:
    x, weight, bias = (tensor.cuda() for tensor in tensors(*shape[:4], memory))
    options = shape[4], EPS, True
    same(group_norm(x, weight, bias, *options, fp8=True), reference(x, weight, bias, *options, fp8=True))


@pytest.mark.parametrize("shape", SHIFTED, ids=str)
def test_a_norm_with_a_shift(shape: tuple[int, int, int, int, int]) -> None:
    x, weight, bias = (tensor.cuda() for tensor in tensors(*shape[:4], torch.channels_last))
    arguments = x, weight, bias, shape[4], EPS, True, random(1, x.shape[1]).half(), True
    same(group_norm(*arguments), reference(*arguments))


@pytest.mark.parametrize("shape", JOINED, ids=str)
def test_a_norm_of_two_maps(shape: tuple[int, int, int, int, int, int]) -> None:
    *sizes, groups = shape
    tensors = [one.cuda() for one in parts(*sizes)]
    arguments: tuple[Any, ...] = *tensors, groups, EPS, True, True
    (x, got), (joined, true) = group_norm_joined(*arguments), joined_reference(*arguments)
    assert torch.equal(x, joined)
    same(got, true)


def test_a_stage_uses_the_kernels() -> None:
    result = compile_stage(Target("small", 256, 384, 1, "fp8"), "decoder", "cuda", {})
    names = " ".join(Compiled({}, result.compiled.kernel, {}).kernel)
    assert "fp8=True" in names
    assert "'FP8': '8'" in names
