"""The library that builds TensorRT engines for each GPU, and the errors if there is none."""

# ruff: noqa: E402

import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip(
    "tensorrt_rtx", reason="./preprocess.sh tensorrt-rtx installs it on Linux x86-64", exc_type=ImportError
)
for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="exports ONNX files and runs them: ./preprocess.sh dev installs it")

import build.builder
import build.export
import cldm.engine_files
from build.__main__ import main
from build.builder import make_builder
from runtime.tensorrt_calls import TensorRTError
from runtime.tensorrt_library import LIBRARIES
from tests.rtx_builds import CLASSIC, COMMAND, CPU, RTX, SIZE, engines, hint_alone, on_a_gpu, target

__all__ = ["engines", "hint_alone"]  # fixtures
pytestmark = pytest.mark.usefixtures("engines")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--backend", "tensorrt"], "TensorRT engines need a CUDA device: got cpu, .* --target sm89"),
        (["--target", "sm90"], "no library builds for sm90 with --target: TensorRT for RTX supports only sm75,"),
        (
            ["--target", "sm89", "--refit"],
            "refittable engines only on a machine that can run them, and this one has no sm89 GPU",
        ),
        (
            ["--target", "sm75", "sm89", "--precision", "fp32"],
            "TensorRT for RTX cannot multiply float32 matrices on sm75: choose --precision fp16",
        ),
        (["--target", "sm89", "--precision", "int8"], "precision 'int8': expected auto, fp32, fp16 or fp8"),
    ],
)
def test_what_cannot_be_built_here(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    assert main([*options, *SIZE]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("engines: ")
    assert re.search(sentence, line)


@pytest.mark.parametrize("options", [["--target", "ada"], ["--target"], ["--backend", "inductor", "--target", "sm89"]])
def test_arguments_that_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*options, *SIZE])
    assert "target" in capsys.readouterr().err


def test_who_measures_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """A portable library gets the present GPU as its target; engines for other GPUs are not run."""
    cuda = torch.device("cuda")
    on_a_gpu(monkeypatch, 89)
    monkeypatch.setattr(build.builder, "library_that_builds", lambda device, targets: RTX)
    here, there = make_builder(target(), cuda), make_builder(target(targets=(120,)), cuda)
    assert (here.targets, here.runs) == ((89,), True)
    assert (there.targets, there.runs) == ((120,), False)
    assert not make_builder(target(targets=(89,)), CPU).runs
    assert make_builder(target(targets=(89, 120), refit=True), cuda).refit
    with pytest.raises(
        TensorRTError, match="machine that can run them, and this one has no sm120 GPU: leave out --refit"
    ):
        make_builder(target(targets=(120,), refit=True), cuda)
    monkeypatch.setattr(build.builder, "library_that_builds", lambda device, targets: CLASSIC)
    classic = make_builder(target(refit=True), cuda)
    assert (classic.targets, classic.runs, classic.refit) == ((), True, True)
    assert classic.timing_cache == cldm.engine_files.ENGINES / "tensorrt.timing"


def test_without_the_exporter_one_sentence_says_what_installs_it(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build.export, "find_spec", lambda name: None if name == "onnxscript" else object())
    assert main(COMMAND) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "engines: the ONNX exporter needs onnxscript: run ./preprocess.sh tensorrt-rtx"


def test_without_any_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for library in LIBRARIES:
        monkeypatch.setitem(sys.modules, library.module, None)
    assert main(COMMAND) == 1
    line = capsys.readouterr().err
    assert "TensorRT cannot be imported (tensorrt_rtx: " in line
    assert "run ./preprocess.sh tensorrt-rtx, install" in line
