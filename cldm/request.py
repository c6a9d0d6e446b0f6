"""The checked arguments of one `process()` call."""

import logging
import numbers
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from cldm.canny import Picture, canny, hwc3, resize, target_size
from cldm.edge_map import check_channels, resize_edge_map, warn_if_inverted

log = logging.getLogger(__name__)

LARGEST = float(np.finfo(np.float32).max)  # largest allowed number; the networks read numbers as float32
LONGEST_SIDE = 4096  # pixels
CONTEST: dict[str, Any] = {
    "prompt": "a bird",
    "a_prompt": "best quality, extremely detailed",
    "n_prompt": "longbody, lowres, bad anatomy, bad hands, missing fingers",
    "num_samples": 1,
    "image_resolution": 256,
    "ddim_steps": 20,
    "guess_mode": False,
    "strength": 1.0,
    "scale": 9.0,
    "seed": 2946901,
    "eta": 0.0,
    "low_threshold": 100,
    "high_threshold": 200,
}


@dataclass(frozen=True)
class Request:
    """The arguments of `hackathon.process()`, under the same names and with the same meaning.

    seed: 0 to 2**32 - 1 (`drawn` has replaced -1).
    Raises TypeError or ValueError for bad arguments. Logs a warning if an edge map looks inverted or is stretched.
    """

    input_image: Picture | None
    prompt: str
    a_prompt: str
    n_prompt: str
    num_samples: int
    image_resolution: int
    ddim_steps: int
    guess_mode: bool
    strength: float
    scale: float
    seed: int
    eta: float
    low_threshold: float | None
    high_threshold: float | None
    edges: Picture | None = None

    def __post_init__(self) -> None:
        if self.input_image is not None or self.edges is None:
            _check_picture("input_image", self.input_image, (1, 3, 4))
        if self.edges is not None:
            _check_picture("edges", self.edges, (1, 3))
        for name in ("prompt", "a_prompt", "n_prompt"):
            _check_type(name, getattr(self, name), str, "a string")
        for name in ("num_samples", "image_resolution", "ddim_steps", "seed"):
            _check_type(name, getattr(self, name), numbers.Integral, "a whole number")
        _check_type("guess_mode", self.guess_mode, (bool, np.bool_), "True or False")
        for name in ("strength", "scale", "eta"):
            _check_number(name, getattr(self, name), "a number")
        if not (self.low_threshold is None and self.high_threshold is None):
            for name in ("low_threshold", "high_threshold"):
                expected = "a number, or None for both thresholds if input_image is an edge map"
                _check_number(name, getattr(self, name), expected)
        if self.num_samples < 1:
            raise ValueError(f"num_samples: got {self.num_samples}, expected 1 or more")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: got {self.seed}, expected -1 (random) or 0 to 4294967295")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta: got {self.eta}, expected 0 (deterministic) to 1")
        if not 0 < self.image_resolution <= LONGEST_SIDE:
            raise ValueError(f"image_resolution: got {self.image_resolution}, expected 64 to {LONGEST_SIDE}")
        if min(self.size) < 64 or max(self.size) > LONGEST_SIDE:
            raise ValueError(
                f"image_resolution: {self.image_resolution} gives a picture of {self.size[0]} x {self.size[1]}, "
                f"expected sides of 64 to {LONGEST_SIDE} pixels after rounding to multiples of 64"
            )
        self._check_edges()

    def _check_edges(self) -> None:
        if self.own_edges is None:
            return
        name = "edges" if self.edges is not None else "input_image (the edge map, because both thresholds are None)"
        _check_picture(name, self.own_edges, (1, 3))
        check_channels(name, self.own_edges)
        warn_if_inverted(name, self.own_edges)
        height, width = self.own_edges.shape[:2]
        if target_size(height, width, self.image_resolution) != self.size:
            log.warning(
                "edges: %d x %d is stretched to %d x %d, the size for input_image; pass input_image=None to keep its "
                "aspect ratio",
                *(height, width, *self.size),
            )

    @classmethod
    def contest(cls, picture: Picture | None, **changes: Any) -> "Request":
        """Return the contest's arguments for this picture, with `changes` applied."""
        return cls(picture, **CONTEST | changes)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the generated picture."""
        height, width = self.source.shape[:2]
        return target_size(height, width, self.image_resolution)

    @property
    def source(self) -> Picture:
        """The array that sets the size: input_image or, without one, edges."""
        source = self.edges if self.input_image is None else self.input_image
        assert source is not None, "checked: one of the two is given"
        return source

    @property
    def own_edges(self) -> Picture | None:
        """The caller's edge map at its own size, or None if Canny finds the edges."""
        if self.edges is None and self.low_threshold is None:
            return self.input_image
        return self.edges

    @property
    def prompts(self) -> tuple[str, str]:
        """The joined prompt and the negative prompt."""
        return f"{self.prompt}, {self.a_prompt}", self.n_prompt

    def check_precision(self, largest: float) -> None:
        """Raise ValueError if strength exceeds `largest`, the largest number of the networks' precision."""
        if abs(self.strength) > largest:
            raise ValueError(
                f"strength: got {self.strength:g}, expected at most {largest:g}, the largest number in this precision: "
                "use a smaller strength, or precision fp32"
            )

    def edge_map(self) -> Picture:
        """Return the edges for ControlNet, uint8 [h, w]: the caller's, resized, else Canny's, 0 or 255."""
        if self.own_edges is not None:
            return resize_edge_map(self.own_edges, *self.size)
        assert self.input_image is not None, "checked: there are no edges"
        assert self.low_threshold is not None, "checked: there are no edges"
        assert self.high_threshold is not None, "checked: low_threshold is a number"
        picture = resize(hwc3(self.input_image), self.image_resolution)
        return canny(picture, self.low_threshold, self.high_threshold)

    def control_scales(self, residuals: int) -> tuple[list[float], list[float]]:
        """Return the factors of ControlNet's residuals, first skip to middle, with and without the prompt.

        In guess mode each residual has 0.825 times the factor of the next one, and the pass without the prompt gets no
        control.
        """
        if not self.guess_mode:
            return [self.strength] * residuals, [self.strength] * residuals
        return [self.strength * 0.825 ** (residuals - 1 - i) for i in range(residuals)], [0.0] * residuals


def drawn(seed: int) -> int:
    """Return the seed, or for -1 a random one from 0 to 65535, as in the original."""
    return random.randint(0, 65535) if isinstance(seed, numbers.Integral) and seed == -1 else seed


def _check_picture(name: str, picture: Any, channels: tuple[int, ...]) -> None:
    *most, last = ("[h, w]", *(f"[h, w, {count}]" for count in channels))
    expected = f"expected a uint8 array of shape {', '.join(most)} or {last}"
    if not isinstance(picture, np.ndarray):
        raise TypeError(f"{name}: got {type(picture).__name__}, {expected}")
    if picture.dtype != np.uint8:
        raise TypeError(f"{name}: got dtype {picture.dtype}, {expected}")
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] not in channels):
        raise ValueError(f"{name}: got shape {list(picture.shape)}, {expected}")
    if picture.size == 0:
        raise ValueError(f"{name}: got an empty picture of shape {list(picture.shape)}, {expected}")


def _check_number(name: str, value: Any, expected: str) -> None:
    _check_type(name, value, numbers.Real, expected)
    if not abs(value) <= LARGEST:
        raise ValueError(f"{name}: got {value}, expected a finite number")


def _check_type(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and expected != "True or False"):
        raise TypeError(f"{name}: got {value!r}, expected {expected}")
