"""Paints backgrounds that are mostly sky."""

from training.scenes.canvas import HEIGHT, WIDTH
from training.scenes.curves import ellipse
from training.scenes.ground import Ground, air, blank, pick
from training.scenes.palette import colour
from training.scenes.scenery import Rng, clouds, ramp, ridge


def sky(rng: Rng) -> Ground:
    """Paint a sky with clouds."""
    canvas, _, name = air(rng, HEIGHT)
    clouds(canvas, rng, HEIGHT, colour(252, 252, 252), 2)
    return Ground(canvas, pick(rng, "in the sky", f"in a {name} sky"), (215, 235))


def sunset(rng: Rng) -> Ground:
    """Paint hills in front of the evening sun."""
    horizon, x = rng.uniform(140, 180), rng.uniform(50, 334)
    canvas = blank(ramp(colour(120, 96, 160), colour(232, 132, 120), colour(252, 206, 132), bottom=horizon))
    r = rng.uniform(24, 36)
    canvas.shade(ellipse(x, horizon - 14, 2 * r, 2 * r), 16, -0.3)
    canvas.fill(ellipse(x, horizon - rng.uniform(0, 24), r, r), colour(255, 236, 170))
    canvas.fill(ridge(rng, horizon, 18), colour(154, 98, 112))
    canvas.fill(ridge(rng, horizon + 22, 10, 1.5), ramp(colour(112, 78, 92), colour(84, 62, 80), top=horizon))
    return Ground(canvas, "at sunset", (218, 242), colour(96, 84, 76))


def night(rng: Rng) -> Ground:
    """Paint a dark sky with the moon and stars."""
    horizon = rng.uniform(170, 200)
    canvas = blank(ramp(colour(18, 24, 52), colour(44, 56, 100), bottom=horizon), dark=True)
    x, y, r = rng.uniform(40, 344), rng.uniform(36, 70), rng.uniform(16, 26)
    canvas.shade(ellipse(x, y, 2 * r, 2 * r), 14, -0.16)
    canvas.fill(ellipse(x, y, r, r), colour(246, 240, 208), 0.15)
    for sx, sy in zip(rng.uniform(0, WIDTH, 12), rng.uniform(0, horizon - 20, 12), strict=True):
        canvas.fill(ellipse(sx, sy, 2.4, 2.4, samples=12), colour(220, 224, 240))
    canvas.fill(ridge(rng, horizon, 26), colour(30, 40, 66))
    canvas.fill(ridge(rng, horizon + 20, 10, 1.5), ramp(colour(24, 36, 48), colour(18, 26, 36), top=horizon))
    return Ground(canvas, pick(rng, "at night", "in the night"), (220, 242), colour(48, 72, 60))
