"""Paints backgrounds on and under water."""

from training.scenes.canvas import HEIGHT, WIDTH
from training.scenes.curves import ellipse, limb, points
from training.scenes.ground import GREEN, Ground, air, blank, pick
from training.scenes.palette import WHITE, colour, jittered, mixed, tinted
from training.scenes.scenery import Rng, level, puff, ramp, ridge, scattered, stone, wave


def sea(rng: Rng) -> Ground:
    """Paint open water up to the horizon."""
    horizon = rng.uniform(110, 150)
    canvas, low, _ = air(rng, horizon)
    if rng.random() < 0.5:
        x = rng.uniform(40, 344)
        island = puff(rng, x, horizon + 2, rng.uniform(80, 150), rng.uniform(14, 30), 4)
        canvas.fill(island, mixed(GREEN, low, 0.55), 0.2)
    water = jittered(colour(84, 154, 190), rng)
    canvas.fill(
        level(horizon),
        ramp(mixed(water, low, 0.45), tinted(water, 0.8), top=horizon),
    )
    for x, y, near in scattered(rng, int(rng.integers(6, 12)), horizon + 10, HEIGHT - 4):
        wave(canvas, rng, x, y, 100 * near**2 * rng.uniform(0.7, 1.3), 6 * near, mixed(water, WHITE, 0.55))
    return Ground(canvas, pick(rng, "on the sea", "on the water"), (190, 225), water=True)


def underwater(rng: Rng) -> Ground:
    """Paint a view below the surface, with rays of light, weeds and bubbles."""
    deep = jittered(colour(44, 112, 160), rng)
    canvas = blank(ramp(colour(138, 208, 222), deep))
    for x in rng.uniform(0, WIDTH, 3):
        canvas.shade(points((x, -20), (x + 36, -20), (x - 10, 240), (x - 90, 240)), 10, -0.13)
    canvas.fill(ridge(rng, 226, 12, 1.5), ramp(colour(206, 200, 164), colour(168, 172, 150), top=215))
    for x in rng.uniform(0, WIDTH, int(rng.integers(2, 6))):
        tall, lean = rng.uniform(40, 100), rng.uniform(-9, 9)
        weed = [(x, 244), (x + lean, 240 - 0.3 * tall), (x - lean, 240 - 0.65 * tall), (x + lean, 240 - tall)]
        canvas.fill(limb(weed, 11, 4), jittered(colour(64, 132, 96), rng), 0.3)
    for x, y, near in scattered(rng, int(rng.integers(1, 4)), 234, 256):
        stone(canvas, rng, x, y, 44 * near, colour(128, 140, 146))
    for x, y, r in zip(rng.uniform(0, WIDTH, 6), rng.uniform(10, 200, 6), rng.uniform(3, 7, 6), strict=True):
        canvas.fill(ellipse(x, y, r, r, samples=20), colour(196, 232, 238), 0.3)
    return Ground(canvas, pick(rng, "in the sea", "under water"), (215, 240))
