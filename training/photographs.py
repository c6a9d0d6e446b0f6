"""Creates training pictures with natural edges: random crops of the photographs in the scikit-image wheel."""

import functools
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from scoring.pictures import read
from training.scenes.canvas import HEIGHT, WIDTH

TAG = 0xF070  # part of the seed, so that the random numbers differ from those of the scenes


@dataclass(frozen=True)
class Source:
    """A photograph: file name, caption, sampling weight, and smallest crop relative to the largest possible one."""

    file: str
    words: str
    weight: float
    least: float


SOURCES = (
    Source("chelsea.png", "the face of a cat", 3, 0.6),
    Source("astronaut.png", "a woman in an orange astronaut suit", 3, 0.8),
    Source("coffee.png", "a red cup of coffee on the table", 3, 0.6),
    Source("motorcycle_left.png", "a red motorcycle in a garage", 2, 0.8),
    Source("rocket.jpg", "a white rocket in the evening", 2, 0.6),
    Source("camera.png", "a man with a camera", 2, 0.6),
    Source("moon.png", "the grey moon", 1, 0.5),
    Source("coins.png", "grey coins", 1, 0.4),
    Source("brick.png", "a grey brick wall", 1, 0.4),
    Source("page.png", "a page of text", 0.5, 0.6),
    Source("hubble_deep_field.jpg", "stars at night", 0.5, 0.3),
    Source("gravel.png", "grey stones", 0.5, 0.3),
    Source("grass.png", "grey grass", 0.5, 0.3),
)


@dataclass(frozen=True)
class Photograph:
    """A crop of a photograph. It has no mask because it has no main object of a palette colour."""

    picture: NDArray[np.uint8]  # RGB [256, 384, 3]
    caption: str


def photograph(seed: int) -> Photograph:
    """Return the crop for a seed: resized, sometimes flipped, with slightly changed light and colours.

    Equal seeds give equal crops.
    """
    rng = np.random.default_rng([TAG, seed])
    weights = np.array([source.weight for source in SOURCES])
    source = SOURCES[int(rng.choice(len(SOURCES), p=weights / weights.sum()))]
    crop = _cropped(rng, _opened(source.file), source.least)
    picture = _relit(rng, crop[:, ::-1] if rng.random() < 0.5 else crop)
    caption = f"a photo of {source.words}" if rng.random() < 0.8 else source.words
    return Photograph(picture, caption)


@functools.cache
def _opened(file: str) -> NDArray[np.uint8]:
    """Return a photograph as RGB uint8 [height, width, 3], with three equal channels if it is grey.

    Raise ModuleNotFoundError without scikit-image, FileNotFoundError if its file is missing or unreadable.
    """
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the photographs are part of scikit-image, which is not installed: install it")
    path = Path(package.origin).parent / "data" / file
    try:
        return read(path)[:, :, ::-1]
    except ValueError as error:
        raise FileNotFoundError(f"{error}: it is part of scikit-image, install scikit-image again") from error


def _cropped(rng: np.random.Generator, photo: NDArray[np.uint8], least: float) -> NDArray[np.float32]:
    """Return a random crop of aspect ratio 3:2, resized to RGB float32 [256, 384, 3].

    Its width and height are at least `least` times those of the largest possible crop.
    """
    height, width = photo.shape[:2]
    scale = min(height / HEIGHT, width / WIDTH) * rng.uniform(least, 1.0)
    high, wide = int(scale * HEIGHT), int(scale * WIDTH)
    y, x = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
    part = np.ascontiguousarray(photo[y : y + high, x : x + wide])
    way = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (WIDTH, HEIGHT), interpolation=way), np.float32)


def _relit(rng: np.random.Generator, picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Change saturation and contrast by at most 15 % and brightness by at most 14 grey levels, at random."""
    grey = picture.mean(axis=2, keepdims=True)
    vivid = grey + (picture - grey) * np.float32(rng.uniform(0.85, 1.15))
    contrast, brightness = rng.uniform(0.88, 1.1), rng.uniform(-14, 14)
    changed = (vivid - 128) * np.float32(contrast) + np.float32(128 + brightness)
    return np.asarray(np.clip(np.rint(changed), 0, 255), np.uint8)
