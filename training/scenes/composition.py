"""Places an object in the picture, with its shadow and the branch, grass or water around it."""

from dataclasses import dataclass

from training.scenes.branches import branch
from training.scenes.canvas import HEIGHT, WIDTH
from training.scenes.curves import Pose, ellipse
from training.scenes.drawing import Drawing
from training.scenes.ground import Ground
from training.scenes.palette import Colour, colour, tinted
from training.scenes.scenery import Rng, tuft, wave


@dataclass(frozen=True)
class Room:
    """The part of the picture that is available to an object."""

    x: float = 0.5 * WIDTH  # centre, pixels
    width: float = 0.8 * WIDTH  # pixels
    height: float = 0.8 * HEIGHT  # pixels
    rise: float = 0.0  # pixels by which the object is moved up, away from the viewer


def put(rng: Rng, ground: Ground, drawing: Drawing, room: Room, paint: Colour, main: bool) -> None:
    """Draw an object with its shadow, branch, grass or water."""
    pose, box = _posed(rng, ground, drawing, room)
    left, _, right, bottom = box
    wide, middle = right - left, (left + right) / 2
    stance = "stand" if drawing.stance == "float" and not ground.water else drawing.stance
    if stance == "stand":
        ground.canvas.shade(ellipse(middle + 0.06 * wide, bottom, 0.46 * wide, 6 + 0.03 * wide), 6, 0.35)
    if stance == "perch":
        branch(ground.canvas, rng, pose.x, bottom - 3, ground.leaves)
    drawing.draw(ground.canvas, pose, paint, main)
    if stance == "stand" and ground.grass is not None and rng.random() < 0.4:
        for x in rng.uniform(left, right, 3):
            tuft(ground.canvas, rng, x, bottom + 8, rng.uniform(16, 26), tinted(ground.grass, 0.7))
    if stance == "float":
        _ripples(rng, ground, left, right, bottom)


def _posed(rng: Rng, ground: Ground, drawing: Drawing, room: Room) -> tuple[Pose, tuple[float, float, float, float]]:
    mirrored, angle = bool(rng.random() < 0.5), rng.uniform(-drawing.sway, drawing.sway)
    left, top, right, bottom = drawing.bounds(Pose(0, 0, 1, mirrored, angle))
    scale = rng.uniform(0.68, 1.0) * min(room.width / (right - left), room.height / (bottom - top))
    slack = max((room.width - scale * (right - left)) / 2, 0)
    x = room.x + rng.uniform(-slack, slack) - scale * (left + right) / 2
    foot = _foot(rng, ground, drawing, scale * (bottom - top)) - room.rise
    pose = Pose(x, foot - scale * bottom, scale, mirrored, angle)
    return pose, drawing.bounds(pose)


def _foot(rng: Rng, ground: Ground, drawing: Drawing, height: float) -> float:
    """Return the row of the object's lowest point, chosen at random."""
    if drawing.stance in ("stand", "float"):
        return rng.uniform(*ground.floor)
    lowest = HEIGHT - (40 if drawing.stance == "perch" else 12)
    return rng.uniform(min(height + 10, lowest), lowest)


def _ripples(rng: Rng, ground: Ground, left: float, right: float, bottom: float) -> None:
    """Draw the reflection of a floating object and the waves at its waterline."""
    wide, middle = right - left, (left + right) / 2
    ground.canvas.shade(ellipse(middle, bottom + 6, 0.46 * wide, 9), 5, 0.3)
    for row, reach in ((0, 0.56), (15, 0.36)):
        length = 2 * reach * wide * rng.uniform(0.9, 1.1)
        wave(ground.canvas, rng, middle, bottom + row, length, 6, colour(186, 214, 228))
