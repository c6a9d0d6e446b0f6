"""`python -m build --backend tensorrt --target ...` on the CPU, by the real builder, and who accepts its files."""

# ruff: noqa: E402

import json
import logging
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

trt = pytest.importorskip(
    "tensorrt_rtx", reason="./preprocess.sh tensorrt-rtx installs it on Linux x86-64", exc_type=ImportError
)
for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the exporter and what runs its files: ./preprocess.sh dev")

import build.export
import build.tensorrt
import build.verify
import cldm.engine_files
from build.__main__ import main
from build.compile import Builder
from build.errors import BuildError
from build.tensorrt import make_builder, register_plugin
from build.verify import Trial
from cldm.checkpoint import find_checkpoint
from cldm.engine_files import Target, expected_manifest, find_engines, is_up_to_date
from cldm.stages import make_stages
from plugins.group_norm.compile import KernelError
from runtime.artifacts import EngineFileError, read, save
from runtime.tensorrt_calls import TensorRTError
from runtime.tensorrt_library import LIBRARIES

CPU = torch.device("cpu")
CLASSIC, _, RTX = LIBRARIES
SIZE = "--architecture tiny --checkpoint random:0 --height 64 --width 64".split()
COMMAND = [*"--backend tensorrt --target sm86 8.9".split(), *SIZE]


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: None) -> Path:
    monkeypatch.setattr(cldm.engine_files, "ENGINES", tmp_path / "engines")
    return tmp_path / "engines"


@pytest.fixture
def hint_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stage instead of six, to save time."""
    for user in (build.export, build.verify):
        monkeypatch.setattr(user, "make_stages", lambda *given: {"hint": make_stages(*given)["hint"]})


def target(**changes: Any) -> Target:
    return replace(Target("tiny", 64, 64, 1, "fp16", "tensorrt").of(find_checkpoint("random:0", "tiny")), **changes)


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: int) -> torch.device:
    """The CPU, taken for a GPU of this compute capability."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: divmod(capability, 10))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU of the tests")
    monkeypatch.setattr(cldm.engine_files, "check_device", lambda device, library=None: None)
    return CPU


