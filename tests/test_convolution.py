"""The tiles of convolutions, and which layers use the kernel; tests/test_convolution_gpu.py runs it."""

import logging
from dataclasses import replace
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ldm.blocks import AddedConv2d
from plugins.convolution.op import _check, convolution, convolution_skip, upsampled_convolution
from plugins.convolution.tiles import FP8_TILES, PARTS, PHASE_TILES, STRIDE_TILES, TILES, Sizes, Tile, choose, fits
from plugins.derived import Derives
from plugins.nvrtc import KernelError
from plugins.phase_upsampling import phase_kernels
from tests.convolutions import ODD, UNEVEN, emulate

# The tiles with the lowest times on an H200 (of several within 3%, one), by pixels and channels, for two maps.
FASTEST = {
    ((4, 6), 1280, 1280): Tile(4, 2, 8, 64, 6, 4),
    ((4, 6), 2560, 1280): Tile(4, 2, 8, 64, 6, 4),
    ((8, 12), 640, 1280): Tile(8, 2, 4, 128, 3, 4),
    ((8, 12), 1280, 1280): Tile(8, 2, 4, 128, 3, 4),
    ((8, 12), 2560, 1280): Tile(8, 2, 4, 128, 3, 4),
    ((16, 24), 320, 640): Tile(16, 1, 8, 64, 4, 2),
    ((16, 24), 640, 640): Tile(16, 1, 8, 64, 4, 2),
    ((16, 24), 1280, 640): Tile(16, 2, 8, 64, 3, 4),
    ((16, 24), 1920, 640): Tile(16, 2, 8, 64, 3, 4),
    ((16, 24), 1280, 1280): Tile(16, 2, 8, 64, 3, 2),
    ((32, 48), 640, 320): Tile(16, 1, 8, 64, 4, 1),
    ((32, 48), 960, 320): Tile(16, 1, 8, 64, 4, 1),
    ((16, 16), 1280, 1280): Tile(16, 1, 16, 64, 3, 2),
    ((32, 32), 640, 640): Tile(16, 1, 16, 64, 3, 1),
}


@pytest.mark.parametrize("key", FASTEST, ids=str)
def test_the_fastest_tile_is_chosen(key: tuple[tuple[int, int], int, int]) -> None:
    size, channels, outs = key
    assert choose(Sizes(2, *size, channels, outs)) == FASTEST[key]


# Those of two maps with a further one, by pixels, channels and the further map's channels.
FASTEST_WITH_SKIP = {
    ((4, 6), 1280, 2560): Tile(4, 2, 8, 64, 6, 4),
    ((8, 12), 1280, 640): Tile(8, 2, 4, 128, 3, 4),
    ((8, 12), 1280, 1920): Tile(8, 2, 4, 128, 3, 4),
    ((16, 24), 640, 320): Tile(16, 1, 8, 64, 4, 2),
    ((16, 24), 640, 960): Tile(16, 1, 8, 64, 4, 2),
    ((16, 24), 640, 1280): Tile(16, 1, 8, 64, 4, 2),
    ((16, 24), 640, 1920): Tile(16, 1, 8, 64, 4, 2),
    ((32, 48), 320, 640): Tile(16, 1, 8, 64, 4, 1),
    ((32, 48), 320, 960): Tile(16, 1, 8, 64, 4, 1),
}


@pytest.mark.parametrize("key", FASTEST_WITH_SKIP, ids=str)
def test_the_fastest_tile_with_a_skip_connection_is_chosen(key: tuple[tuple[int, int], int, int]) -> None:
    size, channels, extra = key
    assert choose(Sizes(2, *size, channels, channels, extra)) == FASTEST_WITH_SKIP[key]


# Those of eight and four pictures.
FASTEST_OF_SEVERAL = {
    Sizes(16, 8, 12, 640, 1280): Tile(8, 4, 4, 64, 4, 1),
    Sizes(16, 8, 12, 2560, 1280): Tile(8, 4, 4, 64, 4, 1),
    Sizes(16, 8, 12, 1280, 1280, 640): Tile(8, 4, 4, 64, 4, 1),
    Sizes(16, 4, 6, 1280, 1280): Tile(4, 4, 8, 64, 4, 1),
    Sizes(8, 8, 12, 1920, 1280): Tile(8, 4, 4, 64, 4, 1),
    Sizes(8, 4, 6, 1280, 1280): Tile(4, 4, 8, 64, 4, 2),
    Sizes(16, 16, 24, 640, 640): Tile(16, 2, 8, 64, 3, 1),
    Sizes(16, 8, 12, 1280, 1280, taps=2): Tile(8, 4, 4, 128, 3, 1, taps=2),
}


