"""Paints artificial backgrounds: walls and plain colours."""

import numpy as np

from training.scenes.canvas import WIDTH
from training.scenes.curves import ellipse, points
from training.scenes.ground import Ground, blank, pick
from training.scenes.palette import NEUTRALS, PALETTE, WHITE, colour, jittered, mixed, tinted
from training.scenes.scenery import (
    Rng,
    level,
    ramp,
)


def wall(rng: Rng) -> Ground:
    """Paint a brick wall behind a pavement."""
    name = pick(rng, "red", "grey", "white")
    brick = {"red": colour(176, 104, 88), "grey": colour(158, 158, 160), "white": colour(228, 224, 216)}[name]
    high, floor = rng.uniform(22, 30), rng.uniform(200, 220)
    mortar = tinted(brick, rng.uniform(0.66, 0.84))
    canvas = blank(ramp(mortar, mortar))
    for row in range(int(floor / high) + 1):
        for x in np.arange(-high * 2, WIDTH, high * 2.2) + (row % 2) * high * 1.1:
            y, w = row * high, high * 2.2
            corners = points((x + 2, y + 2), (x + w - 2, y + 2), (x + w - 2, y + high - 2), (x + 2, y + high - 2))
            canvas.fill(corners, tinted(brick, rng.uniform(0.95, 1.06)))
    canvas.fill(
        level(floor),
        ramp(colour(176, 168, 158), colour(206, 198, 188), top=floor),
    )
    return Ground(canvas, f"in front of a {pick(rng, name, 'brick')} wall", (228, 244))


def plain(rng: Rng) -> Ground:
    """Paint a plain background of one colour, sometimes with a table or a floor."""
    shades = {**PALETTE, **NEUTRALS}
    name = pick(rng, *shades)
    base = jittered(shades[name], rng)
    pale = mixed(base, WHITE, 0.32 if name in PALETTE else 0.0)
    canvas = blank(ramp(tinted(pale, 1.1), tinted(pale, 0.86)), dark=name == "black")
    if rng.random() < 0.4:  # a table or a floor
        edge = rng.uniform(150, 195)
        table = level(edge)
        canvas.fill(table, ramp(tinted(pale, 0.72), tinted(pale, 0.84), top=edge))
    canvas.shade(ellipse(192 + rng.uniform(-80, 80), 110, 130, 90), 40, -0.16)
    return Ground(canvas, f"on {'an' if name == 'orange' else 'a'} {name} background", (205, 238))
