import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cldm.request import Request, check_request

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
        ("eta", -0.1, "got -0.1, expected a finite number from 0 (deterministic) to 1"),
        ("eta", 1.5, "got 1.5, expected a finite number from 0 (deterministic) to 1"),
        ("strength", 1e39, "got 1e+39, expected a finite number from -3.402823466e+38 to 3.402823466e+38"),
        ("low_threshold", 2**31, "got 2147483648, expected a finite number from -2147483648 to 2147483647"),
        ("high_threshold", -3e9, "got -3000000000.0, expected a finite number from -2147483648 to 2147483647"),
        ("num_samples", 0, "got 0, expected 1 to 1024"),
        ("num_samples", -3, "got -3, expected 1 to 1024"),
        ("num_samples", 1025, "got 1025, expected 1 to 1024"),
        ("ddim_steps", 0, "got 0, expected 1 to 1000"),
        ("ddim_steps", 1001, "got 1001, expected 1 to 1000"),
        ("seed", -2, "got -2, expected -1 (random) or 0 to 4294967295"),
        ("seed", 2**32, "got 4294967296, expected -1 (random) or 0 to 4294967295"),
        ("image_resolution", 0, "got 0, expected 64 to 4096"),
        ("image_resolution", 63, "got 63, expected 64 to 4096"),
        ("image_resolution", 4097, "got 4097, expected 64 to 4096"),
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
    [
        ("seed", 2**32 - 1), ("eta", 1), ("strength", 0), ("strength", -1), ("scale", -2.5), ("prompt", ""),
        ("scale", float(np.finfo(np.float32).max)), ("guess_mode", np.bool_(True)), ("num_samples", 1024),
        ("image_resolution", 64), ("image_resolution", 4096), ("ddim_steps", 1000), ("low_threshold", -(2**31)),
        ("high_threshold", 2**31 - 1), ("prompt", "x" * 10_000),
    ],
)  # fmt: skip
def test_limits_are_accepted(name: str, value: Any) -> None:
    assert getattr(request(**{name: value, "input_image": picture(64, 64)}), name) == value


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


def test_replace_checks_again() -> None:
    assert replace(request(), seed=np.uint8(3)).seed == 3
    with pytest.raises(ValueError, match="seed: got -2"):
        replace(request(), seed=-2)


@pytest.mark.parametrize("value", ["bird", None, {"prompt": "a bird"}])
def test_not_a_request(value: Any) -> None:
    check_request(request())
    with pytest.raises(TypeError, match=rf"^request: got {re.escape(repr(value))}, expected a Request of .*: pass"):
        check_request(value)


def test_prompts() -> None:
    assert request().prompts == ("a bird, best quality", "lowres")


def test_control_scales() -> None:
    assert request(strength=0.5).control_scales(13) == ([0.5] * 13, [0.5] * 13)
    guided, unguided = request(strength=0.5, guess_mode=True).control_scales(13)
    assert guided == pytest.approx([0.5 * 0.825 ** (12 - i) for i in range(13)])
    assert guided[-1] == 0.5
    assert unguided == [0.0] * 13
