"""Valid arguments of `process()`, for small pictures that are quick to generate."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from canny2image_TRT import hackathon
from cldm.request import Request
from scoring.pictures import DRAWN_BIRDS, find_pictures

Picture = NDArray[np.uint8]


def waves(height: int, width: int) -> Picture:
    """Return smooth bands: Canny finds no edges at high thresholds and many at low ones."""
    rows, columns = np.mgrid[:height, :width]
    channels = [np.sin(rows / 9), np.cos(columns / 5), np.sin((rows + columns) / 7)]
    return (127 + 40 * np.stack(channels, axis=-1)).astype(np.uint8)


GOOD: dict[str, Any] = {
    "input_image": waves(64, 64),
    "prompt": "a bird",
    "a_prompt": "best quality",
    "n_prompt": "lowres",
    "num_samples": 1,
    "image_resolution": 64,
    "ddim_steps": 20,
    "guess_mode": False,
    "strength": 1.0,
    "scale": 9.0,
    "seed": 5,
    "eta": 0.0,
    "low_threshold": 100,
    "high_threshold": 200,
}


def process(runtime: hackathon, **changes: Any) -> list[Picture]:
    """Return copies of the pictures, so that tests of other things do not depend on who owns their memory."""
    return [picture.copy() for picture in runtime.process(**{**GOOD, **changes})]


def small_contest_request() -> Request:
    """Return the request of the benchmarks, for a picture of 64x96 instead of 256x384."""
    return Request.contest(find_pictures(DRAWN_BIRDS)["bird_1"], image_resolution=64)
