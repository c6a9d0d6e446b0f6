"""Decodes pictures that users send. What they send is not trusted: sizes are checked before any pixel is decoded."""

import base64
import binascii
import io
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from cldm.canny import Picture
from reading import shown

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MOST_BYTES = 20 * 2**20  # of one file
MOST_PIXELS = 2**24  # 4096 x 4096; decoded, 64 MiB with alpha


def decode(content: bytes, name: str) -> Picture:
    """Return the picture in a file as RGB, uint8 [h, w, 3], turned as EXIF says, over white if it has alpha.

    name: of the argument, for messages. Raise ValueError if the file is too large, damaged, or of another format.
    """
    expected = f"expected a picture in one of the formats {', '.join(FORMATS)}"
    if len(content) > MOST_BYTES:
        raise ValueError(f"{name}: got a file of {len(content)} bytes, expected at most {MOST_BYTES}: make it smaller")
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # checked here, and more strictly
            if image.width * image.height <= MOST_PIXELS:
                return _over_white(ImageOps.exif_transpose(image))
            size = f"{image.height} x {image.width}"
    except Image.DecompressionBombError:
        size = "far more"
    except Exception as error:  # Pillow raises many kinds of exceptions for damaged files
        raise ValueError(f"{name}: got {len(content)} bytes that are damaged or no picture, {expected}") from error
    raise ValueError(f"{name}: got a picture of {size} pixels, expected at most {MOST_PIXELS}: make it smaller first")


def decode_base64(text: Any, name: str) -> Picture:
    """Return the picture in base64 text, which may begin like a data URL. Raise like `decode` and `read_base64`."""
    return decode(read_base64(text, name), name)


def read_base64(text: Any, name: str) -> bytes:
    """Return the bytes of base64 text, which may begin like a data URL. Raise TypeError or ValueError."""
    if not isinstance(text, str):
        raise TypeError(f"{name}: got {shown(text)}, expected a picture in base64")
    if len(text) > 2 * MOST_BYTES:
        raise ValueError(f"{name}: got {len(text)} characters, expected at most {2 * MOST_BYTES}: make it smaller")
    head, comma, rest = text.partition(",")
    try:
        return base64.b64decode("".join((rest if comma and head.startswith("data:") else text).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name}: got text that is no base64, expected a picture in base64") from error


def _over_white(image: Image.Image) -> Picture:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"), dtype=np.uint8)
