"""Draws the branch that a bird perches on."""

import numpy as np

from training.scenes.canvas import WIDTH, Canvas
from training.scenes.curves import ellipse, limb
from training.scenes.palette import Colour, colour, tinted
from training.scenes.scenery import Rng


def branch(canvas: Canvas, rng: Rng, x: float, y: float, leaves: Colour) -> None:
    """Draw a branch from one side of the picture to a point beyond (x, y), where an object perches."""
    side = -1 if rng.random() < 0.5 else 1
    start, end = (-10.0 if side < 0 else WIDTH + 10.0), x - side * rng.uniform(60, 130)
    droop, lift = rng.uniform(-6, 26), rng.uniform(-10, 14)
    middle, tip = (0.5 * (start + x), y + 9 + 0.3 * droop), (end, y + 5 - lift)
    spine = [(start, y + 7 + droop), middle, (x, y + 5), tip]
    canvas.fill(limb(spine, rng.uniform(13, 18), 5), colour(112, 80, 56), 0.4)
    for knot in (middle, (0.7 * end + 0.3 * x, y + 6 - 0.7 * lift), tip):
        for turn in rng.uniform((-1.1, 0.4), (-0.1, 1.4)):
            paint = tinted(leaves, rng.uniform(0.85, 1.05))
            _leaf(canvas, knot, rng.uniform(20, 30), turn + (np.pi if side > 0 else 0), paint)


def _leaf(canvas: Canvas, stalk: tuple[float, float], length: float, angle: float, paint: Colour) -> None:
    x, y = stalk[0] + 0.5 * length * np.cos(angle), stalk[1] + 0.5 * length * np.sin(angle)
    canvas.fill(ellipse(x, y, 0.5 * length, 0.22 * length, angle, samples=16), paint, 0.3)
