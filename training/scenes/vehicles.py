"""Creates drawings of cars and boats."""

import numpy as np

from training.scenes.curves import ellipse, limb, points, rounded, smooth
from training.scenes.drawing import BARK, CREAM, GLASS, INK, Drawing, Part

GREY = (150, 152, 158)


def car(rng: np.random.Generator) -> Drawing:
    """Return a car that drives to the right."""
    cabin, high, wheel = rng.uniform(0.18, 0.26), rng.uniform(0.2, 0.26), rng.uniform(0.125, 0.15)
    front, back = rng.uniform(0.12, 0.24), rng.uniform(-0.52, -0.34)
    body = rounded(
        [
            (-0.68, 0.02),
            (back - 0.04, -0.02),
            (back + 0.1, -cabin),
            (front - 0.08, -cabin),
            (front + 0.12, 0.0),
            (0.6, 0.06),
            (0.7, 0.14),
            (0.7, high),
            (-0.7, high),
            (-0.72, 0.1),
        ]
    )
    glass = [
        points((back + 0.05, 0.0), (back + 0.14, -cabin + 0.05), (-0.13, -cabin + 0.05), (-0.13, 0.0)),
        points((-0.08, 0.0), (-0.08, -cabin + 0.05), (front - 0.1, -cabin + 0.05), (front + 0.05, 0.0)),
    ]
    parts = [Part(body, 1.0, 0.4), *(Part(pane, GLASS, 0.2) for pane in glass)]
    parts += [Part(limb([(-0.1, 0.02), (-0.1, high - 0.03)], 0.016, 0.016), 0.68, 0.0)]
    parts += [Part(limb([(-0.02, 0.08), (0.06, 0.08)], 0.025, 0.025), 0.65, 0.0)]
    parts += [Part(ellipse(0.64, 0.11, 0.05, 0.035), (252, 240, 190), 0.0)]
    parts += [
        Part(rounded([(-0.73, high - 0.05), (0.73, high - 0.05), (0.73, high + 0.02), (-0.73, high + 0.02)]), GREY, 0.2)
    ]
    for x in (-0.42, 0.42):
        parts += [
            Part(ellipse(x, high, wheel, wheel), INK, 0.15),
            Part(ellipse(x, high, 0.5 * wheel, 0.5 * wheel), (196, 198, 204), 0.2),
        ]
    return Drawing(parts, "stand")


def boat(rng: np.random.Generator) -> Drawing:
    """Return a sailing boat with a hull in the object's colour."""
    mast, deep, rake = rng.uniform(0.75, 1.0), rng.uniform(0.18, 0.26), rng.uniform(0.08, 0.2)
    hull = smooth(
        (-0.56, -0.02),
        (-0.3, 0.0),
        (0.2, 0.0),
        (0.66, -0.08),
        (0.66 - rake, 0.6 * deep),
        (0.36, deep),
        (-0.38, deep),
        (-0.54, 0.6 * deep),
    )
    main = smooth(
        (-0.01, -mast),
        (-0.02, -0.5 * mast),
        (-0.02, -0.12),
        (-0.3, -0.12),
        (-0.52, -0.14),
        (-0.3, -0.5 * mast),
        (-0.09, -0.9 * mast),
    )
    jib = smooth(
        (0.08, -0.9 * mast), (0.3, -0.5 * mast), (0.54, -0.15), (0.28, -0.13), (0.07, -0.14), (0.1, -0.5 * mast)
    )
    stripe = limb([(-0.54, 0.07), (0.0, 0.08), (0.6, 0.03)], 0.035, 0.035)
    pole = limb([(0.02, 0.02), (0.02, -mast - 0.06)], 0.04, 0.03)
    flag = points((0.02, -mast - 0.06), (-0.16, -mast), (0.02, -mast + 0.05))
    sail = (CREAM, (236, 224, 232), (214, 226, 236))[rng.integers(3)]
    return Drawing(
        [
            Part(pole, BARK, 0.0),
            Part(flag, 1.0, 0.0),
            Part(main, sail, 0.3),
            Part(jib, sail, 0.3),
            Part(hull, 1.0, 0.4),
            Part(stripe, CREAM, 0.0),
        ],
        "float",
    )