@pytest.mark.parametrize("sizes", FASTEST_OF_SEVERAL, ids=str)
def test_the_fastest_tile_of_several_pictures_is_chosen(sizes: Sizes) -> None:
    assert choose(sizes) == FASTEST_OF_SEVERAL[sizes]
    assert fits(sizes)


# Those of e4m3.
FASTEST_FP8 = {
    Sizes(2, 4, 6, 1280, 1280): Tile(4, 2, 8, 64, 6, 4),
    Sizes(2, 4, 6, 1280, 1280, 2560): Tile(4, 2, 8, 64, 6, 4),
    Sizes(2, 8, 12, 640, 1280): Tile(8, 2, 4, 128, 3, 4),
    Sizes(2, 8, 12, 2560, 1280): Tile(8, 2, 4, 128, 3, 4),
    Sizes(2, 8, 12, 1280, 1280, 1920): Tile(8, 2, 4, 128, 3, 4),
    Sizes(2, 16, 24, 320, 640): Tile(4, 2, 8, 64, 6, 1),
    Sizes(2, 16, 24, 1280, 640): Tile(16, 1, 8, 64, 4, 2),
    Sizes(2, 32, 48, 960, 320): Tile(16, 1, 8, 64, 4, 1),
    Sizes(16, 4, 6, 1280, 1280): Tile(4, 4, 8, 64, 4, 1),
    Sizes(16, 8, 12, 1280, 1280): Tile(8, 4, 4, 64, 4, 1),
    Sizes(16, 16, 24, 1280, 640): Tile(16, 2, 8, 64, 3, 1),
    Sizes(16, 32, 48, 640, 320): Tile(16, 1, 16, 64, 3, 1),
}


@pytest.mark.parametrize("key", FASTEST_FP8, ids=str)
def test_the_fastest_tile_of_e4m3_is_chosen(key: Sizes) -> None:
    sizes = replace(key, fp8=True)
    assert choose(sizes) == replace(FASTEST_FP8[key], fp8=True)
    assert fits(sizes)


@pytest.mark.parametrize(
    ("sizes", "tile"),
    [
        (Sizes(2, 8, 12, 1280, 1280, taps=2), Tile(8, 2, 4, 128, 4, taps=2)),
        (Sizes(2, 16, 24, 640, 640, taps=2), Tile(16, 2, 8, 64, 3, taps=2)),
        (Sizes(1, 32, 48, 512, 512, taps=2), Tile(16, 1, 16, 128, 3, taps=2)),
        (Sizes(1, 64, 96, 512, 512, taps=2), Tile(16, 1, 16, 128, 3, taps=2)),
        (Sizes(1, 128, 192, 256, 256, taps=2), Tile(16, 1, 16, 128, 3, taps=2)),
    ],
    ids=str,
)
def test_the_fastest_tile_of_an_upsampling_is_chosen(sizes: Sizes, tile: Tile) -> None:
    assert choose(sizes) == tile
    assert fits(sizes)


def test_a_cluster_of_four_does_not_fill_the_gpu() -> None:
    assert choose(Sizes(1, 32, 48, 512, 512)).parts == 1, "384 programs in clusters need four rounds, not three"


@pytest.mark.parametrize(
    "tile",
    [replace(tile, parts=parts) for tile in (*TILES, *PHASE_TILES, *STRIDE_TILES, *FP8_TILES) for parts in PARTS],
    ids=str,
)
def test_tiles_suit_the_hardware(tile: Tile) -> None:
    assert tile.shared <= 227 * 1024
    assert tile.pixels in (64, 128, 256), "the widths of a product"
    assert tile.outs == 16 * tile.warps, "each warp group computes 64 channels"
    assert tile.warps % 4 == 0
    assert tile.parts <= 8, "every GPU with clusters supports 8"
    assert tile.pixels // tile.parts * tile.outs >= 32 * tile.warps * 4, "each thread adds at least four outputs"
    assert 4 * tile.pixels * (tile.outs + 4) <= tile.shared, "a part fits into shared memory"


