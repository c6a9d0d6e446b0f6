"""The files that are offered: those of the folder, by name, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from serving.shelf import Shelf, check_folders
from tests.sentences import assert_one_sentence


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    folder = tmp_path / "offered"
    (folder / "birds").mkdir(parents=True)
    for name in ("red.safetensors", "birds/blue.safetensors", "pickle.ckpt", "pickle.pth", "note.txt"):
        (folder / name).write_bytes(b"")
    (folder / "folder.safetensors").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"")
    (folder / "out.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (folder / "gone.safetensors").symlink_to(tmp_path / "nothing")
    (folder / "inside.safetensors").symlink_to(folder / "red.safetensors")
    return Shelf(folder, "LoRA")


def test_names(shelf: Shelf) -> None:
    assert shelf.names == ["birds/blue", "inside", "red"]
    assert Shelf(None, "LoRA").names == []


def test_new_files_are_offered_and_removed_ones_are_not(shelf: Shelf) -> None:
    assert shelf.folder is not None
    (shelf.folder / "green.safetensors").write_bytes(b"")
    (shelf.folder / "red.safetensors").unlink()
    assert shelf.names == ["birds/blue", "green"]


def test_a_name_gives_its_file(shelf: Shelf, tmp_path: Path) -> None:
    assert shelf.find("birds/blue") == str(tmp_path / "offered" / "birds" / "blue.safetensors")


@pytest.mark.parametrize(
    "name",
    ["", "../secret", "out", "gone", "pickle", "pickle.ckpt", "red.safetensors", "birds", "folder", "/etc/passwd",
     "birds/../red", "./red", "RED", "x" * 5000, "a\nb", None, ["red"], {}, 7, "\ud800"],
)  # fmt: skip
def test_no_other_name_does(shelf: Shelf, name: Any) -> None:
    with pytest.raises(ValueError, match=r"expected one of those offered here: birds/blue, inside, red$") as caught:
        shelf.find(name)
    assert_one_sentence(caught.value, "LoRA")


def test_an_absolute_path_is_no_name(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="offered here"):
        shelf.find(str(tmp_path / "secret"))


def test_nothing_is_offered_without_a_folder() -> None:
    with pytest.raises(ValueError, match="expected one of those offered here: none"):
        Shelf(None, "checkpoint").find("red")


def test_folders_must_exist(tmp_path: Path) -> None:
    check_folders([None, tmp_path])
    with pytest.raises(ValueError, match=r"nothing is not a folder: give one with \.safetensors files"):
        check_folders([None, tmp_path / "nothing"])
