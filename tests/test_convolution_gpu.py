"""The convolution kernel compared with PyTorch, on a Hopper GPU."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")

from benchmarks.convolution import SD15, SHAPES, SKIPS, STRIDES, UPSAMPLINGS, plain_skip
from cldm.compiled_files import Compiled
from cldm.tricks.time_table import move_biases
from ldm.blocks import ResBlock, Upsample
from plugins.convolution.compile import ConvolutionKernel
from plugins.convolution.layer import FusedConv2d, FusedUpsample, fuse_convolutions
from plugins.convolution.op import convolution, convolution_skip, run, upsampled_convolution
from plugins.convolution.padded import PaddedConv2d
from plugins.convolution.tiles import Sizes, Tile, candidates, choose
from plugins.hopper import compile as compilation
from plugins.hopper import launch
from plugins.hopper.compile import Kernel
from plugins.machine_code import KERNELS
from plugins.phase_upsampling import phase_kernels, upsample_in_phases
from plugins.split_k_convolution import split_convolutions
from tests.convolutions import ODD, UNEVEN
from tests.hopper import check, check_at_the_same_time, check_in_a_graph, needs_hopper

NAME = ConvolutionKernel.NAME

pytestmark = [pytest.mark.gpu, needs_hopper]


def random(*shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    tensor = (scale * torch.randn(shape, generator=generator)).half().cuda()
    return tensor.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else tensor


def inputs(sizes: Sizes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x, weight, bias and residual."""
    n, h, w, channels, outs = sizes.n, sizes.h, sizes.w, sizes.channels, sizes.outs
    weight = random(outs, channels, 3, 3, scale=(9 * channels) ** -0.5)
    x = random(n, channels, sizes.stride * h, sizes.stride * w)
    return x, weight, random(outs), random(n, outs, h, w)


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    y = F.conv2d(x, weight, bias, padding=1)
    return y if residual is None else residual + y


@pytest.mark.parametrize("sizes", [*SHAPES, *ODD, *UNEVEN], ids=str)
def test_the_kernel(sizes: Sizes) -> None:
    tensors = inputs(sizes)
    got = convolution(*tensors)
    assert got.is_contiguous(memory_format=torch.channels_last)
    check(got, plain(*tensors), plain(*(tensor.double() for tensor in tensors)))
    assert all(torch.equal(got, convolution(*tensors)) for _ in range(20)), "two runs differ"


@pytest.mark.parametrize("sizes", [*STRIDES, *ODD, *UNEVEN], ids=str)
def test_a_stride(sizes: Sizes) -> None:
    """Of maps with an even or odd number of rows and columns."""
    tensors = inputs(sizes)[:3]
    got = convolution(*tensors, stride=2)
    assert got.is_contiguous(memory_format=torch.channels_last)
    x, weight, bias = tensors
    true = F.conv2d(x.double(), weight.double(), bias.double(), stride=2, padding=1)
    check(got, F.conv2d(*tensors, stride=2, padding=1), true)
    assert all(torch.equal(got, convolution(*tensors, stride=2)) for _ in range(20)), "two runs differ"


@pytest.mark.parametrize("sizes", [SD15[0], SD15[-1], UNEVEN[0], UNEVEN[2]], ids=str)
@pytest.mark.parametrize(("bias", "residual"), [(False, False), (True, False), (False, True)])
def test_without_bias_or_residual(sizes: Sizes, bias: bool, residual: bool) -> None:
    x, weight, *others = inputs(sizes)
    some = [tensor if used else None for tensor, used in zip(others, (bias, residual), strict=True)]
    double = [None if tensor is None else tensor.double() for tensor in some]
    check(convolution(x, weight, *some), plain(x, weight, *some), plain(x.double(), weight.double(), *double))


# Each tile once, with channels beyond the last, and the chosen one for further sizes.
EACH_TILE = [
    (sizes, tile)
    for sizes in (Sizes(3, 9, 11, 72, 104), Sizes(3, 9, 11, 72, 104, taps=2), Sizes(3, 9, 11, 72, 104, stride=2))
    for tile in candidates(sizes)
    if tile.parts != 2
]