def test_from_a_checkpoint_to_engine_files(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(COMMAND) == 0
    printed = capsys.readouterr().out
    assert "attentions fused" in printed
    rows = {row.split()[0]: row.split() for row in printed.splitlines()}
    error, _, _, onnx_error = rows["decoder"][2:6]
    assert error == "-", "no engine was run"
    assert float(onnx_error) < 2e-3
    assert (
        "the engines were not run, the errors are those of the ONNX files in onnxruntime; run python -m build"
        in caplog.text
    )
    assert "--check on a machine with sm86 or sm89" in caplog.text
    (folder,) = (folder for folder in engines.iterdir() if folder.is_dir())
    assert folder.name == "tensorrt_tiny_64x64x1_fp16"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["device"], manifest["capability"]) == ("none", "8.6, 8.9")
    assert manifest["tensorrt"] == f"TensorRT for RTX {trt.__version__}"
    assert {manifest[name] for name in ("torch", "cuda", "triton", "python")} == {"none"}
    assert not (engines / "tensorrt.timing").exists()

    assert main(COMMAND) == 0
    assert "up to date" in capsys.readouterr().out
    assert is_up_to_date(target(targets=(89,)), CPU, RTX), "for fewer GPUs than they were built for"
    assert not is_up_to_date(target(targets=(89, 120)), CPU, RTX)

    for capability in (86, 89):
        assert find_engines(target(), on_a_gpu(monkeypatch, capability)).name == "tensorrt"
    with pytest.raises(EngineFileError, match=r"capability is '8\.6, 8\.9', expected '12\.0'; build .*--target sm120"):
        find_engines(target(), on_a_gpu(monkeypatch, 120))
    monkeypatch.setattr(trt, "__version__", "1.8.0.1")
    with pytest.raises(
        EngineFileError, match=r"tensorrt is 'TensorRT for RTX 1\.7.*', expected 'TensorRT for RTX 1\.8"
    ):
        find_engines(target(), on_a_gpu(monkeypatch, 89))


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"tensorrt": 3}', b'{"capability": 3}'])
def test_a_damaged_manifest_is_a_sentence(engines: Path, damage: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = target().folder
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(damage)
    with pytest.raises(EngineFileError, match=r"manifest\.json .*; build them with python -m build --backend tensorrt"):
        find_engines(target(), on_a_gpu(monkeypatch, 89))


def test_a_capability_that_is_not_a_text(engines: Path) -> None:
    expected = expected_manifest(target(targets=(89,)), CPU, library=RTX)
    save(target().folder, b"engines", replace(expected, capability=[8, 9]))  # type: ignore[arg-type]
    with pytest.raises(EngineFileError, match=r"capability is \[8, 9\], expected '8\.9'"):
        read(target().folder, expected)


def test_a_stage_that_cannot_be_built_saves_nothing(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = TensorRTError("engine text cannot be built")
    monkeypatch.setattr(build.tensorrt, "compile_engine", Mock(side_effect=error))
    assert main(COMMAND) == 1
    assert "engines: engine text cannot be built" in capsys.readouterr().err
    assert not engines.exists()


@pytest.mark.usefixtures("hint_alone")
def test_a_wrong_file_saves_nothing(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Trial, "error", lambda trial, engine: 0.5)
    assert main(COMMAND) == 1
    assert "engines: the ONNX file of stage hint has the relative error 5.00e-01" in capsys.readouterr().err
    assert not engines.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--backend", "tensorrt"], "TensorRT engines need a CUDA device: got cpu, .* --target sm89"),
        (["--target", "sm90"], "no library builds for sm90 on another machine: TensorRT for RTX does for sm75,"),
        (["--target", "sm89", "--refit"], "TensorRT for RTX builds refittable engines on a machine with a GPU"),
        (["--target", "sm89", "--precision", "int8"], "precision 'int8': expected auto, fp32 or fp16"),
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


def test_no_plugin_is_registered_with_a_library_that_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.tensorrt, "register", Mock(side_effect=AssertionError))
    with pytest.raises(BuildError, match="TensorRT for RTX takes no plugins: leave out --plugins"):
        register_plugin(Builder(RTX, CPU, (89,)))


@pytest.mark.usefixtures("hint_alone")
def test_where_plugins_fail_the_build_goes_on_without(
    engines: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert main([*COMMAND, "--plugins", "--strict"]) == 1
    assert "engines: TensorRT for RTX takes no plugins: leave out --plugins" in capsys.readouterr().err
    assert not engines.exists()
    assert main([*COMMAND, "--plugins"]) == 0
    assert "building without plugins, because with them it fails: TensorRT for RTX takes no plugins" in caplog.text
    assert json.loads((target().folder / "manifest.json").read_text())["tuning"] == {"plugins": False, "refit": False}
    assert is_up_to_date(target(targets=(89,)), CPU, RTX)
    assert not is_up_to_date(target(targets=(89,), plugins=True), CPU, RTX)


def test_the_plugin_of_classic_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered for the GPU that builds, once its kernel compiles there."""
    builder, registered = Builder(CLASSIC, on_a_gpu(monkeypatch, 90)), Mock()
    monkeypatch.setattr(build.tensorrt, "register", registered)
    monkeypatch.setattr(build.tensorrt, "try_compiler", Mock(side_effect=KernelError("NVRTC cannot be loaded\n(no)")))
    sentence = r"cannot be registered \(KernelError: NVRTC cannot be loaded \(no\)\): leave out --plugins"
    with pytest.raises(BuildError, match=sentence):
        register_plugin(builder)
    registered.assert_not_called()
    monkeypatch.setattr(build.tensorrt, "try_compiler", lambda architecture: None)
    register_plugin(builder)
    registered.assert_called_once_with(90)


def test_who_measures_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """A portable library is told the GPU that is here; engines for another one are not run."""
    cuda = torch.device("cuda")
    on_a_gpu(monkeypatch, 89)
    monkeypatch.setattr(build.tensorrt, "library_that_builds", lambda device, targets: RTX)
    here, there = make_builder(target(), cuda), make_builder(target(targets=(120,)), cuda)
    assert (here.targets, here.runs) == ((89,), True)
    assert (there.targets, there.runs) == ((120,), False)
    assert not make_builder(target(targets=(89,)), CPU).runs
    monkeypatch.setattr(build.tensorrt, "library_that_builds", lambda device, targets: CLASSIC)
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
