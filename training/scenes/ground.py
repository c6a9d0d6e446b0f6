"""The parts common to all backgrounds (canvas, words and floor), and a daylight sky, which several of them use."""

import dataclasses

import numpy as np

from training.scenes.canvas import Canvas, Picture
from training.scenes.palette import Colour, colour, jittered
from training.scenes.scenery import Rng, clouds, ramp

GREEN, SUMMER = colour(96, 146, 72), colour(156, 196, 108)


@dataclasses.dataclass(frozen=True)
class Ground:
    """A painted background, the words that describe it, and the rows on which objects stand or float."""

    canvas: Canvas
    words: str  # as in "a red bird {words}"
    floor: tuple[float, float]  # rows for the lowest points of standing and floating objects
    leaves: Colour = dataclasses.field(default_factory=lambda: GREEN)
    grass: Colour | None = None  # colour of the tufts in front of objects
    water: bool = False


def blank(picture: Picture, dark: bool = False) -> Canvas:
    """Return a canvas with a copy of `picture`; dark: with light instead of dark outlines of shapes."""
    return Canvas(np.array(picture, np.float32), rim=-0.22 if dark else 0.35)


def pick(rng: Rng, *options: str) -> str:
    """Return one of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def air(rng: Rng, horizon: float) -> tuple[Canvas, Colour, str]:
    """Return a canvas with a daylight sky, the colour at the horizon, and the colour name of the sky."""
    top, low, name = (
        (colour(112, 172, 230), colour(206, 230, 244), "blue"),
        (colour(150, 162, 176), colour(216, 220, 224), "grey"),
        (colour(226, 152, 176), colour(250, 218, 204), "pink"),
    )[int(rng.choice(3, p=[0.7, 0.15, 0.15]))]
    canvas = blank(ramp(jittered(top, rng), low, bottom=horizon))
    clouds(canvas, rng, 0.6 * horizon, colour(250, 250, 250), int(rng.integers(1, 4)))
    return canvas, low, name
