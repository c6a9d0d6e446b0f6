"""The pictures that a scoring run uses."""

import logging
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

log = logging.getLogger(__name__)

Picture = NDArray[np.uint8]  # [h, w, 3], channels in OpenCV's order BGR, as the contest's script reads them

CONTEST_FOLDER = Path("/home/player/pictures_croped")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
DRAWN_BIRDS = Path(__file__).parents[1] / "models" / "small" / "pictures"  # made by python -m training.pictures


def find_pictures(folder: Path | None = None) -> dict[str, Picture]:
    """Return name -> picture for all of `folder`, else the contest's, else eight drawn birds of the contest's size.

    Raise ValueError if the folder is missing, or if it contains no picture, a damaged one, or two of the same name.
    """
    folder = folder or _usual_folder()
    if not folder.is_dir():
        raise ValueError(f"pictures: {folder} is not a folder; expected one with {', '.join(SUFFIXES)} files")
    files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
    if not files:
        raise ValueError(f"pictures: {folder} contains no picture; expected {', '.join(SUFFIXES)} files")
    files.sort(key=_number_and_name)
    for file, following in pairwise(sorted(files)):
        if file.stem == following.stem:
            raise ValueError(f"pictures: {file} and {following.name} would have the same result files; rename one")
    return {file.stem: read(file) for file in files}


def find_captions(folder: Path | None = None) -> dict[str, str]:
    """Return name -> caption from each NAME.txt in the folder that `find_pictures` reads."""
    texts = (folder or _usual_folder()).glob("*.txt")
    return {file.stem: file.read_text().strip() for file in texts}


def read(path: Path) -> Picture:
    """Return BGR, uint8 [h, w, 3], as the contest's script reads it. Raise ValueError if OpenCV cannot read the file.

    Alpha is dropped, which shows the colours of transparent pixels, and a log line says so; of 16 bits the upper 8
    remain; grey becomes three equal channels; EXIF's orientation is applied (to WebP only by OpenCV 5).
    """
    picture = cv2.imread(str(path))
    if picture is None:
        raise ValueError(f"pictures: {path} is missing or is not a picture that OpenCV can read")
    if _has_alpha(path):
        log.warning(
            "pictures: alpha of %s is dropped, as in the contest's script: flatten the file to keep its look", path
        )
    return np.asarray(picture, dtype=np.uint8)


def _has_alpha(path: Path) -> bool:
    with suppress(OSError, Image.DecompressionBombError), Image.open(path) as header:
        return header.has_transparency_data
    return False  # a file that only OpenCV can read


def _usual_folder() -> Path:
    return CONTEST_FOLDER if CONTEST_FOLDER.is_dir() else DRAWN_BIRDS


def _number_and_name(file: Path) -> tuple[int, str]:
    """Return a sort key that puts bird_2 before bird_10."""
    digits = "".join(filter(str.isdecimal, file.stem))
    return int(digits or 0), file.stem