@pytest.mark.parametrize(
    ("sizes", "tile"), [*((one, choose(one)) for one in (SD15[2], *ODD, *UNEVEN)), *EACH_TILE], ids=str
)
def test_nothing_else_is_written(sizes: Sizes, tile: Tile) -> None:
    """Memory before and after the result stays, and its own is written whole."""
    x, weight, bias, _ = inputs(sizes)
    true = F.conv2d(x.float(), weight.float(), bias.float(), sizes.stride, padding=1)
    scale = 1
    if sizes.taps == 2:
        true = F.conv2d(F.interpolate(x.float(), scale_factor=2.0), weight.float(), bias.float(), padding=1)
        weight, scale = phase_kernels(weight), 2
    size = sizes.n, scale * sizes.h, scale * sizes.w, sizes.outs
    memory = torch.full((2**20 + math.prod(size),), math.nan, dtype=torch.float16, device="cuda")
    result = memory[2**19 : -(2**19)].view(size)
    run(ConvolutionKernel(sizes, tile, bias=True, residual=False), x, weight, bias, None, result)
    torch.testing.assert_close(result.permute(0, 3, 1, 2).float(), true, atol=0.02, rtol=0.02)
    assert memory[: 2**19].isnan().all()
    assert memory[-(2**19) :].isnan().all()


def with_skip(sizes: Sizes) -> tuple[Tensor, ...]:
    """Return x, weight and bias, and a further map with weight and bias of its 1x1 convolution."""
    x, weight, bias, _ = inputs(sizes)
    extra = random(sizes.n, sizes.extra, sizes.h, sizes.w)
    return x, weight, bias, extra, random(sizes.outs, sizes.extra, 1, 1, scale=sizes.extra**-0.5), 2 * bias


@pytest.mark.parametrize(
    "sizes", [*SKIPS, *(replace(one, extra=320) for one in ODD), *(replace(one, extra=104) for one in UNEVEN)], ids=str
)
def test_with_the_convolution_of_a_skip_connection(sizes: Sizes) -> None:
    tensors = with_skip(sizes)
    got = convolution_skip(*tensors)
    assert got.is_contiguous(memory_format=torch.channels_last)
    check(got, plain_skip(*tensors), plain_skip(*(tensor.double() for tensor in tensors)))
    assert all(torch.equal(got, convolution_skip(*tensors)) for _ in range(20)), "two runs differ"


def test_a_skip_connection_in_a_graph() -> None:
    check_in_a_graph(convolution_skip, *with_skip(SKIPS[0]))


@pytest.mark.parametrize("sizes", [*UPSAMPLINGS, *ODD, *UNEVEN], ids=str)
def test_an_upsampling(sizes: Sizes) -> None:
    x, weight, bias, _ = inputs(sizes)
    layer = Upsample(sizes.channels).cuda().half().requires_grad_(False)
    layer.conv.weight, layer.conv.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
    got = upsampled_convolution(x, phase_kernels(weight), bias)
    assert got.is_contiguous(memory_format=torch.channels_last)
    half = layer(x)
    check(got, half, layer.double()(x.double()))
    assert all(torch.equal(got, upsampled_convolution(x, phase_kernels(weight), bias)) for _ in range(20))


def test_two_streams() -> None:
    """Kernels that run at the same time, with clusters and more programs than fit, end, and compute the same."""
    cases = [inputs(sizes) for sizes in (SD15[0], SD15[2], SD15[7], SHAPES[len(SD15) + 1])]
    check_at_the_same_time(convolution, cases)


def test_in_a_graph() -> None:
    check_in_a_graph(convolution, *inputs(SD15[5]))


def kernels(run: Callable[[], object]) -> list[str]:
    with torch.profiler.profile() as profile:
        run()
        torch.cuda.synchronize()
    return [event.name for event in profile.events() if event.device_type.name == "CUDA"]


def fused(module: nn.Module) -> nn.Module:
    split_convolutions(module)
    fuse_convolutions(module)
    return module


