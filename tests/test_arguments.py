"""Arguments of unusual types: each is converted to the same plain value, or refused with one sentence."""

import re
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cldm.arguments import REAL, WHOLE, check_number, check_picture, check_text, check_whole, read_only
from cldm.request import Request
from tests.arguments import GOOD, waves
from tests.sentences import assert_one_sentence

HUGE = 10**400
LONGER = 10**5000  # Python writes no integer of more than 4300 digits


class Word(str, Enum):
    BIRD = "a bird"


class One(IntEnum):
    ONE = 1


class Strange(np.ndarray[Any, Any]):
    """An ndarray that reports another shape and cannot be indexed."""

    @property  # type: ignore[misc]
    def shape(self) -> Any:
        return (9,)

    def __getitem__(self, index: Any) -> Any:
        raise KeyError(index)


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no\nname")


def refused(**change: Any) -> str:
    with pytest.raises((TypeError, ValueError)) as raised:
        Request(**GOOD | change)
    assert_one_sentence(raised.value, *change)
    return str(raised.value)


@pytest.mark.parametrize("value", [1, np.uint8(1), np.int8(1), np.uint64(1), One.ONE])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_become_int(name: str, value: Any) -> None:
    allowed = WHOLE[name]._replace(low=0)
    assert type(check_whole(name, value, allowed)) is int
    assert check_whole(name, value, allowed) == 1


@pytest.mark.parametrize(
    "value", [0.5, np.float16(0.5), np.float64(0.5), np.longdouble(0.5), Fraction(1, 2), Decimal("0.5")]
)
@pytest.mark.parametrize("name", REAL)
def test_real_numbers_become_float(name: str, value: Any) -> None:
    assert type(check_number(name, value, REAL[name])) is float
    assert check_number(name, value, REAL[name]) == 0.5


def test_small_integers_do_not_wrap() -> None:
    """np.uint8(200) + np.uint8(100) is 44; a product of np.uint8(20) and 13 wraps too."""
    small = Request(
        **GOOD | {"low_threshold": np.uint8(200), "high_threshold": np.uint8(250), "strength": np.uint8(200)}
    )
    plain = Request(**GOOD | {"low_threshold": 200, "high_threshold": 250, "strength": 200})
    assert np.array_equal(small.edge_map(), plain.edge_map())
    assert small.control_scales(13) == plain.control_scales(13)
    assert Request(**GOOD | {"image_resolution": np.uint8(192), "num_samples": np.uint8(200)}).size == (192, 192)


@pytest.mark.parametrize("name", [*WHOLE, *REAL, "low_threshold", "high_threshold"])
@pytest.mark.parametrize(
    "value",
    [
        HUGE, -HUGE, LONGER, Fraction(HUGE, 7), Fraction(LONGER), Decimal("1e400"), Decimal("NaN"), Decimal("sNaN"),
        np.float16("inf"), np.longdouble("1e4000"), float("nan"), np.int64(-(2**63)), True, np.bool_(True), 1j,
        np.complex64(1), "1", b"1", None, np.array(1), np.array([1.0]), torch.tensor(1), np.timedelta64(1, "s"),
        np.timedelta64("NaT"), np.datetime64(1, "D"), np.void(b"1"), Rude(), [LONGER], np.zeros((99, 99)), "\n" * 9999,
    ],
    ids=lambda value: str(type(value).__name__),
)  # fmt: skip
def test_refused_numbers(name: str, value: Any) -> None:
    if name in REAL and name != "eta" and isinstance(value, np.int64):
        return  # within the range
    refused(**{name: value})


@pytest.mark.parametrize("value", [0, 1, None, "True", np.array(True), torch.tensor(True), np.uint8(1), Rude()])
def test_refused_booleans(value: Any) -> None:
    assert refused(guess_mode=value).endswith("expected True or False")


@pytest.mark.parametrize("name", ["prompt", "a_prompt", "n_prompt"])
def test_refused_prompts(name: str) -> None:
    assert "got half of a surrogate pair at index 3, expected Unicode" in refused(**{name: "abc\ud800"})
    assert refused(**{name: "x" * 10_001}) == f"{name}: got 10001 characters, expected at most 10000: shorten it"
    for value in (None, b"a bird", ["a bird"], np.bytes_(b"a"), Path("a"), Rude()):
        assert refused(**{name: value}).endswith("expected a string")