@pytest.mark.parametrize(
    ("sizes", "tile"),
    [
        (sizes, tile)
        for sizes in (Sizes(2, 8, 12, 128, 128), *ODD, *UNEVEN)
        for tile in (*TILES, *FP8_TILES)
        if sizes.computed % tile.outs == 0
    ],
    ids=str,
)
def test_every_output_is_computed_once(sizes: Sizes, tile: Tile) -> None:
    x = torch.randn(sizes.n, sizes.h, sizes.w, sizes.channels, dtype=torch.float64)
    weight = torch.randn(sizes.outs, 3, 3, sizes.channels, dtype=torch.float64)
    extra = torch.randn(sizes.n, sizes.h, sizes.w, 200, dtype=torch.float64)
    extra_weight = torch.randn(sizes.outs, 200, dtype=torch.float64)
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), padding=1).permute(0, 2, 3, 1)
    for parts in (1, 4):
        got, writes = emulate(replace(tile, parts=parts), x, weight)
        assert (writes == 1).all()
        torch.testing.assert_close(got, expected)
        got, writes = emulate(replace(tile, parts=parts), x, weight, extra, extra_weight)
        assert (writes == 1).all()
        torch.testing.assert_close(got, expected + extra @ extra_weight.T)


@pytest.mark.parametrize(
    ("sizes", "tile"),
    [(sizes, tile) for sizes in (*ODD, *UNEVEN) for tile in PHASE_TILES if sizes.computed % tile.outs == 0],
    ids=str,
)
def test_every_output_of_an_upsampling_is_computed_once(sizes: Sizes, tile: Tile) -> None:
    x = torch.randn(sizes.n, sizes.channels, sizes.h, sizes.w, dtype=torch.float64)
    weight = torch.randn(sizes.outs, sizes.channels, 3, 3, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1).permute(0, 2, 3, 1)
    for parts in (1, 4):
        one = replace(tile, parts=parts)
        got, writes = emulate(one, x.permute(0, 2, 3, 1), phase_kernels(weight).permute(0, 2, 3, 1))
        assert (writes == 1).all()
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("sizes", "tile"),
    [(sizes, tile) for sizes in (*ODD, *UNEVEN[:3]) for tile in STRIDE_TILES if sizes.computed % tile.outs == 0],
    ids=str,
)
def test_every_output_with_a_stride_is_computed_once(sizes: Sizes, tile: Tile) -> None:
    x = torch.randn(sizes.n, sizes.channels, sizes.h, sizes.w, dtype=torch.float64)
    weight = torch.randn(sizes.outs, sizes.channels, 3, 3, dtype=torch.float64)
    expected = F.conv2d(x, weight, stride=2, padding=1).permute(0, 2, 3, 1)
    for parts in (1, 4):
        got, writes = emulate(replace(tile, parts=parts), x.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1))
        assert (writes == 1).all()
        torch.testing.assert_close(got, expected)


