"""The checks of single arguments: each returns the argument as a plain Python or NumPy type, or raises.

NumPy's scalars become Python numbers first: a uint8 would wrap in arithmetic, and a float16 would overflow. Arrays and
tensors are no numbers, even with one element. Every message is one short line, whatever the value.
"""

from typing import Any, NamedTuple

import numpy as np

from cldm.canny import Picture
from reading import is_whole, shown, to_float

INPUT_PIXELS = 2**26  # of input_image or edges: 8192 x 8192
LONGEST_SIDE = 4096  # pixels
OUTPUT_PIXELS = LONGEST_SIDE**2  # of all samples together
MOST_LETTERS = 10_000  # of a prompt; eight chunks of 75 tokens are about 3,000
HINTS = {
    type(None): ": cv2.imread returns None for a file that it cannot read",
    np.ma.MaskedArray: ": call its method filled() first",
}


class Range(NamedTuple):
    """The allowed values of an argument, both ends included. low_words: text for the lower end in messages."""

    low: float
    high: float
    low_words: str = ""

    def __str__(self) -> str:
        return f"{self.low_words or format(self.low, '.10g')} to {self.high:.10g}"


WHOLE = {
    "num_samples": Range(1, 1024),
    "image_resolution": Range(64, LONGEST_SIDE),
    "ddim_steps": Range(1, 1000),
    "seed": Range(0, 2**32 - 1, "-1 (random) or 0"),
}
FLOAT32 = Range(float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))
REAL = {"strength": FLOAT32, "scale": FLOAT32, "eta": Range(0, 1, "0 (deterministic)")}
THRESHOLD = Range(-(2**31), 2**31 - 1)  # OpenCV rounds thresholds down to int32, and larger ones would wrap


def check_whole(name: str, value: Any, allowed: Range) -> int:
    """Return the argument as an int. Raises TypeError or ValueError."""
    if not is_whole(value):
        raise TypeError(f"{name}: got {shown(value)}, expected a whole number")
    if not allowed.low <= int(value) <= allowed.high:
        raise ValueError(f"{name}: got {shown(int(value))}, expected {allowed}")
    return int(value)


def check_number(name: str, value: Any, allowed: Range, expected: str = "a number") -> float:
    """Return the argument as a float. Raises TypeError or ValueError.

    value: a real number of any type, also a Fraction or a Decimal, but not a boolean.
    """
    number = to_float(value)
    if number is None:
        raise TypeError(f"{name}: got {shown(value)}, expected {expected}")
    if not allowed.low <= number <= allowed.high:
        plain = value.item() if isinstance(value, np.generic) else value
        raise ValueError(f"{name}: got {shown(plain)}, expected a finite number from {allowed}")
    return number


def check_boolean(name: str, value: Any) -> bool:
    """Return the argument as a bool. Raises TypeError."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: got {shown(value)}, expected True or False")
    return bool(value)


def check_text(name: str, value: Any) -> str:
    """Return the argument as a str of at most MOST_LETTERS characters. Raises TypeError or ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: got {shown(value)}, expected a string")
    text = str.__str__(value)  # not str(value): a member of an enumeration of strings gives its name there
    if len(text) > MOST_LETTERS:
        raise ValueError(f"{name}: got {len(text)} characters, expected at most {MOST_LETTERS}: shorten it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}: got half of a surrogate pair at index {error.start}, expected Unicode text: remove it"
        ) from None
    return text


def check_picture(name: str, value: Any, channels: tuple[int, ...]) -> Picture:
    """Return a picture as an ndarray itself, if it is of a subclass. Raises TypeError or ValueError; reads no pixel.

    value: uint8 [h, w] or [h, w, one of `channels`], with any strides.
    """
    *most, last = ("[h, w]", *(f"[h, w, {count}]" for count in channels))
    expected = f"expected a uint8 array of shape {', '.join(most)} or {last}"
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: got {type(value).__name__}, {expected}{HINTS.get(type(value), '')}")
    picture = np.asarray(value)
    shape = list(picture.shape)
    if picture.dtype != np.uint8:
        raise TypeError(f"{name}: got dtype {str(picture.dtype)[:60]}, {expected}")
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] not in channels):
        raise ValueError(f"{name}: got shape {shape}, {expected}")
    if picture.size == 0:
        raise ValueError(f"{name}: got an empty picture of shape {shape}, {expected}")
    if shape[0] * shape[1] > INPUT_PIXELS:
        raise ValueError(f"{name}: got shape {shape}, expected at most {INPUT_PIXELS} pixels: make it smaller first")
    return picture


def read_only(picture: Picture) -> Picture:
    """Return a contiguous copy that nobody can write to."""
    copy = np.array(picture, dtype=np.uint8, order="C")
    copy.flags.writeable = False
    return copy
