"""The tiles of matrix products, and the ops' checks; tests/test_product_gpu.py runs the kernel."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plugins.nvrtc import KernelError
from plugins.product import compile as compilation
from plugins.product.compile import ProductKernel
from plugins.product.op import norm_geglu, norm_product, product, product_stats
from plugins.product.tiles import TILES, Sizes, Tile, choose, fits, groups
from tests.products import ODD, SD15, SMALL, emulate


@pytest.mark.parametrize("tile", {*TILES, *(choose(sizes) for sizes in (*SMALL, *ODD))}, ids=str)
def test_tiles_suit_the_hardware(tile: Tile) -> None:
    assert tile.shared <= 227 * 1024
    assert tile.warps in (4, 8), "one or two warp groups"
    assert tile.rows % 16 == 0
    assert tile.width <= 256, "the widest product of a warp group"
    assert tile.rows & (tile.rows - 1) == tile.width & (tile.width - 1) == tile.parts & (tile.parts - 1) == 0
    assert tile.parts <= 8, "every GPU with clusters supports 8"
    assert tile.rows // tile.parts * tile.width >= 32 * tile.warps * 4, "each thread adds at least four outputs"
    assert 4 * tile.rows * (tile.width + 8) <= tile.barriers, "the sums do not reach the barriers"
    assert tile.barriers % 8 == 0


@pytest.mark.parametrize("sizes", [*SD15, *SMALL, *ODD], ids=str)
def test_the_tile_suits_the_product(sizes: Sizes) -> None:
    tile = choose(sizes)
    assert fits(sizes)
    steps = -(-sizes.depth // (64 * tile.blocks))
    assert tile.parts <= steps, "each part has something to add"
    assert tile.stages > 1 or steps == 1, "with one stage, the second step would be waited for before its load starts"
    if sizes in SD15:
        assert sizes.width % tile.width == 0, "no work beyond the end"


@pytest.mark.parametrize(
    ("sizes", "tile"),
    [
        (Sizes(24576, 320, 320), (128, 64, 4)),  # no multiple of 128 columns
        (Sizes(6144, 640, 640), (128, 128, 4)),
        (Sizes(1536, 640, 640), (64, 128, 8)),
        (Sizes(384, 1280, 1280), (64, 64, 6)),
        (Sizes(384, 5120, 1280), (64, 64, 6)),
        (Sizes(1536, 1280, 5120, gated=True), (128, 128, 3)),
        (Sizes(24576, 1288, 328), (64, 64, 6)),
    ],
    ids=str,
)
def test_more_work_has_the_largest_tiles_that_are_enough(sizes: Sizes, tile: tuple[int, int, int]) -> None:
    chosen = choose(sizes)
    assert (chosen.rows, chosen.width, chosen.stages) == tile
    assert fits(sizes)


@pytest.mark.parametrize("sizes", [replace(one, gated=False) for one in (*SD15, *SMALL, *ODD)], ids=str)
def test_statistics_are_of_64_columns(sizes: Sizes) -> None:
    tile = choose(sizes, stats=True)
    assert tile.width == 64
    assert ProductKernel(sizes, tile, stats=True).stats
    with pytest.raises(ValueError, match="with statistics got a tile of 128 columns, expected 64"):
        ProductKernel(sizes, replace(tile, width=128), stats=True)


@pytest.mark.parametrize("sizes", ODD, ids=str)
def test_every_output_is_computed_once(sizes: Sizes) -> None:
    x, weight = (
        torch.randn(rows, sizes.depth, dtype=torch.float64) / sizes.depth**0.5 for rows in (sizes.rows, sizes.width)
    )
    expected = F.linear(x, weight)
    if sizes.gated:
        value, gate = expected.chunk(2, dim=1)
        expected = value * F.gelu(gate)
    for tile in {*TILES, choose(sizes)}:
        for parts in (1, 4):
            got, writes = emulate(replace(tile, parts=parts), sizes, x, weight)
            assert (writes == 1).all()
            torch.testing.assert_close(got, expected)


def test_groups() -> None:
    assert [groups(columns) for columns in (8, 64, 72, 96, 128)] == [1, 1, 2, 2, 2]


def test_other_sizes_do_not_fit() -> None:
    assert fits(Sizes(2**22, 320, 320))
    assert not fits(Sizes(2**23, 320, 320)), "offsets have 32 bits"
    assert not fits(Sizes(48, 100, 96)), "TMA needs rows of multiples of 16 bytes"
    assert not fits(Sizes(48, 96, 100))


def half(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.half, device="meta")


def test_the_results_of_the_ops() -> None:
    x, weight, bias = half(6, 64), half(256, 64), half(256)
    stats, of_columns = (torch.empty(*shape, device="meta") for shape in ((6, 1, 2), (256,)))
    assert product(x, weight, bias).shape == (6, 256)
    assert product(x, weight, bias, None, True).shape == (6, 128)
    result, got = product_stats(x, weight, bias, half(6, 256))
    assert (result.shape, result.dtype) == ((6, 256), torch.float16)
    assert (got.shape, got.dtype) == ((6, 4, 2), torch.float32)
    assert norm_product(x, stats, weight, of_columns, of_columns, 1e-5).shape == (6, 256)
    assert norm_geglu(x, stats, weight, of_columns, of_columns, 1e-5).shape == (6, 128)
    assert product_stats(x, half(96, 64), half(96))[1].shape == (6, 2, 2)


def cpu(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.half)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x": cpu(6, 100), "weight": cpu(256, 100)}, "expected depth and columns that are multiples of 8"),
        ({"weight": cpu(100, 64)}, "expected depth and columns that are multiples of 8"),
        (
            {"weight": cpu(200, 64), "residual": None, "gated": True},
            r"\[200, 64\] with gates, expected depth and columns",
        ),
        ({"x": torch.zeros(6, 64)}, "got x as torch.float32"),
        ({"x": cpu(64, 6).T}, "with strides"),
        ({"weight": cpu(256, 128)}, r"weight as torch.float16 \[256, 128\] .* \[256, 64\]"),
        ({"bias": cpu(128)}, r"got bias as torch.float16 \[128\]"),
        ({"bias": cpu(257)[1:]}, "at an address that is not a multiple of 16 bytes"),
        ({"residual": cpu(5, 256)}, "got residual as"),
        ({"x": half(2**23, 256), "weight": half(8, 256)}, "expected fewer than 2\\^31 values"),
        ({"residual": cpu(6, 128), "gated": True}, "a residual with gates, expected one of the two"),
    ],
)
def test_unsupported_arguments(change: dict[str, Any], sentence: str, launches: list[object]) -> None:
    usual = {"x": cpu(6, 64), "weight": cpu(256, 64), "bias": cpu(256), "residual": cpu(6, 256), "gated": False}
    product.function(**usual)
    with pytest.raises(ValueError, match=f"a product .*{sentence}"):
        product.function(**{**usual, **change})
    assert len(launches) == 1


def test_a_width_that_is_no_multiple_of_64(launches: list[Any]) -> None:
    """The kernel gets one more group of statistics, and one more program."""
    x, bias = cpu(6, 96), cpu(104)
    result, stats = product_stats.function(x, cpu(104, 96), bias)
    assert (result.shape, stats.shape) == ((6, 104), (6, 2, 2))
    columns = torch.zeros(48), torch.zeros(48)
    assert norm_geglu.function(result, stats, cpu(48, 104), *columns, 1e-5).shape == (6, 24)
    assert [programs for *_, programs, _ in launches] == [2, 1]


@pytest.mark.parametrize(
    ("name", "other"), [("stats", cpu(6, 1, 2)), ("stats", torch.zeros(6)), ("sums", torch.zeros(128))]
)
def test_unsupported_norms(name: str, other: Tensor, launches: list[object]) -> None:
    columns = {"sums": torch.zeros(256), "shifts": torch.zeros(256)}
    usual = {"x": cpu(6, 64), "stats": torch.zeros(6, 1, 2), "weight": cpu(256, 64), **columns, "eps": 1e-5}
    norm_product.function(**usual)
    with pytest.raises(ValueError, match=f"a product got {name} as .*, expected contiguous torch.float32"):
        norm_product.function(**{**usual, name: other})
    assert len(launches) == 1


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Record launches instead of launching."""
    found: list[object] = []
    monkeypatch.setattr("plugins.product.op.launch", lambda *arguments: found.append(arguments))
    return found


@pytest.fixture
def no_answers() -> Iterator[None]:
    compilation.runs_on.cache_clear()
    yield
    compilation.runs_on.cache_clear()


@pytest.mark.usefixtures("no_answers")
@pytest.mark.parametrize(("capability", "runs"), [((9, 0), True), ((8, 9), False), ((10, 0), False), ((12, 0), False)])
def test_where_the_kernel_runs(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], runs: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(compilation, "cubin", lambda kernel: b"cubin")
    assert compilation.runs_on(torch.device("cuda")) == runs


@pytest.mark.usefixtures("no_answers")
def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(kernel: object) -> bytes:
        raise KernelError("no Triton")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(compilation, "cubin", fail)
    with caplog.at_level(logging.WARNING):
        assert not any(compilation.runs_on(torch.device("cuda")) for _ in range(2))
    assert caplog.messages == ["matrix products use cuBLAS and Triton, which are slower: no Triton"]
