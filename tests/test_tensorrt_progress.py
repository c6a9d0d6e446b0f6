"""A build shows its progress, stops on Ctrl-C, and saves a timing cache."""

import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tqdm import tqdm

pytest.importorskip(
    "tensorrt_rtx", reason="./preprocess.sh tensorrt-rtx installs it on Linux x86-64", exc_type=ImportError
)
pytest.importorskip("onnx", reason="./preprocess.sh dev installs it")


import build.compile
import build.progress
from runtime.tensorrt_calls import TensorRTError
from tests.rtx_builder import SM89, build_toy
from tests.tensorrt_toys import toy, toy_file

__all__ = ["toy", "toy_file"]  # fixtures


def bars_with(monkeypatch: pytest.MonkeyPatch, **methods: Any) -> list[Any]:
    """Return a list that collects the progress bars that builds create from now on."""
    bars: list[Any] = []

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            bars.append(self)

    for name, method in methods.items():
        setattr(Bar, name, method)
    monkeypatch.setattr(build.progress, "tqdm", Bar)
    return bars


def test_progress_ends_full(toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = bars_with(monkeypatch)
    build_toy(toy_file)
    (bar,) = bars
    assert bar.n == bar.total > 1


def test_ctrl_c_stops_a_build(toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a real signal during the build: the builder's bindings swallow exceptions of callbacks."""
    before = signal.getsignal(signal.SIGINT)
    bars_with(monkeypatch, set_postfix_str=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        build_toy(toy_file)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_library_without_timing_cache_leaves_none(toy_file: Path, tmp_path: Path) -> None:
    build_toy(toy_file, builder=replace(SM89, timing_cache=tmp_path / "times"))
    assert not [*tmp_path.iterdir()]


def test_timing_cache_is_kept_between_builds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only classic TensorRT has a timing cache, and its builder needs a GPU: the configuration is a mock."""
    caplog.set_level(logging.INFO)
    path, logger = tmp_path / "new" / "times", Mock(heard=lambda: "its reason")
    config = Mock()
    config.get_timing_cache.return_value.serialize.return_value = b"times"
    build.compile._load_times(config, path, logger)
    config.create_timing_cache.assert_called_once_with(b"")
    build.compile._save_times(config, path, logger)
    assert [(one.name, one.read_bytes()) for one in path.parent.iterdir()] == [("times", b"times")]
    build.compile._load_times(config, path, logger)
    config.create_timing_cache.assert_called_with(b"times")
    assert not caplog.records

    config.set_timing_cache.side_effect = [False, True]
    build.compile._load_times(config, path, logger)
    assert "times: unreadable, or from another GPU or version (its reason)" in caplog.text
    config.set_timing_cache.side_effect = None
    for call, failing in (
        ("create_timing_cache", "created"),
        ("set_timing_cache", "created"),
        ("get_timing_cache", "saved"),
    ):
        broken = Mock(**{f"{call}.return_value": None})
        work = build.compile._save_times if failing == "saved" else build.compile._load_times
        with pytest.raises(TensorRTError, match=rf"cannot be {failing} \(TensorRT: its reason\)"):
            work(broken, tmp_path / "none", logger)
