"""Conversion of the caller's picture to the Canny edges that ControlNet reads, as in the original demo."""

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.uint8]


def hwc3(picture: Picture) -> Picture:
    """Convert gray [h, w] or [h, w, 1], RGB, or RGBA (composited over white) to [h, w, 3], uint8."""
    if picture.ndim == 2:
        picture = picture[:, :, None]
    channels = picture.shape[2]
    if channels == 3:
        return picture
    if channels == 1:
        return np.concatenate([picture] * 3, axis=2)
    colour, alpha = picture[:, :, :3].astype(np.float32), picture[:, :, 3:].astype(np.float32) / 255.0
    return (colour * alpha + 255.0 * (1.0 - alpha)).clip(0, 255).astype(np.uint8)


def target_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Return (height, width): the shorter side scaled to `resolution`, then both rounded to multiples of 64."""
    scale = resolution / min(height, width)
    return round(height * scale / 64.0) * 64, round(width * scale / 64.0) * 64


def resize(picture: Picture, resolution: int) -> Picture:
    """Scale to `target_size`: Lanczos to enlarge, area averaging to shrink."""
    height, width = picture.shape[:2]
    new_height, new_width = target_size(height, width, resolution)
    enlarges = resolution > min(height, width)
    method = cv2.INTER_LANCZOS4 if enlarges else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, (new_width, new_height), interpolation=method), dtype=np.uint8)


def canny(picture: Picture, low_threshold: float, high_threshold: float) -> Picture:
    """Return the edges of a [h, w, 3] picture, uint8 [h, w], 0 or 255 (Canny 1986, OpenCV's default 3x3 Sobel).

    OpenCV rounds both thresholds down, and exchanges them if the lower one is the greater.
    """
    return np.asarray(cv2.Canny(picture, low_threshold, high_threshold), dtype=np.uint8)


def hint_image(edges: Tensor) -> Tensor:
    """Convert edges uint8 [n, h, w], on any device, to float32 [n, 3, h, w] in 0..1."""
    return (edges.float() / 255.0)[:, None].expand(-1, 3, -1, -1)
