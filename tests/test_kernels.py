"""The error of our kernels is at most twice the error of PyTorch's half-precision kernels."""

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")
pytestmark = pytest.mark.gpu

MAPS = [(2, 4, 6), (2, 8, 12), (2, 16, 24), (1, 5, 7), (3, 8, 8)]


def random(shape: Sequence[int], scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return scale * torch.randn(*shape, generator=generator).half().cuda()


def error(got: Tensor, true: Tensor) -> float:
    assert got.shape == true.shape
    return float((got.double() - true).norm() / true.norm())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "out_channels"), [(1280, 1280), (2560, 1280), (640, 640), (64, 128)])
@pytest.mark.parametrize("size", MAPS)
def test_convolution(size: tuple[int, int, int], channels: int, out_channels: int, stride: int) -> None:
    from plugins.split_k_kernel import convolution_parts

    n, h, w = size
    x, weight = random((n, h, w, channels)), random((out_channels, 3, 3, channels), (9 * channels) ** -0.5)
    maps, filters = x.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2)
    true = F.conv2d(maps.double(), filters.double(), stride=stride, padding=1).permute(0, 2, 3, 1)
    half = F.conv2d(maps, filters, stride=stride, padding=1).permute(0, 2, 3, 1)
    for parts in (1, 4, 13):
        got = convolution_parts(x, weight, stride, parts)
        assert got.shape == (parts, *true.shape)
        assert error(got.sum(dim=0).half(), true) <= 2 * error(half, true)
        assert torch.equal(got, convolution_parts(x, weight, stride, parts)), "two runs differ"


@pytest.mark.parametrize("stride", [1, 2])
def test_a_compiled_layer_is_split(stride: int) -> None:
    from plugins.split_k_convolution import SplitKConv2d, split_convolutions

    torch.manual_seed(0)
    layer = nn.Conv2d(1280, 1280, 3, stride, padding=1).cuda().half().requires_grad_(False)
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    x = random((2, 1280, 8, 12))
    half = layer(x)
    true = deepcopy(layer).double()(x.double())
    split_convolutions(layer)
    assert isinstance(layer, SplitKConv2d)
    assert torch.equal(layer(x), half), "the eager layer has changed"
    compiled = torch.compile(layer, fullgraph=True)
    assert error(compiled(x), true) <= 2 * error(half, true)
    with torch.profiler.profile() as profile:
        compiled(x)
    assert "_convolution" in {event.name for event in profile.events()}


def test_a_convolution_that_leaves_the_gpu_idle_is_split() -> None:
    from plugins.split_k_tiles import parts_choice

    assert parts_choice(2 * 4 * 6, 1280, 1280).otherwise == 13
    assert parts_choice(2 * 8 * 12, 2560, 1280).otherwise == 8
    assert parts_choice(2 * 16 * 24, 640, 640).otherwise == 4
    assert parts_choice(2 * 16 * 24, 1280, 640).otherwise == 4
    assert parts_choice(2 * 16 * 24, 320, 640).otherwise == 0, "adding the parts would cost what splitting gains"
    assert parts_choice(2 * 16 * 24, 1920, 640).otherwise == 0, "cuDNN is faster"
    assert parts_choice(2 * 32 * 48, 320, 320).otherwise == 0, "the convolution already fills the GPU"
    assert parts_choice(2 * 4 * 6, 96, 128).otherwise == 0, "the sizes are not whole tiles"