@pytest.mark.parametrize("value", ["a bird", Word.BIRD, np.str_("a bird")])
def test_strings_become_str(value: str) -> None:
    assert type(check_text("prompt", value)) is str
    assert Request(**GOOD | {"prompt": value}).prompts[0] == "a bird, best quality"


@pytest.mark.parametrize("name", ["input_image", "edges"])
@pytest.mark.parametrize(
    "value",
    [
        np.ma.masked_array(waves(64, 64)), np.zeros((8, 8), object), np.zeros((8, 8), ">u2"), np.zeros((8, 8), "U3"),
        np.zeros((8, 8), [("a\nb", "u1")]), np.zeros((8, 8), [(f"field {i}", "u1") for i in range(99)]),
        np.zeros((8, 8), "M8[s]"), np.zeros((1,) * 32, np.uint8), np.array(3, np.uint8), np.uint8(3), Rude(),
        torch.zeros(8, 8, dtype=torch.uint8), memoryview(b"12"), np.zeros((8, 8, 0), np.uint8),
    ],
    ids=lambda value: str(type(value).__name__),
)  # fmt: skip
def test_refused_pictures(name: str, value: Any) -> None:
    refused(**{name: value})


def test_a_masked_array_is_refused_with_advice() -> None:
    assert refused(input_image=np.ma.masked_array(waves(8, 8))).endswith(": call its method filled() first")


@pytest.mark.parametrize("kind", ["columns", "reversed", "big endian", "read-only", "strange", "memmap", "part"])
def test_every_layout_gives_the_same_edges(kind: str, tmp_path: Path) -> None:
    plain = waves(70, 90)
    mapped = np.memmap(tmp_path / "picture", np.uint8, "w+", shape=plain.shape)
    mapped[:] = plain
    wide = np.zeros((140, 180, 4), np.uint8)
    wide[::2, ::2, :3] = plain
    frozen = plain.copy()
    frozen.flags.writeable = False
    picture = {
        "columns": np.asfortranarray(plain),
        "reversed": plain[::-1, ::-1].copy()[::-1, ::-1],
        "big endian": plain.astype(">u1"),
        "read-only": frozen,
        "strange": plain.view(Strange),
        "memmap": mapped,
        "part": wide[::2, ::2, :3],
    }[kind]
    changes = {"image_resolution": 128, "low_threshold": 20, "high_threshold": 50}
    made, expected = (Request(**GOOD | changes | {"input_image": one}).edge_map() for one in (picture, plain))
    assert expected.any()
    assert np.array_equal(made, expected)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_a_matrix_is_a_grey_picture() -> None:
    grey = waves(64, 64)[:, :, 0]
    matrix = np.asmatrix(grey)
    for changes in ({}, {"low_threshold": None, "high_threshold": None}):
        made, expected = (Request(**GOOD | changes | {"input_image": one}).edge_map() for one in (matrix, grey))
        assert np.array_equal(made, expected)
        assert type(made) is np.ndarray


def test_a_broadcast_view_is_a_picture() -> None:
    made = Request(**GOOD | {"input_image": np.broadcast_to(np.uint8(9), (512, 512, 4))})
    assert made.edge_map().shape == (64, 64)
    assert not made.edge_map().any()


def test_a_picture_is_copied_once_it_is_accepted() -> None:
    mine = waves(8, 8)
    assert check_picture("input_image", mine, (3,)) is mine
    assert not np.shares_memory(read_only(mine), mine)


def test_opencv_reads_read_only_pictures() -> None:
    frozen = read_only(waves(64, 64))
    assert np.array_equal(cv2.Canny(frozen, 20, 50), cv2.Canny(waves(64, 64), 20, 50))


def test_the_message_of_a_type_shows_the_value() -> None:
    with pytest.raises(TypeError, match=re.escape("seed: got np.float32(1.0), expected a whole number")):
        Request(**GOOD | {"seed": np.float32(1)})
