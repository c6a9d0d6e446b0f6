"""Names the colours of objects and backgrounds, and finds the name nearest to a colour."""

from collections.abc import Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Colour = NDArray[np.float32]  # RGB [3], 0 to 255

PALETTE: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (208, 44, 46),
        "orange": (240, 134, 36),
        "yellow": (246, 216, 62),
        "green": (62, 162, 72),
        "blue": (48, 104, 212),
        "purple": (142, 72, 182),
    }
)
"""The six colours of objects, far apart in CIELAB; sRGB, 0 to 255."""

NEUTRALS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "white": (238, 238, 236),
        "grey": (152, 154, 158),
        "black": (44, 44, 50),
        "brown": (136, 94, 62),
        "pink": (240, 172, 190),
    }
)
"""Colours used only for backgrounds; sRGB, 0 to 255."""


def colour(red: float, green: float, blue: float) -> Colour:
    """Return a colour as an array; sRGB, 0 to 255."""
    return np.array((red, green, blue), np.float32)


WHITE: Colour = colour(255, 255, 255)


def mixed(colour: ArrayLike, other: ArrayLike, share: float) -> Colour:
    """Return a mixture of two colours, with a share `share` (0 to 1) of `other`."""
    return np.asarray(np.asarray(colour) * (1 - share) + np.asarray(other) * share, np.float32)


def tinted(colour: ArrayLike, tint: float) -> Colour:
    """Return a shade of `colour`: darker for a tint below 1, unchanged for 1, paler above 1 (2 is white)."""
    return np.asarray(colour, np.float32) * np.float32(tint) if tint <= 1 else mixed(colour, WHITE, tint - 1)


def jittered(colour: ArrayLike, rng: np.random.Generator) -> Colour:
    """Return a random colour so near to `colour` that its name still fits."""
    wobble = rng.uniform(-9, 9, 3) + rng.uniform(-10, 10)
    return np.asarray(np.clip(np.asarray(colour, np.float32) + wobble, 0, 255), np.float32)


def cielab(rgb: ArrayLike) -> NDArray[np.float32]:
    """Convert sRGB colours [n, 3], 0 to 255, to CIELAB with L from 0 to 100."""
    unit = np.asarray(rgb, np.float32).reshape(1, -1, 3) / np.float32(255)
    return np.asarray(cv2.cvtColor(unit, cv2.COLOR_RGB2LAB)[0], np.float32)


def nearest_colour(mean_rgb: ArrayLike) -> str:
    """Return the name of the `PALETTE` colour nearest in CIELAB to a mean sRGB colour [3], 0 to 255."""
    distances = np.linalg.norm(cielab(list(PALETTE.values())) - cielab(mean_rgb), axis=1)
    return list(PALETTE)[int(distances.argmin())]
