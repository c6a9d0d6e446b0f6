"""`python -m build --check` with the real builder and no GPU: printed lines, report, and the errors that it finds."""

# ruff: noqa: E402

import json
import sys
from pathlib import Path
from typing import Any

import pytest

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="exports ONNX files and runs them: ./preprocess.sh dev installs it")

import build.doctor
import build.export
import build.tensorrt
import build.verify
from build.__main__ import main
from build.case import Case
from build.checks import CHECKS
from build.compile import compile_engine
from build.doctor import anonymous
from cldm.stages import STAGES
from runtime.sources import ROOT
from runtime.tensorrt_library import LIBRARIES
from tests.standin import tensorrt as standin

COMMAND = "--check --architecture tiny --height 64 --width 64 --device cpu".split()
ON_A_GPU = {
    *("driver", "GPU", "graph", "replay", "process()", "graph launch", "refit encoder"),
    *(f"parity {stage}" for stage in STAGES),
}
NOT_TRIED = {"plugin", "plugin in engine"}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: None) -> None:
    monkeypatch.chdir(tmp_path)


def results(printed: str) -> dict[str, str]:
    """Return the result of each check from the report, and compare it with the printed lines."""
    report = json.loads(Path("tensorrt_check.json").read_text())
    found = {one["check"]: one["result"] for one in report["checks"]}
    for one in report["checks"]:
        assert f"{one['check']:18s} {one['result']:10s} " in printed
    assert list(found) == [name for name, _ in CHECKS]
    return found


def check(name: str) -> dict[str, Any]:
    report = json.loads(Path("tensorrt_check.json").read_text())
    return next(one for one in report["checks"] if one["check"] == name)


def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="./preprocess.sh tensorrt-rtx installs it", exc_type=ImportError)
    assert main([*COMMAND, "--target", "sm89"]) == 0
    printed = capsys.readouterr().out
    found = results(printed)
    assert {name for name, result in found.items() if result == "needs GPU"} == ON_A_GPU
    assert {name for name, result in found.items() if result == "not tried"} == NOT_TRIED
    assert set(found.values()) == {"ok", "needs GPU", "not tried"}
    assert check("graph")["figures"] == "needs a GPU of sm89, found none"
    assert check("driver")["figures"] == "needs a CUDA device, got cpu"
    assert check("library")["figures"].startswith(f"TensorRT for RTX {trt.__version__}, builds for sm89, PyTorch")
    assert "0 unfused" in check("attention encoder")["figures"]
    assert check("ONNX decoder")["figures"].startswith("error ")
    left = next(
        line for line in printed.splitlines() if line.startswith("still to run on a machine with sm89, with the same")
    )
    assert set(left.split(": ")[1].split(", ")) == ON_A_GPU
    assert not (tmp_path / "engines").exists(), "engine files must not be written"
    text = Path("tensorrt_check.json").read_text()
    report = json.loads(text)
    assert report["manifest"]["tensorrt"] == f"TensorRT for RTX {trt.__version__}"
    assert report["weights"] == "random:0"
    assert report["layers"].keys() == set(STAGES)
    for private in (str(Path.home()), str(ROOT), str(tmp_path)):
        assert private not in text


def test_what_is_wrong_fails_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="./preprocess.sh tensorrt-rtx installs it", exc_type=ImportError)
    few = ("library", "build hint", "attention hint", "ONNX hint", "build vae", "ONNX vae", "parity vae")
    monkeypatch.setattr(build.doctor, "CHECKS", [(name, one) for name, one in CHECKS if name in few])

    def broken(path: Path, spec: Any, *rest: Any) -> Any:
        if spec.name == "hint":
            path.write_bytes(b"no ONNX")
        return compile_engine(path, spec, *rest)

    monkeypatch.setattr(build.tensorrt, "compile_engine", broken)
    monkeypatch.setattr(build.verify.Trial, "error", lambda trial, engine: 0.5)
    assert main([*COMMAND, "--target", "sm89"]) == 1
    printed = capsys.readouterr().out
    found = {line[:18].strip(): line[19:].split()[0] for line in printed.splitlines()[:-2]}
    assert found == {
        "library": "ok", "build hint": "FAILED", "build vae": "ok", "attention hint": "not", "ONNX hint": "not",
        "ONNX vae": "FAILED", "parity vae": "needs",
    }  # fmt: skip
    assert "hint.onnx cannot be parsed: " in check("build hint")["figures"]
    assert any("ERROR" in line or "INTERNAL_ERROR" in line for line in check("build hint")["tensorrt"])
    assert check("ONNX vae")["figures"].startswith("error 5.0e-01, bound ")
    assert check("ONNX hint")["figures"] == "no engine was built"


def test_an_unknown_error_leaves_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(case: Case) -> str:
        raise ZeroDivisionError(f"in\n{ROOT}/build")

    monkeypatch.setattr(build.doctor, "CHECKS", (("one", broken), ("two", lambda case: "2 ms")))
    assert main(COMMAND) == 1
    assert "one                FAILED     ZeroDivisionError: in" in capsys.readouterr().out
    assert check("one")["figures"] == "ZeroDivisionError: in <project>/build"
    assert 'File "<project>/build/doctor.py"' in check("one")["traceback"]
    assert check("two")["result"] == "ok"


def test_what_is_missing_is_said_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for library in LIBRARIES:
        monkeypatch.setitem(sys.modules, library.module, None)
    monkeypatch.setattr(build.doctor, "REPORT", Path("/nowhere/report"))
    assert main(COMMAND) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("check: TensorRT cannot be imported (tensorrt_rtx: ")
    assert line.endswith("run ./preprocess.sh tensorrt-rtx, install tensorrt-rtx-cu13, or use another backend")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", standin)
    monkeypatch.setattr(build.export, "find_spec", lambda name: None)
    assert main(COMMAND) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "check: the ONNX exporter needs onnx and onnxscript: run ./preprocess.sh tensorrt-rtx"
    with pytest.raises(SystemExit):
        main(["--check", "--backend", "inductor"])


def test_nothing_personal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    text = f'"{ROOT}/build/x.py", /home/ada/engines, "/data/ada", /data/adagio, /home/adagio'
    assert anonymous(text) == '"<project>/build/x.py", ~/engines, "/data/<user>", /data/adagio, /home/adagio'
    monkeypatch.setenv("HOME", "/")
    assert anonymous("/data/ada") == "/data/ada"
