"""The examples run as README describes, and write their results."""

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from cldm.request import CONTEST

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with the project's models, so that pictures are written elsewhere."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANNY2IMAGE_CHECKPOINT", str(ROOT / "models" / "small" / "model.safetensors"))


def test_one_picture() -> None:
    runpy.run_module("examples.one_picture", run_name="__main__")
    picture = cv2.imread("examples/blue_bird.png")
    assert picture is not None
    assert picture.shape == (256, 384, 3)
    assert is_blue(picture)


def test_six_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTEST, "image_resolution", 192)
    runpy.run_module("examples.six_colours", run_name="__main__")
    pictures = cv2.imread("examples/six_colours.png")
    assert pictures is not None
    red, *_, blue, _ = np.split(pictures, 6, axis=1)
    assert red.shape == (192, 256, 3)
    assert is_blue(blue)
    assert not is_blue(red)


def test_compare_plans(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTEST, "image_resolution", 128)
    runpy.run_module("examples.compare_plans", run_name="__main__")
    title, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("plan")
    errors = {row.split()[0]: float(row.split()[2]) for row in rows}
    assert errors.keys() == {"all", "ten", "10", "8"}
    assert errors["all"] == 0 < errors["10"] < errors["ten"]


def is_blue(picture: cv2.typing.MatLike) -> bool:
    """Whether saturated pixels of the bird are blue, in a picture in OpenCV's order."""
    blue, _, red = picture.astype(int).transpose(2, 0, 1)
    return int(np.sum(blue - red > 100)) > int(np.sum(red - blue > 100))
