"""Paints backgrounds on land."""

from training.scenes.canvas import HEIGHT, WIDTH
from training.scenes.curves import ellipse, limb, points
from training.scenes.ground import GREEN, SUMMER, Ground, air, blank, pick
from training.scenes.palette import colour, mixed, tinted
from training.scenes.scenery import Rng, bush, daisy, mottled, peaks, ramp, ridge, scattered, stone, tuft


def field(rng: Rng) -> Ground:
    """Paint grass, bushes and flowers under the sky."""
    horizon = rng.uniform(105, 150)
    canvas, low, _ = air(rng, horizon)
    grass, name = (SUMMER, "green") if rng.random() < 0.75 else (colour(222, 200, 112), "yellow")
    canvas.fill(ridge(rng, horizon - 8, 22), mixed(grass, low, 0.5))
    canvas.fill(ridge(rng, horizon + 12, 8, 1.5), ramp(mixed(grass, low, 0.15), tinted(grass, 0.82), top=horizon))
    for x, y, near in scattered(rng, int(rng.integers(1, 4)), horizon + 14, horizon + 40):
        bush(canvas, rng, x, y, 60 * near, mixed(tinted(grass, 0.75), GREEN, 0.5))
    for x, y, near in scattered(rng, int(rng.integers(6, 14)), horizon + 24, HEIGHT):
        if rng.random() < 0.3:
            daisy(canvas, rng, x, y, 15 * near)
        else:
            tuft(canvas, rng, x, y, 26 * near, tinted(grass, 0.68))
    mottled(canvas.picture, rng, 1.8)
    return Ground(canvas, pick(rng, f"on a {name} field", "in the grass"), (215, 242), grass=grass)


def forest(rng: Rng) -> Ground:
    """Paint trunks in the mist."""
    mist, wood, floor = colour(206, 222, 196), colour(112, 96, 80), rng.uniform(160, 190)
    canvas = blank(ramp(colour(176, 204, 160), mist, bottom=floor))
    for depth in (0.6, 0.25):
        for x in rng.uniform(0, WIDTH, 4):
            width = 16 + 20 * (1 - depth) * rng.uniform(0.6, 1)
            trunk = limb([(x, -10), (x + rng.uniform(-12, 12), floor + 16)], width, 1.25 * width)
            canvas.fill(trunk, mixed(wood, mist, depth), 0.3)
        for x in rng.uniform(0, WIDTH, 2):
            bush(canvas, rng, x, floor + 6, rng.uniform(70, 120), mixed(colour(92, 134, 82), mist, depth))
    canvas.fill(ridge(rng, floor, 10, 1.5), ramp(colour(146, 168, 104), colour(104, 128, 74), top=floor))
    for x, y, near in scattered(rng, int(rng.integers(2, 6)), floor + 20, HEIGHT):
        tuft(canvas, rng, x, y, 30 * near, colour(70, 100, 54))
    mottled(canvas.picture, rng, 1.8)
    return Ground(canvas, "in the forest", (218, 242), grass=colour(104, 140, 76))


def mountains(rng: Rng) -> Ground:
    """Paint a meadow in front of snowy peaks."""
    horizon = rng.uniform(150, 180)
    canvas, low, _ = air(rng, horizon)
    far = peaks(rng, horizon, rng.uniform(95, 130))
    canvas.fill(far, ramp(colour(240, 244, 248), colour(146, 156, 184), colour(150, 166, 180), top=40, bottom=horizon))
    canvas.fill(ridge(rng, horizon - 4, 20), mixed(colour(110, 146, 112), low, 0.3))
    canvas.fill(ridge(rng, horizon + 16, 8, 1.5), ramp(SUMMER, tinted(SUMMER, 0.8), top=horizon))
    for x, y, near in scattered(rng, int(rng.integers(2, 5)), horizon + 26, HEIGHT):
        stone(canvas, rng, x, y, 34 * near, colour(168, 166, 164))
    return Ground(canvas, pick(rng, "in the mountains", "in front of mountains"), (220, 242), grass=SUMMER)


def snow(rng: Rng) -> Ground:
    """Paint snow-covered hills with firs."""
    horizon = rng.uniform(120, 160)
    canvas = blank(ramp(colour(176, 196, 216), colour(222, 230, 238), bottom=horizon))
    canvas.fill(ridge(rng, horizon - 10, 24), colour(204, 216, 230))
    for x in rng.uniform(0, WIDTH, int(rng.integers(2, 5))):
        for step in (2, 1, 0):
            w, y = 15 + 7 * step, horizon - 34 + 18 * step
            canvas.fill(points((x, y - 24), (x + w, y + 8), (x - w, y + 8)), colour(112, 148, 142), 0.25)
    canvas.fill(ridge(rng, horizon + 12, 10, 1.5), ramp(colour(246, 248, 252), colour(218, 226, 240), top=horizon))
    for x, y in zip(rng.uniform(0, WIDTH, 14), rng.uniform(0, horizon, 14), strict=True):
        canvas.fill(ellipse(x, y, 2.6, 2.6, samples=12), colour(252, 252, 255))
    return Ground(canvas, "in the snow", (215, 242), colour(226, 234, 240))


def desert(rng: Rng) -> Ground:
    """Paint dunes with cacti and stones."""
    horizon, sand = rng.uniform(115, 150), colour(232, 200, 146)
    canvas = blank(ramp(colour(134, 188, 226), colour(238, 230, 208), bottom=horizon))
    if rng.random() < 0.6:
        canvas.fill(ellipse(rng.uniform(40, 344), rng.uniform(30, 60), 20, 20), colour(255, 240, 180))
    canvas.fill(ridge(rng, horizon, 30, 1.5), mixed(sand, colour(244, 224, 190), 0.5))
    canvas.fill(ridge(rng, horizon + 26, 22, 1.2), ramp(sand, tinted(sand, 0.86), top=horizon))
    for x in rng.uniform(20, WIDTH - 20, int(rng.integers(0, 3))):
        base, green = horizon + rng.uniform(30, 45), colour(106, 142, 92)
        canvas.fill(limb([(x, base), (x, base - 56)], 15, 13), green, 0.4)
        for side in (-1, 1):
            arm = [(x, base - 20), (x + 16 * side, base - 24), (x + 18 * side, base - 44)]
            canvas.fill(limb(arm, 9, 8), green, 0.3)
    for x, y, near in scattered(rng, int(rng.integers(2, 5)), horizon + 50, HEIGHT):
        stone(canvas, rng, x, y, 30 * near, colour(186, 152, 112))
    return Ground(canvas, pick(rng, "in the desert", "on the sand"), (215, 242))
