"""Creates drawings of houses, balloons and cups."""

import numpy as np

from training.scenes.curves import Points, ellipse, limb, points, rounded, smooth
from training.scenes.drawing import BARK, CREAM, GLASS, Drawing, Part


def house(rng: np.random.Generator) -> Drawing:
    """Return a house with walls in the object's colour."""
    wide, high, gable = rng.uniform(0.46, 0.62), rng.uniform(0.5, 0.7), rng.uniform(0.3, 0.45)
    roof_colour = ((112, 72, 62), (92, 96, 110), (150, 84, 66))[rng.integers(3)]
    door_colour = (BARK, CREAM, (84, 92, 112))[rng.integers(3)]
    door_x = float(rng.choice([-0.56, 0.0, 0.56])) * wide
    walls = points((-wide, 0.0), (wide, 0.0), (wide, high), (-wide, high))
    roof = points(
        (-wide - 0.1, 0.03), (-0.5 * wide * (rng.random() < 0.5), -gable), (0.5 * wide, -gable), (wide + 0.1, 0.03)
    )
    if rng.random() < 0.5:  # the gable faces the viewer, so the wall extends up to the ridge
        walls = points((-wide, 0.0), (0.0, -gable), (wide, 0.0), (wide, high), (-wide, high))
        roof = points(
            (0.0, -gable - 0.1),
            (wide + 0.13, 0.0),
            (wide + 0.07, 0.09),
            (0.0, -gable + 0.06),
            (-wide - 0.07, 0.09),
            (-wide - 0.13, 0.0),
        )
    chimney = points(
        (0.3 * wide, -gable - 0.12), (0.3 * wide + 0.13, -gable - 0.12), (0.3 * wide + 0.13, 0.0), (0.3 * wide, 0.0)
    )
    door = points(
        (door_x - 0.09, high - 0.33), (door_x + 0.09, high - 0.33), (door_x + 0.09, high), (door_x - 0.09, high)
    )
    parts = [
        Part(chimney, (132, 92, 78), 0.2),
        Part(walls, 1.0, 0.2),
        Part(roof, roof_colour, 0.25),
        Part(door, door_colour, 0.1),
    ]
    for x in (-0.56, 0.0, 0.56):
        if x * wide != door_x and (door_x != 0.0 or x != 0.0):
            parts += _window(x * wide, 0.38 * high)
    return Drawing(parts, "stand")


def _window(x: float, y: float) -> list[Part]:
    def pane(half: float) -> Points:
        return points((x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half))

    bars = [limb([(x - 0.09, y), (x + 0.09, y)], 0.022, 0.022), limb([(x, y - 0.09), (x, y + 0.09)], 0.022, 0.022)]
    return [Part(pane(0.11), CREAM, 0.0), Part(pane(0.085), GLASS, 0.0), *(Part(bar, CREAM, 0.0) for bar in bars)]


def balloon(rng: np.random.Generator) -> Drawing:
    """Return a hot-air balloon."""
    wide, high = rng.uniform(0.38, 0.48), rng.uniform(0.42, 0.52)

    def envelope(share: float) -> Points:
        w = wide * share
        return smooth(
            (0.0, -high),
            (0.6 * w, -0.86 * high),
            (w, -0.25 * high),
            (0.86 * w, 0.2 * high),
            (0.3 * w + 0.02, 0.82 * high),
            (-0.3 * w - 0.02, 0.82 * high),
            (-0.86 * w, 0.2 * high),
            (-w, -0.25 * high),
            (-0.6 * w, -0.86 * high),
        )

    ropes = [limb([(s * 0.11, 0.78 * high), (s * 0.07, high + 0.14)], 0.022, 0.022) for s in (-1, 1)]
    basket = rounded([(-0.1, high + 0.12), (0.1, high + 0.12), (0.08, high + 0.28), (-0.08, high + 0.28)], 2)
    gores = [Part(envelope(1.0), 1.0, 0.45), Part(envelope(0.64), (CREAM, 1.3, 0.7)[rng.integers(3)], 0.2)]
    gores += [Part(envelope(0.26), 1.0, 0.2)]
    return Drawing([*(Part(rope, BARK, 0.0) for rope in ropes), *gores, Part(basket, (150, 104, 62), 0.3)], "fly")


def cup(rng: np.random.Generator) -> Drawing:
    """Return a cup of coffee on a saucer."""
    wide, high, taper = rng.uniform(0.32, 0.42), rng.uniform(0.42, 0.6), rng.uniform(0.62, 0.9)
    low, flat = taper * wide, 0.2 * wide
    rim = ellipse(0.0, 0.0, wide, flat)
    front = ellipse(0.0, high, low, 0.8 * flat)[:17]  # the lower half of the bottom, from right to left
    side = np.concatenate(
        [
            points((wide, 0.0), (0.5 * (wide + low) + 0.02, 0.5 * high)),
            front,
            points((-0.5 * (wide + low) - 0.02, 0.5 * high), (-wide, 0.0)),
        ]
    )
    handle = limb(
        [(0.9 * wide, 0.16 * high), (1.5 * wide, 0.16 * high), (1.45 * wide, 0.62 * high), (0.84 * wide, 0.74 * high)],
        0.07,
        0.06,
    )
    saucer = ellipse(0.0, high + 0.02, 1.6 * wide, 0.3 * wide)
    parts = [Part(saucer, CREAM, 0.3), Part(handle, 0.85, 0.25), Part(side, 1.0, 0.45)]
    parts += [Part(rim, 1.2, 0.0), Part(ellipse(0.0, 0.012, 0.86 * wide, 0.78 * flat), (94, 62, 44), 0.2)]
    return Drawing(parts, "stand")
