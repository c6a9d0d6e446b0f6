"""Draws the elements of backgrounds: colour ramps, clouds, hills, bushes, stones, grass and waves."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.scenes.canvas import HEIGHT, WIDTH, Canvas, Picture
from training.scenes.curves import Points, ellipse, limb, lobed, points, smooth
from training.scenes.palette import Colour, colour

Rng = np.random.Generator


def ramp(*colours: ArrayLike, top: float = 0, bottom: float = HEIGHT) -> Picture:
    """Return a vertical gradient through `colours`, from row `top` to row `bottom`."""
    stops = np.linspace(top, bottom, len(colours))
    channels = [np.interp(np.arange(HEIGHT), stops, [np.asarray(c)[i] for c in colours]) for i in range(3)]
    return np.broadcast_to(np.stack(channels, 1).astype(np.float32)[:, None], (HEIGHT, WIDTH, 3))


def mottled(picture: Picture, rng: Rng, amount: float, cell: int = 24) -> None:
    """Add uneven light of `amount` grey levels in place, smooth enough for an autoencoder of 8x8-pixel blocks."""
    noise = rng.standard_normal((HEIGHT // cell + 2, WIDTH // cell + 2), np.float32) * np.float32(amount)
    picture += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)[..., None]


def ridge(rng: Rng, y: float, height: float, waves: float = 3.0) -> Points:
    """Return the outline of land, from a wavy line near row `y` down to the bottom of the picture."""
    x = np.linspace(-8, WIDTH + 8, 49)
    phase, rate = rng.uniform(0, 2 * np.pi, 3), waves * rng.uniform(0.7, 1.3, 3) * [0.5, 1, 2]
    line = sum(
        np.sin(x / WIDTH * 2 * np.pi * r + p) / (i + 1) for i, (r, p) in enumerate(zip(rate, phase, strict=True))
    )
    return _down(x, y - height * np.asarray(line) / 2)


def peaks(rng: Rng, y: float, height: float) -> Points:
    """Return the outline of mountains whose feet are near row `y`."""
    x = np.arange(-60, WIDTH + 61, 48) + rng.uniform(-14, 14, 11)
    rise = np.where(np.arange(11) % 2 == rng.integers(2), rng.uniform(0.55, 1.0, 11), rng.uniform(0.0, 0.3, 11))
    return _down(x, y - height * rise)


def _down(x: NDArray[np.float64], y: NDArray[np.float64]) -> Points:
    line = np.stack([x, y], 1)
    return np.concatenate([line, [[x[-1], HEIGHT + 8], [x[0], HEIGHT + 8]]])


def puff(rng: Rng, x: float, y: float, width: float, height: float, lobes: int = 7) -> Points:
    """Return the outline of a cloud or a bush: flat below, round above, higher in the middle."""
    top = lobed(x, y, 0.5 * width, height, lobes, np.pi, np.pi)
    bulge = rng.uniform(-0.2, 0.2) * height * np.sin(np.linspace(0, 2 * np.pi, len(top)))
    base = [[x + 0.36 * width, y + 0.1 * height], [x - 0.36 * width, y + 0.1 * height]]
    return np.concatenate([top + np.stack([0 * bulge, bulge], 1), base])


def clouds(canvas: Canvas, rng: Rng, lowest: float, paint: Colour, count: int) -> None:
    """Draw clouds above row `lowest`, some sharp and some hazy."""
    for _ in range(count):
        x, y = rng.uniform(0, WIDTH), rng.uniform(24, max(lowest, 40))
        outline = puff(rng, x, y, rng.uniform(60, 130), rng.uniform(16, 32), int(rng.integers(3, 6)))
        if rng.random() < 0.6:
            canvas.fill(outline, paint, 0.12)
        else:
            canvas.shade(outline, 7, -0.5)


def bush(canvas: Canvas, rng: Rng, x: float, y: float, width: float, paint: Colour) -> None:
    canvas.fill(puff(rng, x, y, width, rng.uniform(0.4, 0.65) * width), paint, 0.35)


def level(y: float) -> Points:
    """Return the outline of the area below row `y`."""
    return points((-5, y), (WIDTH + 5, y), (WIDTH + 5, HEIGHT + 5), (-5, HEIGHT + 5))


def stone(canvas: Canvas, rng: Rng, x: float, y: float, width: float, paint: Colour) -> None:
    t, r = np.arange(7) * 2 * np.pi / 7, rng.uniform(0.8, 1.1, 7)
    outline = [(x + 0.5 * width * k * np.cos(a), y + 0.32 * width * k * np.sin(a)) for a, k in zip(t, r, strict=True)]
    canvas.fill(smooth(*outline), paint, 0.4)


def tuft(canvas: Canvas, rng: Rng, x: float, y: float, height: float, paint: Colour) -> None:
    """Draw a few blades of grass."""
    for lean in rng.uniform((-0.75, -0.25, 0.25), (-0.25, 0.25, 0.75)):
        tip = (x + 0.7 * lean * height, y - height * rng.uniform(0.7, 1.0))
        canvas.fill(
            limb([(x + 0.2 * lean * height, y), (x + 0.3 * lean * height, y - 0.5 * height), tip], 5, 1.5), paint
        )


def scattered(rng: Rng, count: int, top: float, bottom: float) -> Sequence[tuple[float, float, float]]:
    """Return random places on the ground as (x, y, nearness 0.5 to 1), from far to near."""
    rows = np.sort(rng.uniform(top, bottom, count))
    return [(rng.uniform(0, WIDTH), y, 0.5 + 0.5 * (y - top) / max(bottom - top, 1)) for y in rows]


def wave(canvas: Canvas, rng: Rng, x: float, y: float, length: float, thickness: float, paint: Colour) -> None:
    """Draw a crest of foam that tapers at both ends."""
    t = np.linspace(0, 1, 24)
    line = y + 0.6 * thickness * np.sin(2 * np.pi * (t * length / 50 + rng.random()))
    half = 0.5 * thickness * np.sin(np.pi * t) ** 0.6
    across = x + length * (t - 0.5)
    crest, trough = np.stack([across, line - half], 1), np.stack([across, line + half], 1)
    canvas.fill(np.concatenate([crest, trough[::-1]]), paint)


def daisy(canvas: Canvas, rng: Rng, x: float, y: float, width: float) -> None:
    """Draw a small flower in the grass."""
    paint = (colour(250, 250, 244), colour(246, 190, 204), colour(250, 226, 140))[rng.integers(3)]
    canvas.fill(lobed(x, y, 0.5 * width, 0.4 * width, 5, rng.uniform(0, 1)), paint)
    canvas.fill(ellipse(x, y, 0.17 * width, 0.14 * width, samples=12), colour(216, 150, 60))
