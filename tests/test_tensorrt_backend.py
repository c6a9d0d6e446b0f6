"""Backend tensorrt from `python -m build` to the picture, on the stand-in: what is ours of it, not TensorRT itself."""

# ruff: noqa: E402

import sys
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the exporter and what runs its files: ./preprocess.sh dev")

import build.compile
import build.export
import build.tensorrt
import build.verify
import cldm.engine_files
import cldm.pipeline
import runtime.backends
import runtime.tensorrt
from build.__main__ import main
from canny2image_TRT import hackathon
from cldm.checkpoint import find_checkpoint
from cldm.engine_files import Target, find_engines, is_up_to_date
from cldm.stages import make_stages
from plugins.group_norm.compile import KernelError
from runtime.artifacts import EngineFileError
from runtime.spec import EngineSpec
from scoring.pictures import find_pictures
from tests.standin import tensorrt as standin
from tests.test_tensorrt import aligned

CPU = torch.device("cpu")
COMMAND = "--backend tensorrt --checkpoint random:0 --device cpu".split()


def allocate(specs: Mapping[str, EngineSpec], device: torch.device) -> dict[str, Tensor]:
    """Buffers as runtime.spec.allocate makes them on a GPU: aligned, and in channels-last where the spec says so."""
    tensors = {t.name: t for spec in specs.values() for t in (*spec.inputs, *spec.outputs)}
    return {name: aligned(tensor).zero_() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


def use_standin(monkeypatch: pytest.MonkeyPatch, engines: Path) -> None:
    """The stand-in as the installed TensorRT, with the CPU as its device, and a place for engine files."""
    monkeypatch.setitem(sys.modules, "tensorrt", standin)
    monkeypatch.setattr(cldm.engine_files, "ENGINES", engines)
    for module in (runtime.tensorrt, build.compile, cldm.engine_files):
        monkeypatch.setattr(module, "check_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Mock(cuda_stream=1))
    for user in (cldm.pipeline, build.verify):
        monkeypatch.setattr(user, "allocate", allocate)


@pytest.fixture(autouse=True)
def _standin(monkeypatch: pytest.MonkeyPatch, engines: Path) -> None:
    use_standin(monkeypatch, engines)


def draw(runtime: hackathon) -> Any:
    arguments = (find_pictures()["bird_2"], "a bird", "best", "worst", 1, 256, 20, False, 1.0, 9.0, 3, 0.0, 100, 200)
    return runtime.process(*arguments)[0]


def test_from_a_checkpoint_to_the_picture(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMAND) == 0
    printed = capsys.readouterr().out
    assert "attentions fused" in printed
    assert "onnx error" in printed
    assert [folder.name for folder in engines.iterdir() if folder.is_dir()] == ["tensorrt_small_256x384x1_fp32"]
    assert main(COMMAND) == 0
    assert "up to date" in capsys.readouterr().out

    made, eager = (hackathon("random:0", backend=name, plan="19,7", device="cpu") for name in ("tensorrt", "eager"))
    for runtime_ in (made, eager):
        runtime_.initialize()
    assert made.backend.name == "tensorrt"
    (pipeline,) = made.pipelines.values()
    assert {type(engine).__name__ for engine in pipeline.engines.values()} == {"TensorRTEngine"}
    scratch = {name: engine.scratch.data_ptr() for name, engine in pipeline.engines.items()}  # type: ignore[attr-defined]
    assert scratch["hint"] == scratch["control"]
    assert scratch["text"] == scratch["encoder"] == scratch["decoder"] == scratch["vae"]
    assert scratch["control"] != scratch["encoder"], "they run side by side"
    assert (np.abs(draw(made).astype(int) - draw(eager)) <= 1).mean() > 0.99

    made.plan = eager.plan = "19,11,3"
    assert (np.abs(draw(made).astype(int) - draw(eager)) <= 1).mean() > 0.99
    one, other = made.pipelines.values()
    read = [[weakref.ref(engine.engine) for engine in each.engines.values()] for each in (one, other)]  # type: ignore[attr-defined]
    assert read[0] == read[1], "another plan reads no engine again"
    made.pipelines.clear()
    del pipeline, one, other
    assert {engine() for engine in read[0]} == {None}, "what no pipeline runs takes no memory"
    assert draw(made).std() > 0, "and is read again when it is asked for"

    with pytest.raises(ValueError, match=r"load_weights\(\) got random:1, and TensorRT's engines hold the weights of"):
        made.load_weights("random:1")


def test_auto_goes_on_where_a_plan_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtime_ = hackathon("random:0", plan="19", device="cpu")
    monkeypatch.setattr(runtime_, "backends", ("tensorrt", "eager"))  # what auto looks for on a GPU
    standin.fail_once("deserialize_cuda_engine")
    runtime_.initialize()
    assert runtime_.backend.name == "eager"
    assert "not by backend tensorrt: engine text: the plan cannot be deserialised" in caplog.text
    assert draw(runtime_).std() > 0


def test_engines_of_another_checkpoint_are_refused() -> None:
    with pytest.raises(
        EngineFileError, match=r"weights is '\w+', expected '\w+'; build them with .*--checkpoint random:1"
    ):
        hackathon("random:1", backend="tensorrt", device="cpu").initialize()


def test_a_stage_that_cannot_be_built_saves_nothing(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    standin.fail_once("build_serialized_network")
    assert main([*COMMAND, "--height", "64", "--width", "64"]) == 1
    assert "engines: engine text" in capsys.readouterr().err
    assert not (engines / "tensorrt_small_64x64x1_fp32").exists()


def test_with_and_without_the_plugin(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half precision is slow on the CPU, so one stage alone, the second with norms."""
    happened = []
    parse = standin.OnnxParser.parse_from_file

    def parse_from_file(self: standin.OnnxParser, model: str) -> bool:
        happened.append("parse")
        return parse(self, model)

    def refuse(architecture: int) -> None:
        raise KernelError("NVRTC cannot be loaded\n(no such file)")

    monkeypatch.setattr(standin.OnnxParser, "parse_from_file", parse_from_file)
    stage = "hint"
    for user in (build.export, build.verify):
        monkeypatch.setattr(user, "make_stages", lambda *given: {stage: make_stages(*given)[stage]})
    monkeypatch.setattr(runtime.backends, "choose_precision", lambda name, device: runtime.backends.PRECISIONS["fp16"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(build.tensorrt, "register", lambda architecture: happened.append(f"register {architecture}"))
    monkeypatch.setattr(build.tensorrt, "try_compiler", refuse)
    command = [*COMMAND, "--height", "64", "--width", "64"]
    target = Target("small", 64, 64, 1, "fp16", "tensorrt").of(find_checkpoint("random:0"))

    assert main(command) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "engines: the plugin for GroupNorm cannot be registered (KernelError: NVRTC cannot be loaded (no such file)): "
        "build with --no-plugins"
    )
    assert not happened
    with monkeypatch.context() as patch:
        patch.setattr(build.tensorrt, "find_spec", lambda name: None)
        assert main([*command, "--no-plugins"]) == 0
    row = capsys.readouterr().out.splitlines()[-2].split()
    assert (row[0], row[5]) == ("hint", "-"), "no onnxruntime"
    assert happened == ["parse"]
    assert is_up_to_date(target, CPU)
    assert is_up_to_date(replace(target, plugins=False), CPU)
    assert not is_up_to_date(replace(target, plugins=True), CPU)

    stage = "vae"
    monkeypatch.setattr(build.tensorrt, "try_compiler", lambda architecture: None)
    assert main([*command, "--force"]) == 0
    row = capsys.readouterr().out.splitlines()[-2].split()
    assert (row[0], row[5]) == ("vae", row[2]), "the stand-in is onnxruntime too"
    assert happened == ["parse", "register 90", "parse"]
    assert is_up_to_date(target, CPU)
    assert not is_up_to_date(replace(target, plugins=False), CPU)
    assert find_engines(target, CPU).name == "tensorrt"
    assert (engines / "tensorrt.timing").is_file()


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", None)
    assert main(COMMAND) == 1
    assert "TensorRT cannot be imported" in capsys.readouterr().err


def test_where_tensorrt_cannot_run_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"TensorRT engines need a CUDA device: got cpu, .*; use backend eager"):
        hackathon("random:0", backend="tensorrt", device="cpu").initialize()