def test_other_sizes_do_not_fit() -> None:
    assert fits(Sizes(2, 4, 6, 1280, 1280))
    assert fits(Sizes(2, 32, 48, 960, 320))
    assert fits(Sizes(2, 64, 64, 320, 320))
    assert not fits(Sizes(2, 32, 48, 4, 320)), "the first convolution"
    assert fits(Sizes(2, 32, 48, 320, 4)), "the last convolution"
    assert fits(Sizes(2, 4, 6, 96, 96)), "the small model"
    assert fits(Sizes(1, 256, 384, 48, 24)), "the small model's VAE"
    assert not fits(Sizes(1, 256, 384, 48, 72)), "two tiles of output channels"
    assert fits(Sizes(2, 16, 24, 320, 320, stride=2))
    assert fits(Sizes(8, 4, 6, 96, 96)), "several pictures of the small model"
    assert not fits(Sizes(1, 256, 384, 256, 256)), "cuDNN fills the GPU"
    assert fits(Sizes(8, 8, 12, 1280, 1280))
    assert fits(Sizes(16, 8, 12, 2560, 1280)), "eight pictures"
    assert fits(Sizes(16, 32, 48, 960, 320))
    assert fits(Sizes(16, 4, 6, 1280, 1280))
    assert not fits(Sizes(16, 4, 6, 2560, 1280)), "sums that are too long for few programs"
    assert not fits(Sizes(16, 8, 12, 640, 640, stride=2))
    assert fits(Sizes(8, 64, 96, 512, 512))
    assert not fits(Sizes(8, 128, 192, 512, 512)), "cuDNN is as fast"
    assert fits(Sizes(2, 32, 48, 32, 32, extra=96))
    assert not fits(Sizes(2, 32, 48, 320, 320, extra=100)), "the map that is skipped"
    assert not fits(Sizes(2, 4, 6, 1280, 1280, taps=2)), "the 3x3 convolution of the large map is faster"
    assert fits(Sizes(2, 16, 24, 96, 96, taps=2)), "upsampling in the small model"
    assert fits(Sizes(8, 8, 12, 1280, 1280, taps=2)), "several pictures"
    assert not fits(Sizes(16, 4, 6, 1280, 1280, taps=2)), "half of a tile is outside of the maps"
    assert fits(Sizes(16, 8, 6, 1280, 1280, taps=2))
    assert fits(Sizes(16, 8, 6, 2560, 1280))


def test_the_result_of_the_op() -> None:
    x, weight, bias = (torch.empty(*shape, device="meta") for shape in ((2, 64, 4, 6), (128, 64, 3, 3), (128,)))
    for residual in (None, torch.empty(2, 128, 4, 6, device="meta")):
        result = convolution(x.half(), weight.half(), bias.half(), residual)
        assert (result.shape, result.dtype) == ((2, 128, 4, 6), torch.float16)
        assert result.is_contiguous(memory_format=torch.channels_last)
    strided = torch.empty(2, 64, 5, 7, device="meta").half()
    assert convolution(strided, weight.half(), bias.half(), stride=2).shape == (2, 128, 3, 4)


def test_the_results_of_the_other_ops() -> None:
    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta", dtype=torch.float16)

    x, bias = empty(2, 64, 4, 6), empty(128)
    skip = convolution_skip(x, empty(128, 64, 3, 3), bias, empty(2, 192, 4, 6), empty(128, 192, 1, 1), bias)
    upsampled = upsampled_convolution(x, empty(512, 64, 2, 2), bias)
    assert (skip.shape, upsampled.shape) == ((2, 128, 4, 6), (2, 128, 8, 12))
    for result in (skip, upsampled):
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "other", "sentence"),
    [
        ("weight", torch.empty(64, 100, 3, 3), "expected input channels that are multiples of 8"),
        ("x", torch.empty(2, 64, 4, 6), "got x as torch.float32"),
        ("x", torch.empty(2, 64, 4, 6).half(), "expected channels-last"),
        (
            "weight",
            torch.empty(128, 64, 1, 1).half(),
            r"weight as torch.float16 \[128, 64, 1, 1\] .* \[128, 64, 3, 3\]",
        ),
        ("bias", torch.empty(64).half(), r"got bias as torch.float16 \[64\]"),
        ("bias", torch.empty(129).half()[1:], "at an address that is not a multiple of 16 bytes"),
        ("residual", torch.empty(1, 128, 4, 6).half(), "got residual as"),
        ("extra", torch.empty(2, 36, 4, 6).half(), "and a further map with 36 channels, expected input channels that"),
        ("extra", torch.empty(1, 192, 4, 6).half(), "got extra as"),
        ("extra_weight", torch.empty(128, 64, 1, 1).half(), "got extra_weight as"),
        ("extra_bias", torch.empty(64).half(), "got extra_bias as"),
    ],
)
def test_unsupported_arguments(name: str, other: torch.Tensor, sentence: str) -> None:
    def last(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=torch.half, memory_format=torch.channels_last)

    bias = torch.empty(128).half()
    usual = {"x": last(2, 64, 4, 6), "weight": last(128, 64, 3, 3), "bias": bias, "residual": last(2, 128, 4, 6)}
    extra = {"extra": last(2, 192, 4, 6), "extra_weight": last(128, 192, 1, 1), "extra_bias": bias}

    def check(arguments: dict[str, torch.Tensor]) -> Sizes:
        x, weight, bias, residual, *others = arguments.values()
        return _check(x, weight, bias, residual, (others[0], others[1], others[2]))

    assert check(usual | extra) == Sizes(2, 4, 6, 64, 128, 192)
    with pytest.raises(ValueError, match=f"convolution .*{sentence}"):
        check(usual | extra | {name: other})


