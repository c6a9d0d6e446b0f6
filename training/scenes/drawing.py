"""A drawing: coloured parts in the drawing's own coordinates, which a pose maps to a canvas."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.scenes.canvas import Canvas
from training.scenes.curves import Points, Pose, ellipse
from training.scenes.palette import Colour, tinted

Stance = Literal["stand", "fly", "perch", "swim", "float"]

INK = (38, 34, 40)
CREAM = (246, 236, 214)
BEAK = (236, 164, 52)
BARK = (112, 78, 54)
LEAF = (84, 138, 66)
GLASS = (186, 218, 232)


@dataclass(frozen=True)
class Part:
    """A shape of one colour. paint: a tint of the object's own colour (a float, 1.0 is the colour itself), or RGB."""

    outline: Points
    paint: float | tuple[int, int, int]
    relief: float = 0.3


@dataclass(frozen=True)
class Drawing:
    """Parts from back to front, facing right, and how the object is supported."""

    parts: Sequence[Part]
    stance: Stance
    sway: float = 0.03  # radians; the largest random rotation

    def bounds(self, pose: Pose) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of the drawing in pixels."""
        everything = np.concatenate([pose(part.outline) for part in self.parts])
        (left, top), (right, bottom) = everything.min(0), everything.max(0)
        return float(left), float(top), float(right), float(bottom)

    def draw(self, canvas: Canvas, pose: Pose, colour: Colour, main: bool) -> None:
        """Draw onto the canvas. main: whether the parts in the object's own colour enter the mask."""
        for part in self.parts:
            own = isinstance(part.paint, float)
            paint = tinted(colour, part.paint) if isinstance(part.paint, float) else np.array(part.paint, np.float32)
            canvas.fill(pose(part.outline), paint, part.relief, body=own and main)


def eye(x: float, y: float, radius: float) -> list[Part]:
    """Return the parts of a dark eye with a light ring and a glint."""
    return [
        Part(ellipse(x, y, radius * 1.35, radius * 1.35), CREAM, 0.0),
        Part(ellipse(x, y, radius, radius), INK, 0.0),
        Part(ellipse(x + 0.3 * radius, y - 0.35 * radius, 0.35 * radius, 0.35 * radius), (255, 255, 255), 0.0),
    ]
