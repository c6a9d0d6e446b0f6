"""Limits on the pictures of a request, and who owns them."""

import re
from typing import Any

import numpy as np
import pytest

from cldm.request import Request
from tests.arguments import GOOD


def request(**changes: Any) -> Request:
    return Request(**GOOD | changes)


def picture(*shape: int) -> Any:
    return np.zeros(shape, np.uint8)


def test_all_pictures_together_are_limited() -> None:
    assert request(num_samples=16, image_resolution=1024, input_image=picture(8, 8)).size == (1024, 1024)
    expected = "num_samples: got 17, expected at most 16 for pictures of 1024 x 1024: call process()"
    with pytest.raises(ValueError, match=re.escape(expected)):
        request(num_samples=17, image_resolution=1024, input_image=picture(8, 8))


@pytest.mark.parametrize(("shape", "size"), [((1, 10_000), "64 x 640000"), ((5000, 1, 3), "320000 x 64")])
def test_a_picture_that_is_too_thin(shape: tuple[int, ...], size: str) -> None:
    message = f"image_resolution: 64 gives a picture of {size}, expected at most 4096 pixels on the longer side: "
    with pytest.raises(ValueError, match=message):
        request(input_image=picture(*shape))


@pytest.mark.parametrize("shape", [(2**20, 2**20), (2**13, 2**13 + 1, 3), (2**26 + 1, 1)])
def test_an_absurd_view_is_refused_before_its_pixels_are_read(shape: tuple[int, ...]) -> None:
    view = np.broadcast_to(np.uint8(9), shape)
    with pytest.raises(ValueError, match=r"^input_image: got shape \[.*\], expected at most 67108864 pixels"):
        request(input_image=view)
    with pytest.raises(ValueError, match=r"^edges: got shape \[.*\], expected at most 67108864 pixels"):
        request(edges=view)


def test_later_changes_of_the_array_do_not_matter() -> None:
    mine, edges = picture(64, 64, 3), picture(64, 64)
    made = request(input_image=mine, edges=edges)
    mine[:], edges[:] = 7, 7
    assert made.input_image is not None
    assert not made.input_image.any()
    assert not made.edge_map().any()
    with pytest.raises(ValueError, match="read-only"):
        made.input_image[:] = 7


def test_a_missing_file_is_explained() -> None:
    with pytest.raises(TypeError, match=r"\[h, w, 4\]: cv2.imread returns None for a file that it cannot read$"):
        request(input_image=None)