def test_unsupported_phases() -> None:
    x, kernels = (
        torch.empty(*shape).half().to(memory_format=torch.channels_last) for shape in [(2, 64, 4, 6), (512, 64, 2, 2)]
    )
    assert _check(x, kernels, None, taps=2) == Sizes(2, 4, 6, 64, 128, taps=2)
    with pytest.raises(ValueError, match=r"got weight as torch.float16 \[512, 64, 2, 2\] .* expected channels-last"):
        _check(x, kernels.contiguous(), None, taps=2)
    with pytest.raises(ValueError, match=r"\[512, 64, 3, 3\] .* \[512, 64, 2, 2\]"):
        _check(x, torch.empty(512, 64, 3, 3).half(), None, taps=2)


def layers() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        AddedConv2d(64),
        nn.Conv2d(64, 64, 3, 2, padding=1),
        nn.Conv2d(64, 64, 3, 4, padding=1),
        nn.Conv2d(64, 64, 1),
        nn.Conv2d(64, 64, 3),
    )


@pytest.mark.parametrize(("capability", "fused"), [((9, 0), True), ((8, 9), False), ((10, 0), False), ((12, 0), False)])
def test_which_layers_are_fused(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fused: bool) -> None:
    pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")
    from plugins.convolution import layer
    from plugins.convolution.padded import PaddedConv2d
    from plugins.split_k_convolution import SplitKConv2d, split_convolutions

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(layer, "check_compiler", lambda: None)
    model = layers()
    x = torch.randn(1, 3, 24, 24)
    expected = model(x)
    split_convolutions(model)
    layer.fuse_convolutions(model)
    few, usual = (PaddedConv2d, layer.FusedConv2d) if fused else (SplitKConv2d, SplitKConv2d)
    assert [type(one) for one in model] == [few, usual, usual, SplitKConv2d, nn.Conv2d, nn.Conv2d]
    assert torch.equal(model(x), expected), "the eager layers have changed"


@pytest.mark.parametrize(("channels", "outs", "shape"), [(3, 16, (16, 8)), (72, 4, (64, 72)), (4, 4, (64, 8))])
def test_few_channels_are_filled_up(channels: int, outs: int, shape: tuple[int, int]) -> None:
    pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")
    from plugins.convolution.padded import PaddedConv2d

    model, x = nn.Conv2d(channels, outs, 3, padding=1), torch.randn(1, channels, 6, 5)
    model.__class__ = PaddedConv2d
    layer = cast(PaddedConv2d, model)
    layer.pad()
    with torch.no_grad():
        model.weight.mul_(2)
        cast(torch.Tensor, model.bias).mul_(3)
    assert isinstance(layer, Derives)
    layer.derive()
    assert layer.padded.shape == (*shape, 3, 3)
    assert layer.padded.is_contiguous(memory_format=torch.channels_last)
    maps = F.pad(x, (0, 0, 0, 0, 0, shape[1] - channels))
    got = F.conv2d(maps, layer.padded, layer.padded_bias, padding=1)
    torch.testing.assert_close(got[:, :outs], model(x))
    assert not got[:, outs:].any()


def test_without_a_compiler_the_layers_stay(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("triton", reason="needs Triton, which only PyTorch for CUDA includes")
    from plugins.convolution import layer
    from plugins.split_k_convolution import SplitKConv2d, split_convolutions

    def fail() -> None:
        raise KernelError("no Triton")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(layer, "check_compiler", fail)
    model = layers()
    split_convolutions(model)
    with caplog.at_level(logging.WARNING):
        layer.fuse_convolutions(model)
    assert type(model[0]) is SplitKConv2d
    assert caplog.messages == ["convolutions use cuDNN and split sums, which are slower: no Triton"]