@pytest.mark.parametrize(
    ("channels", "outs", "size"),
    [
        (1280, 1280, (4, 6)),
        (2560, 1280, (4, 6)),
        (960, 640, (16, 24)),
        (320, 320, (32, 48)),
        (96, 96, (4, 6)),
        (96, 32, (32, 48)),
    ],
)
def test_a_compiled_block(channels: int, outs: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = ResBlock(channels, outs, 64, 16).cuda().half().requires_grad_(False)
    block = block.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    move_biases(block)
    x, shift = random(2, channels, *size), random(2, outs)
    true, half = deepcopy(block).double()(x.double(), shift.double()), block(x, shift)
    fused(block)
    assert isinstance(block.last_convolution, FusedConv2d)
    assert torch.equal(block(x, shift), half), "the eager block has changed"
    compiled = torch.compile(block, fullgraph=True, dynamic=False)
    check(compiled(x, shift), half, true)
    found = kernels(lambda: compiled(x, shift))
    assert found.count(NAME) == 2
    assert not any("gemm" in name or "nvjet" in name for name in found), "the skip connection has a kernel of its own"


@pytest.mark.parametrize("channels", [640, 96])
def test_a_compiled_upsampling(channels: int) -> None:
    torch.manual_seed(0)
    plain = Upsample(channels).cuda().half().requires_grad_(False)
    plain = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layer, x = deepcopy(plain), random(2, channels, 16, 24)
    upsample_in_phases(layer)
    fused(layer)
    assert isinstance(layer, FusedUpsample)
    compiled = torch.compile(layer, fullgraph=True, dynamic=False)
    check(compiled(x), plain(x), deepcopy(plain).double()(x.double()))
    assert kernels(lambda: compiled(x)) == [NAME]


@pytest.mark.parametrize(("outs", "bias"), [(4, True), (3, False)])
def test_few_output_channels(outs: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = fused(nn.Conv2d(320, outs, 3, padding=1, bias=bias).cuda().half().requires_grad_(False))
    assert isinstance(layer, PaddedConv2d)
    compiled, x = torch.compile(layer, fullgraph=True, dynamic=False), random(2, 320, 32, 48)
    check(compiled(x), layer(x), deepcopy(layer).double()(x.double()))
    assert kernels(lambda: compiled(x)) == [NAME]


@pytest.mark.parametrize(("channels", "outs", "bias"), [(4, 320, True), (3, 16, False)])
def test_few_input_channels(channels: int, outs: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = fused(nn.Conv2d(channels, outs, 3, padding=1, bias=bias).cuda().half().requires_grad_(False))
    assert isinstance(layer, PaddedConv2d)
    compiled = torch.compile(layer, fullgraph=True, dynamic=False)
    for seed in (0, 1):
        x = random(1, channels, 32, 48)
        check(compiled(x), layer(x), deepcopy(layer).double()(x.double()))
        layer.weight.data.normal_(generator=torch.Generator("cuda").manual_seed(seed))
        layer.derive()
    found = kernels(lambda: compiled(x))
    assert len(found) == 2, "one fills up the channels"
    assert found[1] == NAME


@pytest.mark.parametrize(("channels", "stride"), [(100, 1), (320, 4), (4, 2)])
def test_other_layers_do_not_use_the_kernel(channels: int, stride: int) -> None:
    layer = fused(nn.Conv2d(channels, 320, 3, stride, padding=1).cuda().half().requires_grad_(False))
    x = random(2, channels, 16, 24)
    compiled = torch.compile(layer, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x), layer(x), atol=0.02, rtol=0.02)
    assert NAME not in kernels(lambda: compiled(x))


def test_from_engine_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has loaded engine files does not compile."""
    tensors = inputs(SD15[3])
    KERNELS.clear()
    launch._load.cache_clear()
    expected = convolution(*tensors)
    parts = Compiled({}, dict(KERNELS), {}).parts
    KERNELS.clear()
    launch._load.cache_clear()

    def fail(kernel: Kernel) -> bytes:
        raise AssertionError("compiled")

    monkeypatch.setattr(compilation, "compile_kernel", fail)
    Compiled.of(parts).load(torch.device("cuda"))
    assert torch.equal(convolution(*tensors), expected)
