"""The commands of training refuse what they cannot write before they work, and end in one line after Ctrl-C."""

import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

pytest.importorskip("pytorch_lightning", reason="./preprocess.sh train installs it")
pytest.importorskip("tokenizers", reason="./preprocess.sh train installs it")

import training.__main__
import training.evaluate
import training.pictures
from files import locked


def refusal(monkeypatch: pytest.MonkeyPatch, command: Callable[[], None], *words: str) -> object:
    monkeypatch.setattr(sys, "argv", ["training", *words])
    with pytest.raises(SystemExit) as caught:
        command()
    return caught.value.code


def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "start").write_text("weights")
    (tmp_path / "link").symlink_to("start")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training.__main__, "train", Mock(side_effect=AssertionError("training must not start")))
    run = training.__main__.main
    same = refusal(monkeypatch, run, "--start", "start", "--out", "link")
    assert same == "error: --out: link would overwrite the input start: choose another --out"
    assert "start/out cannot be written" in str(refusal(monkeypatch, run, "--out", "start/out"))
    assert "start/state cannot be written" in str(refusal(monkeypatch, run, "--state", "start/state", "--out", "out"))
    with locked(Path("state/.training.lock"), ""):
        assert "is locked by process" in str(refusal(monkeypatch, run, "--state", "state", "--out", "out"))
    monkeypatch.setattr(training.__main__, "train", Mock(side_effect=KeyboardInterrupt))
    assert refusal(monkeypatch, run, "--state", "state", "--out", "out") == 130


def test_ctrl_c_that_lightning_has_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    monkeypatch.setattr(training.__main__, "train", interrupted)
    words = "--state", str(tmp_path / "state"), "--out", str(tmp_path / "out")
    assert refusal(monkeypatch, training.__main__.main, *words) == 130
    assert capsys.readouterr().err == f"stopped: run the same command to go on from {tmp_path / 'state'}\n"


def test_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.evaluate, "hackathon", Mock(side_effect=AssertionError("must not start")))
    (tmp_path / "evaluation.json").write_text("weights")
    words = "--out", str(tmp_path), "--weights", str(tmp_path / "evaluation.json")
    assert "would overwrite the input" in str(refusal(monkeypatch, training.evaluate.main, *words))
    assert "cannot be written" in str(refusal(monkeypatch, training.evaluate.main, "--out", f"{words[-1]}/out"))


def test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.pictures, "scene", Mock(side_effect=AssertionError("must not start")))
    (tmp_path / "file").write_text("")
    words = "--scenes", "1", "--out", str(tmp_path / "file")
    assert "file cannot be written (Not a directory)" in str(refusal(monkeypatch, training.pictures.main, *words))
