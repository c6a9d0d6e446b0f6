"""PNG files of pictures: compressed by ISA-L in a fifth of OpenCV's time, to at most a tenth more (three pictures)."""

import io
import struct
from collections.abc import Mapping

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import PngImagePlugin

from cldm.canny import Picture

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB = 2  # kind of pixels
SUB = 1  # filter of lines: each value minus that of the pixel to its left


def png_file(picture: Picture, texts: Mapping[str, str]) -> bytes:
    """Return a PNG file of an RGB picture, uint8 [h, w, 3], with text chunks by keyword."""
    height, width, _ = picture.shape
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0)),
        *((kind, content) for kind, content, *_ in info.chunks),
        (b"IDAT", isal_zlib.compress(_filtered(picture).tobytes())),
        (b"IEND", b""),
    ]
    file = io.BytesIO()
    file.write(SIGNATURE)
    for chunk in chunks:
        PngImagePlugin.putchunk(file, *chunk)
    return file.getvalue()


def _filtered(picture: Picture) -> NDArray[np.uint8]:
    """Return lines [h, 1 + 3w], each with its filter first."""
    lines = picture.reshape(len(picture), -1)
    filtered = np.empty((len(lines), 1 + lines.shape[1]), np.uint8)
    filtered[:, 0] = SUB
    filtered[:, 1:4] = lines[:, :3]
    np.subtract(lines[:, 3:], lines[:, :-3], out=filtered[:, 4:])
    return filtered
