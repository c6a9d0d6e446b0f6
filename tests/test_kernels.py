"""Our kernels against PyTorch: at most twice the error that its own half precision has."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA alone")
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
    from plugins.convolution import convolution_parts

    n, h, w = size
    x, weight = random((n, h, w, channels)), random((out_channels, 3, 3, channels), (9 * channels) ** -0.5)
    maps, filters = x.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2)
    true = F.conv2d(maps.double(), filters.double(), stride=stride, padding=1).permute(0, 2, 3, 1)
    half = F.conv2d(maps, filters, stride=stride, padding=1).permute(0, 2, 3, 1)
    for parts in (1, 4, 13):
        got = convolution_parts(x, weight, stride, parts)
        assert got.shape == (parts, *true.shape)
        assert error(got.sum(dim=0).half(), true) <= 2 * error(half, true)
        assert torch.equal(got, convolution_parts(x, weight, stride, parts)), "the same in every run"


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("shifts", [0, 1, 2])
@pytest.mark.parametrize(
    ("parts", "pixels", "channels", "groups"),
    [
        (1, 24, 2560, 32),
        (13, 24, 1280, 32),
        (8, 96, 1280, 32),
        (1, 96, 1920, 32),
        (1, 384, 640, 32),
        (1, 384, 1920, 32),
        (4, 384, 640, 32),
        (1, 1536, 320, 32),
        (1, 1536, 960, 32),
        (1, 1531, 320, 32),
        (1, 98304, 128, 32),
        (1, 1536, 32, 16),
        (1, 5000, 24, 8),
    ],
)
def test_group_norm(parts: int, pixels: int, channels: int, groups: int, shifts: int, silu: bool) -> None:
    from plugins.normalization import group_norm

    x = random((parts, 2, pixels, channels), 3.0) + 5
    x = x if parts == 1 else x.float()
    shift = random((shifts, channels)) if shifts else None
    lacking = random((channels,), 2.0) if shifts == 1 else None
    weight, bias = random((channels,)), random((channels,), 0.5)

    def plain(dtype: torch.dtype) -> Tensor:
        total = x.to(dtype).sum(dim=0)
        for more in (lacking, None if shift is None else shift[:, None]):
            total = total if more is None else total + more.to(dtype)
        y = F.group_norm(total.transpose(1, 2), groups, weight.to(dtype), bias.to(dtype), 1e-5).transpose(1, 2)
        return F.silu(y) if silu else y

    got = group_norm(x, lacking, shift, weight, bias, groups, 1e-5, silu)
    assert error(got, plain(torch.float64)) <= 2 * error(plain(torch.float16), plain(torch.float64))
    assert torch.equal(got, group_norm(x, lacking, shift, weight, bias, groups, 1e-5, silu)), "the same in every run"


def test_a_convolution_that_leaves_the_gpu_idle_is_cut() -> None:
    from plugins.convolution import parts_for

    assert parts_for(2 * 4 * 6, 1280, 1280) == 13
    assert parts_for(2 * 8 * 12, 2560, 1280) == 8
    assert parts_for(2 * 16 * 24, 640, 640) == 4
    assert parts_for(2 * 16 * 24, 1920, 640) == 0, "cuDNN is faster"
    assert parts_for(2 * 32 * 48, 320, 320) == 0, "it fills the GPU whole"
    assert parts_for(2 * 4 * 6, 96, 128) == 0, "no whole tiles"
