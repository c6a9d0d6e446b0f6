"""Draws training pictures: an object of one colour in front of a background, with a caption and a mask."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from training.scenes.animals import butterfly, cat, fish
from training.scenes.backgrounds import BACKGROUNDS, PLACES
from training.scenes.birds import bird
from training.scenes.canvas import HEIGHT, WIDTH
from training.scenes.captions import TEMPLATES, named
from training.scenes.composition import Room, put
from training.scenes.drawing import Drawing
from training.scenes.ground import Ground
from training.scenes.palette import PALETTE, jittered
from training.scenes.plants import flower, mushroom, tree
from training.scenes.things import balloon, cup, house
from training.scenes.vehicles import boat, car

TAG = 0x5CE7E  # part of the seed, so that the random numbers differ from those of other generators

DRAWINGS: Mapping[str, Callable[[np.random.Generator], Drawing]] = MappingProxyType(
    {f.__name__: f for f in (bird, fish, cat, butterfly, flower, mushroom, tree, house, car, boat, balloon, cup)}
)

BIRDS, COMPANY = 0.3, 0.4  # probabilities: of a bird, else of any kind evenly; of trying a second object


@dataclass(frozen=True)
class Scene:
    """A drawn picture and its labels."""

    picture: NDArray[np.uint8]  # RGB [256, 384, 3]
    caption: str
    mask: NDArray[np.bool_]  # [256, 384], the coloured body of the main object
    kind: str
    colour: str  # of `PALETTE`
    background: str  # of `BACKGROUNDS`
    template: str  # the caption with {} for the main object


def caption_with_colour(scene: Scene, colour: str) -> str:
    """Return the caption of a scene with the main object in another colour."""
    return scene.template.format(named(scene.kind, colour))


def scene(seed: int, colour: str | None = None) -> Scene:
    """Return the scene for a seed; equal seeds give equal scenes.

    colour: name in `PALETTE` of the main object's colour; by default random. Apart from that colour,
    only the caption depends on it.
    """
    rng = np.random.default_rng([TAG, seed])
    chosen = _pick(rng, PALETTE)
    colour = colour or chosen
    kind = "bird" if rng.random() < BIRDS else _pick(rng, DRAWINGS)
    drawing = DRAWINGS[kind](rng)
    background = _pick(rng, PLACES[drawing.stance])
    ground = BACKGROUNDS[background](rng)
    room, company = Room(), ""
    if rng.random() < COMPANY:
        room, company = _company(rng, ground, background, kind)
    put(rng, ground, drawing, room, jittered(PALETTE[colour], rng), main=True)
    where = f" {ground.words}" if rng.random() < 0.75 else ""
    template = TEMPLATES[int(rng.integers(len(TEMPLATES)))].format("{}" + company + where)
    caption = template.format(named(kind, colour if rng.random() < 0.85 else None))
    turn = -1 if rng.random() < 0.5 else 1  # up to here the light always comes from the left
    picture = np.ascontiguousarray(ground.canvas.finished()[:, ::turn])
    mask = np.ascontiguousarray(ground.canvas.mask[:, ::turn])
    return Scene(picture, caption, mask, kind, colour, background, template)


def _pick(rng: np.random.Generator, options: Iterable[str]) -> str:
    listed = list(options)
    return listed[int(rng.integers(len(listed)))]


def _company(rng: np.random.Generator, ground: Ground, background: str, kind: str) -> tuple[Room, str]:
    """Draw a smaller object of another kind if it fits the background.

    Return the main object's room and the words to add to the caption ("" if nothing was drawn).
    """
    side = float(rng.choice([-1.0, 1.0]))
    other = _pick(rng, (k for k in DRAWINGS if k != kind))
    drawing = DRAWINGS[other](rng)
    room = Room(x=WIDTH * (0.5 - 0.28 * side), width=0.42 * WIDTH, height=0.5 * HEIGHT, rise=14)
    main = Room(x=WIDTH * (0.5 + 0.2 * side), width=0.55 * WIDTH, height=0.75 * HEIGHT)
    if background not in PLACES[drawing.stance]:
        return main, ""
    colour = _pick(rng, PALETTE)
    put(rng, ground, drawing, room, jittered(PALETTE[colour], rng), main=False)
    return main, f" and {named(other, colour if rng.random() < 0.7 else None)}"
