"""The pictures that a run is scored on."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # [h, w, 3], channels in OpenCV's order BGR, as the contest's script reads them

CONTEST_FOLDER = Path("/home/player/pictures_croped")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
DRAWN_BIRDS = Path(__file__).parents[1] / "models" / "small" / "pictures"  # made by python -m training.pictures


def find_pictures(folder: Path | None = None) -> dict[str, Picture]:
    """Name -> picture: all of `folder`, else the contest's, else eight drawn birds of the contest's size.

    Raises ValueError for a folder that is missing, holds no picture or holds a damaged one.
    """
    folder = folder or _usual_folder()
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


def find_captions(folder: Path | None = None) -> dict[str, str]:
    """Name -> what its picture shows: of each NAME.txt that lies beside the pictures of `find_pictures`."""
    texts = (folder or _usual_folder()).glob("*.txt")
    return {file.stem: file.read_text().strip() for file in texts}


def read(path: Path) -> Picture:
    """BGR, uint8 [h, w, 3]. Raises ValueError for a file that OpenCV cannot read."""
    picture = cv2.imread(str(path))
    if picture is None:
        raise ValueError(f"pictures: {path} is missing or is no picture that OpenCV reads")
    return np.asarray(picture, dtype=np.uint8)


def _usual_folder() -> Path:
    return CONTEST_FOLDER if CONTEST_FOLDER.is_dir() else DRAWN_BIRDS


def _number_and_name(file: Path) -> tuple[int, str]:
    """bird_2 before bird_10."""
    digits = "".join(filter(str.isdecimal, file.stem))
    return int(digits or 0), file.stem
