"""Creates drawings of birds on the water."""

import numpy as np

from training.scenes.curves import Points, limb, smooth
from training.scenes.drawing import BEAK, CREAM, Drawing, Part, eye


def duck(rng: np.random.Generator) -> Drawing:
    """Return a duck, or a swan if its neck is long."""
    long = rng.uniform(0.0, 0.22)  # length of the neck, from a duck's to a swan's
    r = rng.uniform(0.13, 0.16)
    hx, hy = 0.4, -0.36 - long
    body = _body(hx, hy, r)
    wing = smooth((0.22, -0.03), (0.2, 0.1), (-0.1, 0.16), (-0.38, 0.08), (-0.62, -0.06), (-0.35, -0.06), (-0.05, -0.1))
    bill = smooth(
        (hx + 0.8 * r, hy - 0.15 * r),
        (hx + 1.4 * r, hy + 0.1 * r),
        (hx + 2.1 * r, hy + 0.3 * r),
        (hx + 1.5 * r, hy + 0.6 * r),
        (hx + 0.75 * r, hy + 0.5 * r),
    )
    feathers = [limb([(0.0 - 0.16 * i, 0.1 - 0.02 * i), (-0.18 - 0.14 * i, 0.03)], 0.014, 0.022) for i in range(2)]
    collar = limb([(hx - 0.62 * r, hy + 1.2 * r), (hx, hy + 1.45 * r), (hx + 0.42 * r, hy + 1.2 * r)], 0.05, 0.05)
    parts = [
        Part(bill, BEAK, 0.2),
        Part(body, 1.0, 0.4),
        *([Part(collar, CREAM, 0.0)] if rng.random() < 0.4 else []),
        Part(wing, 0.8, 0.35),
        *(Part(feather, 0.62, 0.0) for feather in feathers),
        *eye(hx + 0.3 * r, hy - 0.2 * r, 0.028),
    ]
    return Drawing(parts, "float")


def _body(hx: float, hy: float, r: float) -> Points:
    """Return one outline for body, neck and head; the head has radius `r` and centre (hx, hy)."""
    return smooth(
        (hx + 0.95 * r, hy - 0.2 * r),
        (hx + 0.4 * r, hy - r),
        (hx - 0.5 * r, hy - 0.9 * r),
        (hx - 1.0 * r, hy),
        (0.24, -0.2),
        (0.12, -0.1),
        (-0.2, -0.13),
        (-0.48, -0.12),
        (-0.76, -0.24),
        (-0.68, 0.02),
        (-0.48, 0.2),
        (0.0, 0.27),
        (0.34, 0.2),
        (0.5, 0.02),
        (0.46, -0.16),
        (hx + 0.5 * r, hy + 0.9 * r),
    )
