"""Lists all backgrounds by name, and which of them fit each stance of an object."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from training.scenes.drawing import Stance
from training.scenes.ground import Ground
from training.scenes.landscapes import desert, field, forest, mountains, snow
from training.scenes.rooms import plain, wall
from training.scenes.scenery import Rng
from training.scenes.skies import night, sky, sunset
from training.scenes.waters import sea, underwater

BACKGROUNDS: Mapping[str, Callable[[Rng], Ground]] = MappingProxyType(
    {f.__name__: f for f in (plain, sky, field, forest, mountains, snow, desert, sea, underwater, sunset, night, wall)}
)

PLACES: Mapping[Stance, tuple[str, ...]] = MappingProxyType(
    {
        "stand": ("plain", "field", "forest", "mountains", "snow", "desert", "sunset", "night", "wall"),
        "perch": ("plain", "sky", "field", "forest", "mountains", "snow", "sunset", "night", "wall"),
        "fly": ("plain", "sky", "sky", "field", "forest", "mountains", "desert", "sea", "sunset", "night"),
        "swim": ("plain", "underwater", "underwater", "underwater"),
        "float": ("plain", "sea", "sea", "sea"),
    }
)
"""Backgrounds that fit objects of a stance; a name listed twice is twice as frequent."""
