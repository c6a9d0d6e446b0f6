"""Creates outlines, the closed polygons that all drawn pictures consist of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]  # [n, 2], x to the right and y down


def points(*pairs: tuple[float, float]) -> Points:
    """Return the polygon with these corners."""
    return np.array(pairs, np.float64)


def smooth(*pairs: tuple[float, float], samples: int = 8) -> Points:
    """Return a closed Catmull-Rom curve through the points."""
    p1 = points(*pairs)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    return _catmull_rom(p0, p1, p2, p3, samples)


def bend(pairs: ArrayLike, samples: int = 8) -> Points:
    """Return an open Catmull-Rom curve through the points."""
    p = np.asarray(pairs, np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    curve = _catmull_rom(p[:-3], p[1:-2], p[2:-1], p[3:], samples)
    return np.concatenate([curve, p[-2:-1]])


def _catmull_rom(p0: Points, p1: Points, p2: Points, p3: Points, samples: int) -> Points:
    t = np.linspace(0, 1, samples, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None] for p in (p0, p1, p2, p3))
    curve = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return np.asarray(curve.reshape(-1, 2) / 2)


def limb(pairs: Sequence[tuple[float, float]], start: float, end: float) -> Points:
    """Return a strip along an open curve; its width changes from `start` to `end`."""
    spine = bend(pairs, samples=6)
    along = np.gradient(spine, axis=0)
    across = along[:, ::-1] * [-1, 1] / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    half = across * np.linspace(start, end, len(spine))[:, None] / 2
    return np.concatenate([spine + half, (spine - half)[::-1]])


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, samples: int = 32) -> Points:
    """Return an ellipse with centre (x, y), turned clockwise by `angle` radians."""
    t = np.linspace(0, 2 * np.pi, samples, endpoint=False)
    return turned(np.stack([rx * np.cos(t), ry * np.sin(t)], 1), angle, x, y)


def lobed(x: float, y: float, rx: float, ry: float, lobes: float, turn: float = 0.0, arc: float = 2 * np.pi) -> Points:
    """Return an arc with `lobes` bulges that spans the angle `arc` from `turn`: treetops, clouds, bushes, daisies."""
    t = np.linspace(0, 1, int(6 * lobes) + 1)
    swell = 0.86 + 0.14 * np.abs(np.sin(np.pi * lobes * t)) ** 0.8
    return np.stack([x + rx * swell * np.cos(turn + arc * t), y + ry * swell * np.sin(turn + arc * t)], 1)


def rounded(corners: ArrayLike, times: int = 3) -> Points:
    """Return the polygon after cutting its corners `times` times (Chaikin)."""
    p = np.asarray(corners, np.float64)
    for _ in range(times):
        following = np.roll(p, -1, 0)
        p = np.stack([0.8 * p + 0.2 * following, 0.2 * p + 0.8 * following], 1).reshape(-1, 2)
    return p


def turned(outline: Points, angle: float, x: float = 0.0, y: float = 0.0) -> Points:
    """Return `outline` turned clockwise about the origin by `angle` radians, and then moved by (x, y)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(outline @ np.array([[c, s], [-s, c]]) + np.array([x, y]))


@dataclass(frozen=True)
class Pose:
    """Maps a drawing's own coordinates to pixels of the picture. Calling the object maps an outline."""

    x: float  # pixels
    y: float  # pixels
    scale: float  # pixels per unit
    mirrored: bool = False
    angle: float = 0.0  # radians, clockwise

    def __call__(self, outline: Points) -> Points:
        placed = turned(outline, self.angle) * self.scale
        return placed * [-1 if self.mirrored else 1, 1] + [self.x, self.y]
