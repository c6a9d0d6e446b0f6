"""Edge maps of the caller: their checks, and a resize that keeps thin edges."""

import re
from typing import Any

import cv2
import numpy as np
import pytest

from cldm.canny import Picture, canny, hwc3, resize
from cldm.edge_map import resize_edge_map
from cldm.request import Request
from tests.arguments import waves

PICTURE = waves(64, 128)
EDGES = np.random.default_rng(0).integers(0, 160, (64, 128), dtype=np.uint8)  # soft edges, darker than grey on average


def request(picture: Any = PICTURE, **changes: Any) -> Request:
    return Request.contest(picture, **{"image_resolution": 64} | changes)


def lines(height: int, width: int) -> Picture:
    """Return one white line, one pixel wide, in each direction, at an odd place."""
    edges = np.zeros((height, width), np.uint8)
    edges[height // 3 | 1], edges[:, width // 3 | 1] = 255, 255
    return edges


@pytest.mark.parametrize(
    "edges",
    [EDGES, EDGES[:, :, None], np.dstack([EDGES] * 3), np.asfortranarray(EDGES), EDGES[::-1][::-1]],
    ids=["grey", "one channel", "three channels", "columns first", "negative strides"],
)
def test_edges_of_the_right_size_are_unchanged(edges: Picture) -> None:
    edges.flags.writeable = False
    for asked in (
        request(edges=edges),
        request(None, edges=edges),
        request(edges, low_threshold=None, high_threshold=None),
    ):
        made = asked.edge_map()
        assert np.array_equal(made, EDGES)
        assert made.dtype == np.uint8
        assert made.flags.c_contiguous
        assert made.flags.writeable, "PyTorch warns about read-only arrays"


def test_without_edges_canny_finds_them() -> None:
    made = request(low_threshold=20, high_threshold=50).edge_map()
    assert made.any()
    assert np.array_equal(made, canny(resize(hwc3(PICTURE), 64), 20, 50))


def test_edges_win_over_thresholds_and_picture() -> None:
    assert np.array_equal(request(edges=EDGES, low_threshold=1, high_threshold=2).edge_map(), EDGES)
    assert np.array_equal(request(edges=EDGES, low_threshold=None, high_threshold=None).edge_map(), EDGES)


@pytest.mark.parametrize("size", [(65, 97), (128, 192), (100, 300), (511, 777), (64, 250), (300, 96)])
def test_thin_edges_stay_bright_when_they_shrink(size: tuple[int, int]) -> None:
    small = resize_edge_map(lines(*size), 64, 96)
    assert set(np.unique(small)) == {0, 255}
    assert (small == 255).all(axis=1).sum() == 1
    assert (small == 255).all(axis=0).sum() == 1


def test_shrinking_takes_the_maximum_of_each_block() -> None:
    edges = np.random.default_rng(1).integers(0, 256, (128, 288), dtype=np.uint8)
    blocks = edges.reshape(64, 2, 96, 3).max(axis=(1, 3))
    assert np.array_equal(resize_edge_map(edges, 64, 96), blocks)


def test_enlarging_repeats_pixels() -> None:
    assert np.array_equal(resize_edge_map(EDGES, 128, 384), EDGES.repeat(2, axis=0).repeat(3, axis=1))
    uneven = cv2.resize(EDGES, (200, 100), interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(resize_edge_map(EDGES, 100, 200), uneven)


def test_each_side_is_resized_by_itself() -> None:
    assert np.array_equal(resize_edge_map(EDGES, 32, 256), EDGES.reshape(32, 2, 128).max(axis=1).repeat(2, axis=1))


@pytest.mark.parametrize(("shape", "size"), [((70, 90), (64, 64)), ((100, 260, 3), (64, 192)), ((9, 3, 1), (192, 64))])
def test_the_size_comes_from_edges_without_a_picture(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    made = request(None, edges=np.zeros(shape, np.uint8))
    assert made.size == made.edge_map().shape == size


def test_the_size_comes_from_the_picture_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    made = request(edges=np.zeros((128, 256), np.uint8))
    assert made.size == made.edge_map().shape == (64, 128)
    assert caplog.messages == []
    assert request(edges=np.zeros((100, 100), np.uint8)).edge_map().shape == (64, 128)
    assert caplog.messages == [
        "edges: 100 x 100 is stretched to 64 x 128, the size for input_image; pass input_image=None to keep its "
        "aspect ratio"
    ]


@pytest.mark.parametrize(
    ("value", "error", "got"),
    [
        ([[0, 255]], TypeError, "got list"),
        (EDGES / 255, TypeError, "got dtype float64"),
        (EDGES > 127, TypeError, "got dtype bool"),
        (EDGES[0], ValueError, "got shape [128]"),
        (np.dstack([EDGES] * 4), ValueError, "got shape [64, 128, 4]"),
        (EDGES[:0], ValueError, "got an empty picture of shape [0, 128]"),
    ],
)
def test_bad_edges(value: Any, error: type[Exception], got: str) -> None:
    expected = "expected a uint8 array of shape [h, w], [h, w, 1] or [h, w, 3]"
    for picture in (PICTURE, None):
        with pytest.raises(error, match=re.escape(f"edges: {got}, {expected}")):
            request(picture, edges=value)


def test_channels_that_differ() -> None:
    coloured = np.dstack([EDGES, EDGES, EDGES])
    coloured[5, 7, 1] ^= 1
    sentence = ": got channels that differ, expected one channel or three equal ones"
    with pytest.raises(ValueError, match=f"^edges{sentence}"):
        request(edges=coloured)
    with pytest.raises(ValueError, match=f"^input_image .*both thresholds are None.*{sentence}"):
        request(coloured, low_threshold=None, high_threshold=None)


def test_an_edge_map_has_no_alpha() -> None:
    with pytest.raises(
        ValueError, match=r"both thresholds are None\): got shape \[64, 128, 4\], expected .* \[h, w, 3\]"
    ):
        request(np.dstack([EDGES] * 4), low_threshold=None, high_threshold=None)


@pytest.mark.parametrize("edges", [None, EDGES])
@pytest.mark.parametrize("name", ["low_threshold", "high_threshold"])
def test_one_threshold_alone_cannot_be_none(name: str, edges: Picture | None) -> None:
    expected = "expected a number, or None for both thresholds if input_image is an edge map"
    with pytest.raises(TypeError, match=f"{name}: got None, {expected}"):
        request(edges=edges, **{name: None})


def test_neither_picture_nor_edges() -> None:
    for thresholds in ({}, {"low_threshold": None, "high_threshold": None}):
        with pytest.raises(TypeError, match="input_image: got NoneType, expected a uint8 array"):
            request(None, **thresholds)


def test_black_edges_on_white_are_reported_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    white = 255 - lines(64, 128)
    assert np.array_equal(request(edges=white).edge_map(), white)
    request(white, low_threshold=None, high_threshold=None)
    first, second = caplog.messages
    assert first.startswith("edges: the mean of 249 looks like black edges on white, but ControlNet expects white")
    assert first.endswith("to invert them, subtract the array from 255")
    assert second.startswith("input_image (the edge map, because both thresholds are None): the mean of 249 looks")


def test_no_warning_for_white_edges_on_black_or_for_a_picture(caplog: pytest.LogCaptureFixture) -> None:
    for asked in (
        request(edges=lines(64, 128)),
        request(edges=np.full((64, 128), 127, np.uint8)),
        request(255 - PICTURE),
    ):
        asked.edge_map()
    assert caplog.messages == []
