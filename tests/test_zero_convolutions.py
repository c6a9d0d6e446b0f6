"""The zero convolutions: their plain form, and the kernel's sizes, checks and compilation without a GPU."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.zero_convolutions import scaled
from plugins.hopper.compile import compile_kernel
from plugins.zero_convolutions.compile import Layer, Tile, ZeroConvolutions, choose
from plugins.zero_convolutions.layer import MOST_ROWS, _fit
from plugins.zero_convolutions.op import zero_convolutions


def layer(channels: int, pixels: int, maps: int) -> Layer:
    return Layer(channels, pixels, maps, choose(channels))


SD15 = (
    *(layer(320, 1536, maps) for maps in (1, 2, 2)),
    layer(320, 384, 2),
    *[layer(640, 384, 2)] * 2,
    layer(640, 96, 2),
    *[layer(1280, 96, 2)] * 2,
    *[layer(1280, 24, 2)] * 4,
)
SMALL = (
    *(layer(32, 1536, maps) for maps in (1, 2, 2)),
    layer(32, 384, 2),
    *[layer(64, 384, 2)] * 2,
    layer(64, 96, 2),
    *[layer(96, 96, 2)] * 2,
    *[layer(96, 24, 2)] * 4,
)


def test_scaled_residuals() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(c, c, 1) for c in (4, 6)]
    features, factors = [torch.randn(1, 4, 2, 3), torch.randn(2, 6, 1, 1)], torch.tensor([[1.0, 2.0], [0.0, -3.0]])
    first, second = scaled(layers, features, factors)
    assert torch.equal(first, torch.cat([layers[0](features[0]), torch.zeros(1, 4, 2, 3)]))
    assert torch.equal(second, layers[1](features[1]) * torch.tensor([2.0, -3.0])[:, None, None, None])


def test_programs() -> None:
    wide, narrow = Tile(64, 128, 3), Tile(64, 64, 3)
    layers = Layer(64, 33, 1, wide), Layer(320, 5, 2, wide), Layer(128, 64, 2, narrow)
    assert ZeroConvolutions(layers, 2).starts == [0, 2, 2 + 3, 2 + 3 + 4]


@pytest.mark.parametrize(
    ("channels", "rows", "fits"), [(96, 4, True), (8, 1, True), (100, 4, False), (64, MOST_ROWS, False)]
)
def test_what_fits(channels: int, rows: int, fits: bool) -> None:
    small, other = torch.empty(1, 32, 2, 3), torch.empty(1, channels, rows, 1)
    assert _fit([small, other], 2) == fits


@pytest.mark.parametrize("layers", [SD15, SMALL, SD15[3:4], (layer(8, 1, 1), layer(104, 77, 2))], ids=len)
def test_the_kernel_compiles(layers: tuple[Layer, ...]) -> None:
    pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA")
    assert all(one.tile.shared <= 227 * 1024 for one in layers)
    assert compile_kernel(ZeroConvolutions(layers, 2))


def arguments(**changes: Any) -> dict[str, Any]:
    def maps(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float16).to(memory_format=torch.channels_last)

    usual = {"xs": [maps(1, 64, 3, 5), maps(2, 128, 3, 5)], "weights": [maps(64, 64, 1, 1), maps(128, 128, 1, 1)]}
    biases = [torch.zeros(c, dtype=torch.float16) for c in (64, 128)]
    results = [maps(2, 64, 3, 5), maps(2, 128, 3, 5)]
    factors = torch.zeros(2, 2, dtype=torch.float16)
    return {**usual, "biases": biases, "factors": factors, "results": results, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"biases": []}, "got 2 maps, 2 weights, 0 biases and 2 results, expected as many of each, at least one"),
        ({"results": [torch.zeros(2, 64, 3, 5).half()] * 2}, "got results[0] as torch.float16 [2, 64, 3, 5]"),
        ({"factors": torch.zeros(2, 2)}, "got factors as torch.float32 [2, 2]"),
        ({"factors": torch.zeros(3, 2).half()}, "got maps [2, 128, 3, 5] for 3 pictures"),
        ({"xs": [torch.zeros(2, 68, 3, 5).half()] * 2}, "got maps [2, 68, 3, 5] for 2 pictures, expected channels"),
        ({"weights": [torch.zeros(64, 64, 1, 1).half()] * 2}, "got weights[1] as torch.float16 [64, 64, 1, 1]"),
    ],
)
def test_unsupported_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"zero_convolutions {message}")):
        zero_convolutions.function(**arguments(**changes))
