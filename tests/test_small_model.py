"""The small model that ships: its size, a golden picture, and the effect of edges and prompt."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from canny2image_TRT import hackathon
from cldm.canny import Picture
from cldm.checkpoint import SMALL_MODEL, SMALL_TOKENIZER
from scoring.pictures import DRAWN_BIRDS, find_pictures

GOLDEN = Path(__file__).parent / "golden" / "bird.png"
TOLERANCE = 2  # grey levels, for 99 % of the values: rounding and order of summation differ between CPUs and versions


@pytest.fixture(scope="module")
def runtime() -> hackathon:
    made = hackathon(str(SMALL_MODEL), device="cpu", plan="ten")
    made.initialize()
    return made


@cache  # two tests use the red bird
def draw(runtime: hackathon, prompt: str, strength: float = 1.0) -> Picture:
    edges_from, a_prompt, n_prompt = find_pictures(DRAWN_BIRDS)["bird_1"], "best quality", "lowres"
    return runtime.process(
        edges_from, prompt, a_prompt, n_prompt, 1, 256, 20, False, strength, 9.0, 1, 0.0, 100, 200,
    )[0]  # fmt: skip


def test_it_fits_into_twenty_mebibytes() -> None:
    files = [SMALL_MODEL, *SMALL_TOKENIZER.iterdir()]
    assert sum(file.stat().st_size for file in files) <= 20 * 2**20


def test_golden_picture(runtime: hackathon) -> None:
    golden = cv2.imread(str(GOLDEN))
    assert golden is not None
    difference = np.abs(draw(runtime, "a red bird in the mountains").astype(int) - golden[:, :, ::-1])
    assert (difference <= TOLERANCE).mean() > 0.99


def test_prompt_sets_the_colour(runtime: hackathon) -> None:
    red, blue = (draw(runtime, f"a {colour} bird in the mountains") for colour in ("red", "blue"))
    change = blue.astype(float) - red
    bird = np.abs(change).max(axis=2) > 80
    assert 0.03 < bird.mean() < 0.4, "expected only the bird to change"
    assert change[bird].mean(axis=0)[0] < -40, "the bird is not less red"
    assert change[bird].mean(axis=0)[2] > 40, "the bird is not bluer"


def test_strength_sets_how_closely_edges_are_followed(runtime: hackathon) -> None:
    given = cv2.Canny(find_pictures(DRAWN_BIRDS)["bird_1"], 100, 200) > 0
    near = cv2.dilate(given.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    share = {}
    for strength in (1.0, 0.0):
        found = cv2.Canny(draw(runtime, "a green bird in the mountains", strength), 100, 200) > 0
        share[strength] = near[found].mean()
    assert share[1.0] > 0.8
    assert share[1.0] > 2 * share[0.0]
