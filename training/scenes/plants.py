"""Creates drawings of flowers, mushrooms and trees."""

import numpy as np

from training.scenes.curves import Points, ellipse, limb, lobed, points, smooth, turned
from training.scenes.drawing import BARK, CREAM, LEAF, Drawing, Part


def flower(rng: np.random.Generator) -> Drawing:
    """Return a flower with a stem; its petals have the object's colour."""
    petals, length, width = int(rng.integers(5, 9)), rng.uniform(0.3, 0.38), rng.uniform(0.85, 1.1)
    sway, stem, centre = rng.uniform(-0.15, 0.15), rng.uniform(0.75, 0.95), rng.uniform(0.1, 0.14)
    half = width * length * np.pi / petals * 0.72
    petal = smooth(
        (0.0, 0.0), (half, -0.55 * length), (0.6 * half, -length), (-0.6 * half, -length), (-half, -0.55 * length)
    )
    turns = rng.uniform(0, 1) + np.arange(petals) * 2 * np.pi / petals
    leaf = smooth((0.0, 0.0), (0.16, -0.14), (0.4, -0.16), (0.22, 0.0))
    parts = [Part(limb([(0, 0), (sway, 0.5 * stem), (0, stem)], 0.05, 0.06), (74, 126, 58), 0.2)]
    parts += [Part(leaf * [s, 1] + [0.5 * sway, y * stem], LEAF, 0.25) for s, y in ((1, 0.75), (-1, 0.85))]
    parts += [Part(turned(petal, turn), 1.0 if i % 2 else 0.88, 0.3) for i, turn in enumerate(turns)]
    parts += [Part(ellipse(0, 0, centre, centre), ((250, 200, 70), (120, 76, 48))[rng.integers(2)], 0.35)]
    return Drawing(parts, "stand")


def mushroom(rng: np.random.Generator) -> Drawing:
    """Return a mushroom with a spotted cap in the object's colour."""
    wide, high, stem = rng.uniform(0.42, 0.58), rng.uniform(0.36, 0.5), rng.uniform(0.1, 0.16)
    tall = rng.uniform(0.4, 0.55)
    cap = _cap(wide, high)
    gills = ellipse(0.0, 0.03, 0.7 * wide, 0.06)
    foot = smooth(
        (stem, 0.0),
        (0.85 * stem, 0.5 * tall),
        (1.3 * stem, 0.92 * tall),
        (0.0, tall),
        (-1.3 * stem, 0.92 * tall),
        (-0.85 * stem, 0.5 * tall),
        (-stem, 0.0),
    )
    ring = smooth(
        (1.2 * stem, 0.3 * tall),
        (0.0, 0.42 * tall),
        (-1.2 * stem, 0.3 * tall),
        (-0.9 * stem, 0.16 * tall),
        (0.9 * stem, 0.16 * tall),
    )
    parts = [
        Part(foot, CREAM, 0.4),
        Part(ring, (232, 220, 194), 0.2),
        Part(cap, 1.0, 0.5),
        Part(gills, (222, 206, 178), 0.1),
    ]
    spots = [
        (0.0, -0.72, 0.1),
        (-0.5, -0.5, 0.08),
        (0.48, -0.46, 0.09),
        (-0.1, -0.3, 0.07),
        (-0.72, -0.16, 0.05),
        (0.7, -0.12, 0.05),
    ]
    size = rng.uniform(0.8, 1.15)
    parts += [Part(ellipse(x * wide, y * high, size * r, 0.8 * size * r), (250, 246, 236), 0.15) for x, y, r in spots]
    return Drawing(parts, "stand")


def _cap(wide: float, high: float) -> Points:
    return smooth(
        (wide, 0.0),
        (0.86 * wide, -0.55 * high),
        (0.45 * wide, -0.93 * high),
        (0.0, -high),
        (-0.45 * wide, -0.93 * high),
        (-0.86 * wide, -0.55 * high),
        (-wide, 0.0),
        (-0.6 * wide, 0.06),
        (0.0, 0.08),
        (0.6 * wide, 0.06),
    )


def tree(rng: np.random.Generator) -> Drawing:
    """Return a tree whose leaves have the object's colour."""
    return _pine(rng) if rng.random() < 0.35 else _broad(rng)


def _broad(rng: np.random.Generator) -> Drawing:
    trunk, tall = rng.uniform(0.06, 0.09), rng.uniform(0.4, 0.6)
    wood = smooth(
        (0.8 * trunk, -0.3),
        (trunk, 0.3 * tall),
        (1.9 * trunk, tall),
        (0.0, 0.97 * tall),
        (-1.9 * trunk, tall),
        (-trunk, 0.3 * tall),
        (-0.8 * trunk, -0.3),
    )
    wide, high, lobes = rng.uniform(0.38, 0.5), rng.uniform(0.34, 0.44), int(rng.integers(7, 11))
    crown = lobed(0.0, -0.3, wide, high, lobes, rng.uniform(0, 1))
    tufts = [(-0.18, -0.42, 0.13), (0.17, -0.34, 0.12), (-0.05, -0.17, 0.12)]
    parts = [Part(wood, BARK, 0.35), Part(crown, 0.95, 0.5)]
    parts += [
        Part(lobed(x + rng.uniform(-0.04, 0.04), y, 1.25 * r, r, 6, rng.uniform(0, 1)), 1.1, 0.35) for x, y, r in tufts
    ]
    return Drawing(parts, "stand")


def _pine(rng: np.random.Generator) -> Drawing:
    wide, layers = rng.uniform(0.3, 0.42), int(rng.integers(3, 5))
    parts = [Part(points((-0.06, 0.3), (0.06, 0.3), (0.07, 0.6), (-0.07, 0.6)), BARK, 0.3)]
    for i in reversed(range(layers)):
        w, y = wide * (0.5 + 0.5 * (i + 1) / layers), 0.4 - (layers - 1 - i) * 0.85 / layers
        parts += [
            Part(
                smooth((0.0, y - 0.5), (0.45 * w, y - 0.2), (w, y), (0.0, y + 0.05), (-w, y), (-0.45 * w, y - 0.2)),
                1.0,
                0.4,
            )
        ]
    return Drawing(parts, "stand")
