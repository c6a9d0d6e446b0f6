"""PNG files: other libraries read the same pixels and texts."""

import io

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serving.png import png_file

RANDOM = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(64), np.arange(128))[..., None] * [1, 2, 3]
PICTURES = {
    "random": RANDOM.integers(0, 256, (256, 384, 3)),
    "smooth": SMOOTH,
    "black": np.zeros((64, 64, 3)),
    "one pixel wide": RANDOM.integers(0, 256, (5, 1, 3)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_libraries_read_the_same_pixels(name: str) -> None:
    picture: NDArray[np.uint8] = PICTURES[name].astype(np.uint8)
    file = png_file(picture, {})
    with Image.open(io.BytesIO(file)) as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), picture)
    opened = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    assert opened is not None
    np.testing.assert_array_equal(opened[..., ::-1], picture)


def test_texts_come_back_and_the_file_is_whole() -> None:
    texts = {"parameters": "ein Vögelchen, 鳥\nSteps: 5", "canny2image": "{}"}
    with Image.open(io.BytesIO(png_file(SMOOTH.astype(np.uint8), texts))) as image:
        assert {name: image.info[name] for name in texts} == texts
        image.verify()


def test_smooth_pictures_become_small() -> None:
    assert len(png_file(SMOOTH.astype(np.uint8), {})) < SMOOTH.size // 10
