"""Reads small files that may be damaged, checks numbers and paths that users give, and shows values in messages."""

import errno
import json
import math
import numbers
import os
import re
import reprlib
import stat
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, SupportsInt, TypeGuard

import numpy as np

LARGEST = 16 * 2**20  # bytes; settings, vocabularies and plans are smaller
DIGITS = 100  # of an integer in JSON; longer ones may overflow a float
LONGEST_PATH = 4096  # bytes
LONGEST_SHOWN = 120
NOT_NUMBERS = (bool, np.timedelta64)  # both are integers for isinstance
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # a message with a line break would not be one line


class _Short(reprlib.Repr):
    """One line of bounded length for any value; it never raises."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict = 3, 8, 8, 8
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < 10**DIGITS else f"an integer of more than {DIGITS} digits"

    def repr_instance(self, x: Any, level: int) -> str:
        return " ".join(super().repr_instance(x, level).split())


_SHORT = _Short()


def shown(value: object) -> str:
    """Return the value for a message: on one line, and cut to LONGEST_SHOWN characters."""
    text = _SHORT.repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def read_regular(path: Path, largest: float = math.inf) -> bytes:
    """Return the bytes of a file. Raise OSError if it is missing, no regular file or larger than `largest`."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))  # a pipe would never end
    if status.st_size > largest:
        raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, expected at most {largest}", str(path))
    return path.read_bytes()


def read_small(path: Path) -> bytes:
    """Return the bytes of a file. Raise OSError if it is missing, no regular file or larger than 16 MiB."""
    return read_regular(path, LARGEST)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raise OSError like `read_small` and ValueError like `parse_object`."""
    return parse_object(read_small(path))


def parse_object(content: bytes | str) -> dict[str, Any]:
    """Return a JSON object with finite numbers; a byte order mark is accepted.

    Raise ValueError with a short reason that begins with a verb, such as "is not valid JSON (...)".
    """
    try:
        value = json.loads(
            content, object_pairs_hook=_unique, parse_int=_integer, parse_float=_finite, parse_constant=_finite
        )
    except RecursionError:
        raise ValueError("is not valid JSON (nested too deeply)") from None
    except ValueError as error:
        raise ValueError(f"is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def is_whole(value: object) -> TypeGuard[SupportsInt]:
    """Return whether the value is an integer of any type, but no boolean."""
    return isinstance(value, numbers.Integral) and not isinstance(value, NOT_NUMBERS)


def to_float(value: Any) -> float | None:
    """Return a real number of any type as a float, NaN if it is no float; None for anything else, also a boolean.

    NumPy's scalars become Python's first: a float16 would overflow in comparisons, and warn or raise.
    """
    if not isinstance(value, (numbers.Real, Decimal)) or isinstance(value, NOT_NUMBERS):
        return None
    try:
        return float(value.item() if isinstance(value, np.generic) else value)
    except (OverflowError, ValueError):  # a huge integer or fraction; Decimal("sNaN")
        return math.nan


def path_text(name: str, value: object) -> str:
    """Return a path that was given for the argument `name` as a string.

    Raise TypeError if it is neither a string nor a path, and ValueError if no file can have this name or the name has
    control characters.
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise TypeError(f"{name}: got {shown(value)}, expected the path of a file or folder")
    if not text.strip():
        raise ValueError(f"{name}: got the empty path {text!r}, expected the path of a file or folder")
    try:
        usable = not CONTROL.search(text) and len(os.fsencode(text)) < LONGEST_PATH
    except UnicodeEncodeError:  # half of a surrogate pair
        usable = False
    if not usable:
        raise ValueError(
            f"{name}: got {shown(text)}, which no file can be called or has control characters: give the path of a "
            "file or folder"
        )
    return text


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {shown(key)} is given twice")
        values[key] = value
    return values


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {shown(text)} is not finite")
    return value
