"""The checked arguments of one `process()` call."""

import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cldm import arguments
from cldm.arguments import LONGEST_SIDE, OUTPUT_PIXELS, REAL, THRESHOLD, WHOLE
from cldm.canny import Picture, canny, hwc3, resize, target_size
from cldm.edge_map import check_channels, resize_edge_map, warn_if_inverted
from reading import is_whole, shown

log = logging.getLogger(__name__)

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

    Numbers of any type become int or float, and pictures become read-only copies: later changes of an array that was
    passed do not matter. input_image, edges: at most 2**26 pixels. prompt, a_prompt, n_prompt: at most 10,000
    characters each. num_samples: 1 to 1024, and at most 4096 x 4096 pixels in all pictures together.
    image_resolution: 64 to 4096; the longer side may have 4096 pixels too. ddim_steps: 1 to 1000.
    strength: a negative one subtracts ControlNet's residuals, as in the original. seed: 0 to 2**32 - 1 (`drawn` has
    replaced -1). low_threshold, high_threshold: magnitudes below 2**31, in either order; a negative one acts as 0.
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
        for name, value in self._checked().items():
            object.__setattr__(self, name, value)
        height, width = self.size
        if max(height, width) > LONGEST_SIDE:
            raise ValueError(
                f"image_resolution: {self.image_resolution} gives a picture of {height} x {width}, expected at most "
                f"{LONGEST_SIDE} pixels on the longer side: use a smaller image_resolution, or crop the input"
            )
        if self.num_samples * height * width > OUTPUT_PIXELS:
            raise ValueError(
                f"num_samples: got {self.num_samples}, expected at most {OUTPUT_PIXELS // (height * width)} for "
                f"pictures of {height} x {width}: call process() several times with different seeds"
            )
        for name in ("input_image", "edges"):
            if (picture := getattr(self, name)) is not None:
                object.__setattr__(self, name, arguments.read_only(picture))
        self._check_edges()

    def _checked(self) -> dict[str, Any]:
        """Return the arguments as plain Python and NumPy types."""
        checked: dict[str, Any] = {}
        if self.input_image is not None or self.edges is None:
            checked["input_image"] = arguments.check_picture("input_image", self.input_image, (1, 3, 4))
        if self.edges is not None:
            checked["edges"] = arguments.check_picture("edges", self.edges, (1, 3))
        for name in ("prompt", "a_prompt", "n_prompt"):
            checked[name] = arguments.check_text(name, getattr(self, name))
        for name, allowed in WHOLE.items():
            checked[name] = arguments.check_whole(name, getattr(self, name), allowed)
        checked["guess_mode"] = arguments.check_boolean("guess_mode", self.guess_mode)
        for name, allowed in REAL.items():
            checked[name] = arguments.check_number(name, getattr(self, name), allowed)
        if not (self.low_threshold is None and self.high_threshold is None):
            for name in ("low_threshold", "high_threshold"):
                expected = "a number, or None for both thresholds if input_image is an edge map"
                checked[name] = arguments.check_number(name, getattr(self, name), THRESHOLD, expected)
        return checked

    def _check_edges(self) -> None:
        if self.own_edges is None:
            return
        name = "edges" if self.edges is not None else "input_image (the edge map, because both thresholds are None)"
        arguments.check_picture(name, self.own_edges, (1, 3))
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
        """Raise ValueError if strength exceeds `largest`, the largest number of the networks' precision.

        Only strength is stored in that precision (see `control_scales`). The guidance with scale, and the updates with
        eta, are computed in float32 in every precision.
        """
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


def check_request(request: object) -> None:
    """Raise TypeError for anything but a Request."""
    if not isinstance(request, Request):
        raise TypeError(
            f"request: got {shown(request)}, expected a Request of cldm/request.py: pass separate arguments "
            "to process()"
        )


def check_requests(requests: object) -> list[Request]:
    """Return requests of one picture size and ddim_steps as a list. Raise TypeError or ValueError for others."""
    if isinstance(requests, (str, Request)) or not isinstance(requests, Iterable):
        raise TypeError(f"requests: got {shown(requests)}, expected a list of Requests of cldm/request.py")
    checked = list(requests)
    for request in checked:
        check_request(request)
    shapes = sorted({(*request.size, request.ddim_steps) for request in checked})
    if len(shapes) > 1:
        first, second = (f"{height} x {width} with {steps} steps" for height, width, steps in shapes[:2])
        raise ValueError(
            f"requests: got pictures of {first} and of {second}, expected one size and number of steps: call "
            "process_many() once for each"
        )
    return checked


def drawn(seed: int) -> int:
    """Return the seed, or for -1 a random one from 0 to 65535, as in the original.

    Random numbers come from the system: the host's generators are neither used nor advanced.
    """
    return random.SystemRandom().randint(0, 65535) if is_whole(seed) and seed == -1 else seed
