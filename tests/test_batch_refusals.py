"""What a batch says, without Ray, when it is stopped, runs twice or finds no cluster."""

import json
import signal
from pathlib import Path

import pytest
from PIL import Image

from cldm.checkpoint import SMALL_MODEL
from files import locked
from runtime.backends import PRECISIONS
from serving import batch
from serving.batch_ray import cluster
from tests.arguments import waves


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Return the arguments of a batch of one request."""
    (tmp_path / "in").mkdir()
    Image.fromarray(waves(64, 64)).save(tmp_path / "in" / "one.png")
    (tmp_path / "list.jsonl").write_text(json.dumps({"input_image": "in/one.png"}))
    options = ("--image-resolution", "64", "--plan", "19,4", "--device", "cpu", "--weights", str(SMALL_MODEL))
    return [str(tmp_path / "list.jsonl"), str(tmp_path / "out"), *options]


def test_all_precisions_can_be_chosen() -> None:
    for name in ("auto", *PRECISIONS):
        assert batch.parse_arguments(["in", "out", "--precision", name]).precision == name


def test_one_run_at_a_time(tmp_path: Path, arguments: list[str]) -> None:
    with locked(tmp_path / "out" / ".batch.lock", "wait"), pytest.raises(SystemExit, match=r"batch.lock is locked"):
        batch.main(arguments)


def test_ctrl_c_gives_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "cluster", stop)
    with pytest.raises(SystemExit) as caught:
        batch.main(arguments)
    assert caught.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped: finished pictures are in")


def test_sigterm_stops_like_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray replaces the handler when it starts."""
    pytest.importorskip("ray", reason="./preprocess.sh serve installs Ray")
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("ray.init", lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    try:
        with pytest.raises(KeyboardInterrupt), cluster("auto"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:1", "found no Ray cluster at 127.0.0.1:1: start one"),
        ("none.invalid:6379", "found no Ray cluster at none.invalid:6379"),
        ("127.0.0.1:99999", "found no Ray cluster"),
        ("ray://127.0.0.1:1", "got 'ray://127.0.0.1:1', expected auto or HOST:PORT"),
        ("6379", "got '6379', expected auto or HOST:PORT"),
    ],
)
def test_a_missing_cluster_is_one_sentence(arguments: list[str], address: str, sentence: str) -> None:
    with pytest.raises(SystemExit, match=f"--address: {sentence}"):
        batch.main([*arguments, "--address", address])
