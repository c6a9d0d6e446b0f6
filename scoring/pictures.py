"""Finds and reads the pictures of a scoring run, and their captions."""

import io
import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reading import read_small

log = logging.getLogger(__name__)

Picture = NDArray[np.uint8]  # [h, w, 3], channels in OpenCV's order BGR, as the contest's script reads them

CONTEST_FOLDER = Path("/home/player/pictures_croped")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
CAPTION = ".txt"
MOST_PIXELS = 2**26  # larger headers are more often damage or attack than a picture
MEND = "replace the file, or save it again as PNG"
DRAWN_BIRDS = Path(__file__).parents[1] / "models" / "small" / "pictures"  # made by python -m training.pictures


def find_pictures(folder: Path | None = None) -> dict[str, Picture]:
    """Return name -> picture for all pictures of a folder, in the order of `find_files`.

    folder: by default the contest's if it exists, else the folder of eight drawn birds of the contest's size.
    Raise ValueError like `find_files`, or if a picture is damaged.
    """
    return {file.stem: read(file) for file in find_files(folder or usual_folder())}


def find_files(folder: Path) -> list[Path]:
    """Return the files of all pictures of a folder, in the order of the numbers in their names.

    Hidden files are skipped; a log line tells if there are files of other kinds.
    Raise ValueError if the folder is missing, or if it contains no picture, or two of the same name.
    """
    if not folder.is_dir():
        raise ValueError(f"pictures: {folder} is not a folder; expected one with {', '.join(SUFFIXES)} files")
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]
    ignored = [entry.name for entry in entries if entry not in files and entry.suffix != CAPTION]
    if not files:
        raise ValueError(f"pictures: {folder} contains no picture; expected {', '.join(SUFFIXES)} files")
    if ignored:
        log.info("pictures: ignored %d other entries of %s, such as %r", len(ignored), folder, ignored[0])
    _check_names(files)
    return sorted(files, key=_number_and_name)


def find_captions(folder: Path | None = None) -> dict[str, str]:
    """Return name -> caption from each NAME.txt in the folder that `find_pictures` reads. Raise ValueError like it."""
    files = [file for file in (folder or usual_folder()).glob(f"*{CAPTION}") if not file.name.startswith(".")]
    return {file.stem: _caption(file) for file in files}


def read(path: Path) -> Picture:
    """Return BGR, uint8 [h, w, 3], as the contest's script reads it.

    Alpha is dropped, which shows the colours of transparent pixels, and a log line says so; of 16 bits the upper 8
    remain; grey becomes three equal channels; EXIF's orientation is applied (to WebP only by OpenCV 5).
    Raise ValueError if the file cannot be read, is damaged, or has more than MOST_PIXELS.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "it is not a regular file")
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"pictures: {path} cannot be read ({error.strerror})") from error
    has_alpha = _check_whole(path, content)
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # its text is about OpenCV's sources
        picture = None
    if picture is None:
        raise ValueError(f"pictures: {path} is damaged, or no picture that OpenCV can read: {MEND}")
    if has_alpha:
        log.warning(
            "pictures: alpha of %s is dropped, as in the contest's script: flatten the file to keep its look", path
        )
    return np.asarray(picture, dtype=np.uint8)


def _check_whole(path: Path, content: bytes) -> bool:
    """Decode the picture with Pillow, which refuses a truncated file, and return whether it has alpha.

    Raise ValueError if it is damaged or too large. OpenCV fills the part that is missing with grey.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = image.width * image.height
            if pixels <= MOST_PIXELS:
                image.load()
                return image.has_transparency_data
    except Image.DecompressionBombError:
        pixels = 2 * MOST_PIXELS
    except Exception as error:  # Pillow raises many kinds of exceptions for damaged files
        what = str(error) if isinstance(error, OSError) and "BytesIO" not in str(error) else "unknown format"
        raise ValueError(f"pictures: {path} is damaged or no picture ({what}): {MEND}") from error
    raise ValueError(f"pictures: {path} has more than {MOST_PIXELS} pixels: scale it down")


def _check_names(files: Sequence[Path]) -> None:
    """Raise ValueError for a name that is not UTF-8, and for two that are one name on some file system."""
    seen: dict[str, Path] = {}
    for file in files:
        try:
            name = unicodedata.normalize("NFC", file.stem.encode().decode()).casefold()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"pictures: the name {file.name!r} in {file.parent} is not UTF-8: rename the file"
            ) from error
        if name in seen:
            raise ValueError(f"pictures: {seen[name]} and {file.name} would get the same result files; rename one")
        seen[name] = file


def _caption(file: Path) -> str:
    try:
        return read_small(file).decode("utf-8-sig").strip()
    except OSError as error:
        raise ValueError(f"pictures: the caption {file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"pictures: the caption {file} is no UTF-8 text: save it as UTF-8") from error


def usual_folder() -> Path:
    """Return the contest's folder of pictures if it exists, else that of eight drawn birds."""
    return CONTEST_FOLDER if CONTEST_FOLDER.is_dir() else DRAWN_BIRDS


def _number_and_name(file: Path) -> tuple[int, str]:
    """Return a sort key that puts bird_2 before bird_10."""
    digits = "".join(filter(str.isdecimal, file.stem))
    return int(digits or 0), file.stem
