"""JSON objects from damaged files, paths that users give, and values in messages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reading import LARGEST, parse_object, path_text, read_object, shown


@pytest.mark.parametrize("content", [b'{"a": [1, 2.5]}', b'\xef\xbb\xbf{"a": [1, 2.5]}', '{"a": [1, 2.5]}'])
def test_an_object(content: bytes | str) -> None:
    assert parse_object(content) == {"a": [1, 2.5]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"\x89PNG\r\n\x1a\n", "is not valid JSON"),
        (b"[" * 100_000, r"is not valid JSON \(nested too deeply\)"),
        (b'{"a":' * 100_000, r"is not valid JSON \(nested too deeply\)"),
        (b'{"a": 1' + b"0" * 400 + b"}", r"is not valid JSON \(a number of 401 digits\)"),
        (b'{"a": 1' + b"0" * 9000 + b"}", r"is not valid JSON \(a number of 9001 digits\)"),
        (b'{"a": 1e999}', r"is not valid JSON \(the number '1e999' is not finite\)"),
        (b'{"a": NaN}', r"is not valid JSON \(the number 'NaN' is not finite\)"),
        (b'{"a": -Infinity}', r"is not valid JSON \(the number '-Infinity' is not finite\)"),
        (b'{"a": 1, "a": 2}', r"is not valid JSON \(the key 'a' is given twice\)"),
        (b"[]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_damaged_objects(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^{reason}") as caught:
        parse_object(content)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(OSError, match=f"it has {LARGEST + 1} bytes, expected at most {LARGEST}"):
        read_object(tmp_path / "huge.json")


class Bad:
    def __repr__(self) -> str:
        raise RuntimeError


def bomb() -> list[Any]:
    value: list[Any] = ["lol"]
    for _ in range(60):
        value = [value] * 10
    return value


def nested() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def test_any_value_is_shown_in_a_short_line() -> None:
    text, array = "x" * 10**6, np.zeros((99, 99))
    for value in (bomb(), nested(), Bad(), 10**10_000, text, array, [array], {"a": 1, 2: None}, b"\0" * 9999):
        assert len(shown(value)) <= 120
        assert "\n" not in shown(value)


def test_a_value_is_shown_as_usual() -> None:
    for value in (3, 2.5, "a  b", None, True, [1, "b"], (1,), {"a": 1}, Path("a"), float("nan")):
        assert shown(value) == repr(value)


@pytest.mark.parametrize("value", [None, 3, b"a", ["a"], 1.5, True, np.zeros(2)])
def test_other_types_are_no_path(value: object) -> None:
    with pytest.raises(TypeError, match=r"^vae: got .*, expected the path of a file or folder$"):
        path_text("vae", value)


@pytest.mark.parametrize("value", ["", "  ", "a\0b", "\ud800", "x" * 5000, Path("a\0b"), "a\nb"], ids=range(7))
def test_paths_that_no_file_has(value: str | Path) -> None:
    with pytest.raises(ValueError, match=r"^vae: got .*the path of a file or folder$"):
        path_text("vae", value)
    assert path_text("vae", Path("a")) == path_text("vae", "a") == "a"
