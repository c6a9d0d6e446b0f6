"""A canvas for filled, shaded shapes and soft shadows, with a mask of the main object's body."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from training.scenes.curves import Points

HEIGHT, WIDTH = 256, 384

LIGHT = (-0.6, -0.8)  # unit vector towards the light: from the upper left

_SHIFT = 4  # fractional bits of the coordinates given to OpenCV
_FINE = 2  # outlines are drawn at twice the size because OpenCV's antialiasing is uneven
_COARSE = 4  # shading is soft, so it is computed at a quarter of the width and height

Picture = NDArray[np.float32]  # RGB [256, 384, 3], 0 to 255


@dataclass
class Canvas:
    """The picture drawn so far and the mask of the main object's body.

    `rim` is the light lost at the outline of a shape, as in a watercolour: it keeps the outline visible on a background
    of the same colour, without the double edges of an ink line. It is negative (light gained) on dark backgrounds.
    """

    picture: Picture
    rim: float = 0.35
    mask: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((HEIGHT, WIDTH), np.bool_))

    def fill(self, outline: Points, paint: NDArray[np.float32], relief: float = 0.0, body: bool = False) -> None:
        """Fill a closed outline in pixels with an RGB colour [3] or with the same region of a picture [256, 384, 3].

        relief: how round the shape looks, 0 to about 0.5. body: add the shape to the mask; otherwise remove it from the
        mask, because it covers what is there.
        """
        window = _window(outline)
        if window is None:
            return
        alpha = _coverage(outline, window)
        colour = paint[window] if paint.ndim == 3 else paint
        if relief > 0 and min(alpha.shape) >= 2 * _COARSE:
            colour = self._lit(colour, alpha, relief)
        under = self.picture[window]
        under += (colour - under) * _tripled(alpha)
        self.mask[window][alpha > 0.5] = body

    def _lit(self, colour: Picture, alpha: NDArray[np.float32], relief: float) -> Picture:
        height, width = alpha.shape
        coarse = cv2.resize(alpha, (-(-width // _COARSE), -(-height // _COARSE)), interpolation=cv2.INTER_AREA)
        reach = min(0.16 * min(coarse.shape), 6.0)
        near = cv2.GaussianBlur(coarse, (0, 0), min(reach, 1.5), borderType=cv2.BORDER_CONSTANT)
        far = cv2.GaussianBlur(coarse, (0, 0), reach, borderType=cv2.BORDER_CONSTANT)
        slope_x = cv2.Sobel(far, cv2.CV_32F, 1, 0, scale=0.125, borderType=cv2.BORDER_REPLICATE)
        slope_y = cv2.Sobel(far, cv2.CV_32F, 0, 1, scale=0.125, borderType=cv2.BORDER_REPLICATE)
        facing = np.float32(LIGHT[0]) * slope_x + np.float32(LIGHT[1]) * slope_y
        shadow = np.float32(2 * self.rim * min(3 * relief, 1.0)) * (1 - near)
        lit = np.float32(-2.5 * reach * relief) * facing - shadow
        light = _tripled(cv2.resize(lit, (width, height), interpolation=cv2.INTER_LINEAR))
        darker = colour * (1 + np.minimum(light, 0))
        return np.asarray(darker + np.float32(0.7) * (255 - colour) * np.maximum(light, 0), np.float32)

    def shade(self, outline: Points, softness: float, amount: float) -> None:
        """Darken the inside of an outline in pixels, or lighten it if `amount` < 0, blurred by `softness` pixels."""
        window = _window(outline, margin=2 * softness)
        if window is None:
            return
        alpha = _coverage(outline, window)
        small = cv2.resize(alpha, None, fx=1 / _COARSE, fy=1 / _COARSE, interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), softness / _COARSE, borderType=cv2.BORDER_REPLICATE)
        soft = _tripled(cv2.resize(small, alpha.shape[::-1], interpolation=cv2.INTER_LINEAR))
        target = np.float32(0 if amount > 0 else 255)
        self.picture[window] += (target - self.picture[window]) * soft * np.float32(abs(amount))

    def finished(self) -> NDArray[np.uint8]:
        """Return the picture as RGB uint8 [256, 384, 3], slightly blurred like pictures of lenses and decoders."""
        soft = cv2.GaussianBlur(self.picture, (3, 3), 0.6)
        return np.asarray(cv2.convertScaleAbs(np.maximum(soft, 0)), np.uint8)  # rounds and saturates


def _tripled(channel: NDArray[np.float32] | cv2.typing.MatLike) -> Picture:
    """Return three copies of one channel: NumPy multiplies them several times faster than it broadcasts a channel."""
    return np.asarray(cv2.merge((channel, channel, channel)), np.float32)


def _window(outline: Points, margin: float = 2.0) -> tuple[slice, slice] | None:
    (left, top), (right, bottom) = outline.min(0) - margin, outline.max(0) + margin
    x0, x1 = max(int(left), 0), min(int(right) + 1, WIDTH)
    y0, y1 = max(int(top), 0), min(int(bottom) + 1, HEIGHT)
    return (slice(y0, y1), slice(x0, x1)) if x1 - x0 > 3 and y1 - y0 > 3 else None


def _coverage(outline: Points, window: tuple[slice, slice]) -> NDArray[np.float32]:
    rows, columns = window
    height, width = rows.stop - rows.start, columns.stop - columns.start
    fine = np.zeros((height * _FINE, width * _FINE), np.uint8)
    centred = (outline - [columns.start, rows.start] + 0.5) * _FINE - 0.5
    cv2.fillPoly(fine, [np.rint(centred * (1 << _SHIFT)).astype(np.int32)], 255, cv2.LINE_AA, _SHIFT)
    alpha = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(alpha / np.float32(255), np.float32)
