import math
import re
from typing import Any

import numpy as np
import pytest

from cldm.request import Request

GOOD = vars(
    Request.contest(
        np.zeros((70, 90, 3), np.uint8), a_prompt="best quality", n_prompt="lowres", image_resolution=64, seed=0
    )
)
WHOLE = ("num_samples", "image_resolution", "ddim_steps", "seed")
REAL = ("strength", "scale", "eta", "low_threshold", "high_threshold")


def request(**changes: Any) -> Request:
    return Request(**{**GOOD, **changes})


def picture(*shape: int, dtype: Any = np.uint8) -> Any:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("value", "error", "got"),
    [
        (None, TypeError, "got NoneType"),
        ([[1, 2], [3, 4]], TypeError, "got list"),
        ("bird.jpg", TypeError, "got str"),
        (picture(8, 8, 3, dtype=np.float32), TypeError, "got dtype float32"),
        (picture(8, 8, 3, dtype=np.int8), TypeError, "got dtype int8"),
        (picture(8), ValueError, "got shape [8]"),
        (picture(8, 8, 2), ValueError, "got shape [8, 8, 2]"),
        (picture(8, 8, 5), ValueError, "got shape [8, 8, 5]"),
        (picture(1, 8, 8, 3), ValueError, "got shape [1, 8, 8, 3]"),
        (picture(0, 8, 3), ValueError, "got an empty picture of shape [0, 8, 3]"),
        (picture(8, 0), ValueError, "got an empty picture of shape [8, 0]"),
    ],
)
def test_bad_picture(value: Any, error: type[Exception], got: str) -> None:
    expected = "expected a uint8 array of shape [h, w], [h, w, 1], [h, w, 3] or [h, w, 4]"
    with pytest.raises(error, match=re.escape(f"input_image: {got}, {expected}")):
        request(input_image=value)


@pytest.mark.parametrize("name", ["prompt", "a_prompt", "n_prompt"])
@pytest.mark.parametrize("value", [None, 3, b"a bird", ["a bird"]])
def test_bad_prompt(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"{name}: got {value!r}, expected a string")):
        request(**{name: value})


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [True, "1", 1.0, None, np.float32(1), np.bool_(True), [1]])
def test_not_a_whole_number(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"{name}: got {value!r}, expected a whole number")):
        request(**{name: value})


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("value", [True, "1", None, 1j, [1.0]])
def test_not_a_number(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"{name}: got {value!r}, expected a number")):
        request(**{name: value})


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_not_finite(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name}: got {value}, expected a finite number")):
        request(**{name: value})


@pytest.mark.parametrize("value", ["no", "", None, 0.5, [True]])
def test_guess_mode_must_be_a_boolean(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"guess_mode: got {re.escape(repr(value))}, expected"):
        request(guess_mode=value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("eta", -0.1, "got -0.1, expected 0 (deterministic) to 1"),
        ("eta", 1.5, "got 1.5, expected 0 (deterministic) to 1"),
        ("num_samples", 0, "got 0, expected 1 or more"),
        ("num_samples", -3, "got -3, expected 1 or more"),
        ("seed", -2, "got -2, expected -1 (random) or 0 to 4294967295"),
        ("seed", 2**32, "got 4294967296, expected -1 (random) or 0 to 4294967295"),
        ("image_resolution", 31, "31 gives a picture of 0 x 64, expected sides of 64 to 4096"),
        ("image_resolution", 0, "got 0, expected 64 to 4096"),
        ("image_resolution", -64, "got -64, expected 64 to 4096"),
    ],
)
def test_out_of_range(name: str, value: float, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name}: {expected}")):
        request(**{name: value, "input_image": picture(64, 84, 3)})


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (8, 8, 4), (1, 1)])
def test_good_pictures(shape: tuple[int, ...]) -> None:
    assert request(input_image=picture(*shape)).edge_map().shape == (64, 64)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 2**32 - 1), ("eta", 1), ("strength", 0), ("scale", -2.5), ("prompt", ""), ("guess_mode", np.bool_(True))],
)
def test_limits_are_accepted(name: str, value: Any) -> None:
    assert getattr(request(**{name: value}), name) == value


def test_numpy_numbers_are_accepted() -> None:
    numbers = {name: np.float32(GOOD[name]) for name in REAL} | {name: np.int64(GOOD[name]) for name in WHOLE}
    made, plain = request(**numbers), request()
    assert made.size == plain.size
    assert made.control_scales(13) == plain.control_scales(13)
    assert (made.edge_map() == plain.edge_map()).all()


@pytest.mark.parametrize(
    ("shape", "resolution", "size"),
    [
        ((256, 384, 3), 256, (256, 384)),
        ((70, 90), 64, (64, 64)),
        ((100, 250), 128, (128, 320)),
        ((9, 3), 64, (192, 64)),
    ],
)
def test_size(shape: tuple[int, ...], resolution: int, size: tuple[int, int]) -> None:
    made = request(input_image=picture(*shape), image_resolution=resolution)
    assert made.size == size
    assert made.edge_map().shape == size


def test_prompts() -> None:
    assert request().prompts == ("a bird, best quality", "lowres")


def test_control_scales() -> None:
    assert request(strength=0.5).control_scales(13) == ([0.5] * 13, [0.5] * 13)
    guided, unguided = request(strength=0.5, guess_mode=True).control_scales(13)
    assert guided == pytest.approx([0.5 * 0.825 ** (12 - i) for i in range(13)])
    assert guided[-1] == 0.5
    assert unguided == [0.0] * 13
