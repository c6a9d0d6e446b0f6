"""The pictures that a run is scored on."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import skimage
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # [h, w, 3], channels in OpenCV's order BGR, as the contest's script reads them

CONTEST_FOLDER = Path("/home/player/pictures_croped")
SIZE = (256, 384)  # height and width of the contest's pictures
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# Photographs inside the scikit-image package.
PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "hubble_deep_field.jpg",
    "coffee.png",
    "coins.png",
    "motorcycle_left.png",
    "rocket.jpg",
)


def find_pictures(folder: Path | None = None) -> dict[str, Picture]:
    """Name -> picture: all of `folder`, else the contest's, else eight photographs at the contest's size.

    Raises ValueError for a folder that is missing, holds no picture or holds a damaged one.
    """
    if folder is None and CONTEST_FOLDER.is_dir():
        folder = CONTEST_FOLDER
    if folder is None:
        data = Path(skimage.__file__).parent / "data"
        return {Path(name).stem: crop(read(data / name), *SIZE) for name in PHOTOGRAPHS}
    if not folder.is_dir():
        raise ValueError(f"pictures: {folder} is not a folder; give one that holds {', '.join(SUFFIXES)} files")
    files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
    if not files:
        raise ValueError(f"pictures: {folder} holds no picture; expected {', '.join(SUFFIXES)} files")
    files.sort(key=_number_and_name)
    for file, following in pairwise(sorted(files)):
        if file.stem == following.stem:
            raise ValueError(f"pictures: {file} and {following.name} would have the same results; rename one")
    return {file.stem: read(file) for file in files}


def read(path: Path) -> Picture:
    """BGR, uint8 [h, w, 3]. Raises ValueError for a file that OpenCV cannot read."""
    picture = cv2.imread(str(path))
    if picture is None:
        raise ValueError(f"pictures: {path} is missing or is no picture that OpenCV reads")
    return np.asarray(picture, dtype=np.uint8)


def crop(picture: Picture, height: int, width: int) -> Picture:
    """The middle of the picture, scaled so that its shorter side fits."""
    scale = max(height / picture.shape[0], width / picture.shape[1])
    size = (max(width, round(picture.shape[1] * scale)), max(height, round(picture.shape[0] * scale)))
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width], dtype=np.uint8)


def _number_and_name(file: Path) -> tuple[int, str]:
    """bird_2 before bird_10."""
    digits = "".join(filter(str.isdecimal, file.stem))
    return int(digits or 0), file.stem
