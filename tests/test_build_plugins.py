"""TensorRT builds with the GroupNorm plugin; if it is not available, they fall back to engines without it."""

# ruff: noqa: E402

import logging
from pathlib import Path
from unittest.mock import Mock

import pytest

pytest.importorskip(
    "tensorrt_rtx", reason="./preprocess.sh tensorrt-rtx installs it on Linux x86-64", exc_type=ImportError
)
for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="exports ONNX files and runs them: ./preprocess.sh dev installs it")

import build.builder
from build.__main__ import main
from build.builder import register_plugin
from build.compile import Builder
from build.errors import BuildError
from cldm.engine_files import is_up_to_date
from plugins.nvrtc import KernelError
from runtime.artifacts import read_manifest
from tests.rtx_builds import CLASSIC, COMMAND, CPU, RTX, engines, hint_alone, on_a_gpu, target

__all__ = ["engines", "hint_alone"]  # fixtures
pytestmark = pytest.mark.usefixtures("engines")


def test_no_plugin_is_registered_with_a_library_that_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.builder, "register", Mock(side_effect=AssertionError))
    with pytest.raises(BuildError, match="TensorRT for RTX does not support plugins: leave out --plugins"):
        register_plugin(Builder(RTX, CPU, (89,)))


@pytest.mark.usefixtures("hint_alone")
def test_where_a_library_takes_no_plugins_the_build_goes_on_without(
    engines: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert main([*COMMAND, "--plugins", "--strict"]) == 1
    sentence = (
        "engines: engines cannot be built with plugins: TensorRT for RTX does not support them; leave out --plugins"
    )
    assert sentence in capsys.readouterr().err
    assert not engines.exists()
    assert main([*COMMAND, "--plugins"]) == 0
    assert "building without plugins: TensorRT for RTX does not support them" in caplog.text
    assert read_manifest(target().folder)["tuning.plugins"] is False
    assert is_up_to_date(target(targets=(89,)), CPU, RTX)
    assert not is_up_to_date(target(targets=(89,), plugins=True), CPU, RTX)
    capsys.readouterr()
    assert main([*COMMAND, "--plugins"]) == 0
    assert "engines: up to date" in capsys.readouterr().out


def test_the_plugin_of_classic_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is registered for the GPU that builds, and only if its kernel compiles there."""
    builder, registered = Builder(CLASSIC, on_a_gpu(monkeypatch, 90)), Mock()
    monkeypatch.setattr(build.builder, "register", registered)
    monkeypatch.setattr(build.builder, "try_compiler", Mock(side_effect=KernelError("NVRTC cannot be loaded\n(no)")))
    sentence = r"cannot be registered \(KernelError: NVRTC cannot be loaded \(no\)\): leave out --plugins"
    with pytest.raises(BuildError, match=sentence):
        register_plugin(builder)
    registered.assert_not_called()
    monkeypatch.setattr(build.builder, "try_compiler", lambda architecture: None)
    register_plugin(builder)
    registered.assert_called_once_with(90)
