"""Any values of the arguments give a Request, or one sentence; a Request's edges are those of plain OpenCV."""

from typing import Any

import cv2
import numpy as np

from cldm.request import Request
from tests.arguments import GOOD
from tests.properties import ANYTHING, PROMPTS, SETTINGS, given, pictures, settings, st
from tests.sentences import assert_one_sentence

NAMES = [*GOOD, "edges"]
PLAIN = {"guess_mode": bool, "prompt": str, "a_prompt": str, "n_prompt": str, "num_samples": int, "seed": int,
         "image_resolution": int, "ddim_steps": int, "strength": float, "scale": float, "eta": float}  # fmt: skip


def assert_request_or_one_sentence(changes: dict[str, Any]) -> None:
    try:
        made = Request(**GOOD | changes)
    except (TypeError, ValueError) as error:
        assert_one_sentence(error, "|".join([*changes, "image_resolution"]))  # of a picture that is too thin
        return
    assert {name: type(getattr(made, name)) for name in PLAIN} == PLAIN
    assert all(side % 64 == 0 and 64 <= side <= 4096 for side in made.size)
    assert np.isfinite(made.control_scales(13)).all()


@given(st.sampled_from(NAMES), ANYTHING)
@settings(SETTINGS, max_examples=300)
def test_any_value_of_one_argument(name: str, value: Any) -> None:
    assert_request_or_one_sentence({name: value})


@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING, min_size=2))
@SETTINGS
def test_any_values(changes: dict[str, Any]) -> None:
    assert_request_or_one_sentence(changes)


@given(pictures(200), st.integers(64, 200), st.floats(-300, 1500), st.floats(-300, 1500))
@SETTINGS
def test_edges_are_those_of_plain_opencv(picture: Any, resolution: int, low: float, high: float) -> None:
    """The original: three channels (alpha over white), both sides scaled to multiples of 64, Canny."""
    changes = {"input_image": picture, "image_resolution": resolution, "low_threshold": low, "high_threshold": high}
    try:
        made = Request(**GOOD | changes)
    except ValueError as error:
        assert_one_sentence(error, "image_resolution")
        return
    colour = np.ascontiguousarray(picture if picture.ndim == 3 else picture[:, :, None])
    if colour.shape[2] == 1:
        colour = np.repeat(colour, 3, axis=2)
    if colour.shape[2] == 4:
        alpha = colour[:, :, 3:].astype(np.float32) / 255.0
        colour = (colour[:, :, :3] * alpha + 255.0 * (1.0 - alpha)).clip(0, 255).astype(np.uint8)
    k = resolution / min(colour.shape[:2])
    height, width = (int(np.round(side * k / 64.0)) * 64 for side in colour.shape[:2])
    method = cv2.INTER_LANCZOS4 if k > 1 else cv2.INTER_AREA
    expected = cv2.Canny(cv2.resize(colour, (width, height), interpolation=method), low, high)
    assert np.array_equal(made.edge_map(), expected)


@given(pictures(200).filter(lambda one: one.ndim == 2), pictures(200), st.integers(64, 200))
@SETTINGS
def test_an_edge_map_keeps_its_grey_levels(edges: Any, picture: Any, resolution: int) -> None:
    try:
        made = Request(**GOOD | {"input_image": picture, "edges": edges, "image_resolution": resolution})
    except ValueError as error:
        assert_one_sentence(error, "image_resolution")
        return
    resized = made.edge_map()
    assert resized.shape == made.size
    assert resized.dtype == np.uint8
    assert set(np.unique(resized)) <= set(np.unique(edges))


@given(PROMPTS, PROMPTS, PROMPTS)
@SETTINGS
def test_texts_are_kept(prompt: str, a_prompt: str, n_prompt: str) -> None:
    made = Request(**GOOD | {"prompt": prompt, "a_prompt": a_prompt, "n_prompt": n_prompt})
    assert made.prompts == (f"{prompt}, {a_prompt}", n_prompt)
