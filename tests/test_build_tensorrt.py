"""`python -m build --backend tensorrt --target ...` on the CPU, with the real builder; which GPUs accept the files."""

# ruff: noqa: E402

import logging
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

trt = pytest.importorskip(
    "tensorrt_rtx", reason="./preprocess.sh tensorrt-rtx installs it on Linux x86-64", exc_type=ImportError
)
for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="exports ONNX files and runs them: ./preprocess.sh dev installs it")

import build.tensorrt
from build.__main__ import main
from build.verify import Trial
from cldm.engine_files import expected_manifest, find_engines, is_up_to_date
from runtime.artifacts import FILE, EngineFileError, read, read_manifest, save
from runtime.tensorrt_calls import TensorRTError
from tests.rtx_builds import COMMAND, CPU, RTX, SIZE, engines, hint_alone, on_a_gpu, target

__all__ = ["engines", "hint_alone"]  # fixtures
pytestmark = pytest.mark.usefixtures("engines")


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
    manifest = read_manifest(folder)
    assert (manifest["device"], manifest["capability"]) == ("none", ["8.6", "8.9"])
    assert manifest["tensorrt"] == f"TensorRT for RTX {trt.__version__}"
    assert not manifest.keys() & {"torch", "cuda", "triton", "python"}, "engines do not depend on these"
    assert not (engines / "tensorrt.timing").exists()

    assert main(COMMAND) == 0
    assert "up to date" in capsys.readouterr().out
    assert is_up_to_date(target(targets=(89,)), CPU, RTX), "engines built for more GPUs fit"
    assert not is_up_to_date(target(targets=(89, 120)), CPU, RTX)

    for capability in (86, 89):
        assert find_engines(target(), on_a_gpu(monkeypatch, capability)).name == "tensorrt"
    with pytest.raises(
        EngineFileError, match=r"capability is \['8\.6', '8\.9'\], expected \['12\.0'\]; build .*--target sm120"
    ):
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
    (folder / FILE).write_bytes(damage)
    with pytest.raises(
        EngineFileError, match=r"the manifest of .*; build them with python -m build --backend tensorrt"
    ):
        find_engines(target(), on_a_gpu(monkeypatch, 89))


def test_a_capability_that_is_no_list(engines: Path) -> None:
    expected = expected_manifest(target(targets=(89,)), CPU, library=RTX)
    save(target().folder, b"engines", replace(expected, facts={**expected.facts, "capability": 8.9}))
    with pytest.raises(EngineFileError, match=r"capability is 8.9, expected \['8\.9'\]"):
        read(target().folder, expected)


def test_a_stage_that_cannot_be_built_saves_nothing(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = TensorRTError("engine text cannot be built")
    monkeypatch.setattr(build.tensorrt, "compile_engine", Mock(side_effect=error))
    assert main(COMMAND) == 1
    assert "engines: engine text cannot be built" in capsys.readouterr().err
    assert not [*engines.iterdir()]


@pytest.mark.usefixtures("hint_alone")
def test_engines_for_other_gpus_that_are_replaced_are_named(engines: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    command = "--backend tensorrt --target".split()
    assert main([*command, "sm89", *SIZE]) == 0
    assert "replacing" not in caplog.text
    assert main([*command, "sm86", *SIZE]) == 0
    sentence = f"replacing the engines for sm89 in {target().folder} with engines for sm86; to build for all, use"
    assert f"{sentence} --target sm86 sm89" in caplog.text
    caplog.clear()
    assert main([*command, "sm86", "sm89", *SIZE]) == 0
    assert "replacing" not in caplog.text
    (target().folder / FILE).write_text('{"capability": ["9.0"]}')
    assert main([*command, "sm86", *SIZE]) == 0
    assert f"replacing the engines for sm90 in {target().folder} with engines for sm86" in caplog.messages
    (target().folder / FILE).write_text("no JSON")
    assert main([*command, "sm86", *SIZE]) == 0


def test_a_folder_that_cannot_be_written_is_noticed_before_the_build(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build.tensorrt, "build", Mock(side_effect=AssertionError("the build must not start")))
    for path in (engines, target().folder):
        path.parent.mkdir(exist_ok=True)
        path.write_text("in the way")
        assert main(COMMAND) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"engines: {path} cannot be written (Not a directory); a file is in")
        path.unlink()


@pytest.mark.usefixtures("hint_alone")
def test_a_wrong_file_saves_nothing(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Trial, "error", lambda trial, engine: 0.5)
    assert main(COMMAND) == 1
    assert "engines: the ONNX file of stage hint has a relative error of 5.00e-01" in capsys.readouterr().err
    assert not [*engines.iterdir()]
