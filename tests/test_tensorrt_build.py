"""Our ONNX files build with the real builder of TensorRT for RTX, which needs no GPU.

Running the engines needs an RTX GPU and is not tested here.
"""

# ruff: noqa: E402

import logging
import re
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

trt = pytest.importorskip(
    "tensorrt_rtx", reason="./preprocess.sh tensorrt-rtx installs it on Linux x86-64", exc_type=ImportError
)
pytest.importorskip("onnx", reason="./preprocess.sh dev installs it")


import build.compile
import runtime.tensorrt
from build.compile import Builder, compile_engine
from build.layers import BuildLog
from runtime.tensorrt_calls import TensorRTError, heard_log
from runtime.tensorrt_library import library_that_builds
from tests.conftest import ATTENTIONS, Exported
from tests.rtx_builder import RTX, SM89, build_toy
from tests.standin import tensorrt as standin
from tests.tensorrt_toys import CPU, LAYOUTS, SPEC, toy, toy_file

__all__ = ["toy", "toy_file"]  # fixtures

WORDS = {"LINEAR": "(kLINEAR)", "HWC": "channel-last", "HWC8": "(kHWC8)"}  # the builder's names of layouts
FLOAT, HALF = torch.float32, torch.float16


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> None:
    """Capture TensorRT's warnings and errors, so that tests can assert that there were none."""
    caplog.set_level(logging.DEBUG, heard_log.name)


def heard(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == heard_log.name]


@pytest.mark.parametrize("dtype", [HALF, FLOAT], ids=str)
def test_every_stage_builds(dtype: torch.dtype, exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    trial, files = exported(dtype)
    reports = {}
    for name, path in files.items():
        serialized, reports[name] = compile_engine(path, trial.stages[name].spec, SM89)
        assert serialized.startswith(RTX.magic)
    assert heard(caplog) == []
    fused = {name: report.attentions("fused") for name, report in reports.items()}
    unfused = {name: report.attentions("unfused") for name, report in reports.items()}
    every, none = ATTENTIONS[dtype], dict.fromkeys(files, 0)
    if dtype == HALF:
        assert (fused, unfused) == (every | {"vae": 0}, none | {"vae": 1})
    else:
        assert (fused, unfused) == (none, every)
    assert reports["decoder"].silu_norms > 5
    kinds = {one.split()[0] for one in reports["decoder"].formats}
    assert ("Half" in kinds) == (dtype == HALF)
    assert all(report.scratch_bytes > 0 and report.layers for report in reports.values())


def test_an_engine_reads_and_writes_in_our_layouts(
    exported: Exported, caplog: pytest.LogCaptureFixture, toy_file: Path
) -> None:
    """According to the builder's log, for the toy, which has every layout, and for two stages."""
    caplog.set_level(logging.DEBUG, "runtime.tensorrt_calls")
    trial, files = exported(HALF)
    for spec, path in [(SPEC, toy_file), *((trial.stages[name].spec, files[name]) for name in ("hint", "vae"))]:
        caplog.clear()
        compile_engine(path, spec, SM89)
        (listed,) = (text for text in caplog.messages if "\nI/O Tensors:\n" in text)
        found = re.findall(r"Name: (\w+), IOMode: (\w+), DataType: (\w+), .*Format: (.*?) }", listed)
        for mode, tensors in (("Input", spec.inputs), ("Output", spec.outputs)):
            for one in tensors:
                dtype = {HALF: "Half", FLOAT: "Float", torch.uint8: "UInt8"}[one.dtype]
                (words,) = (words for *properties, words in found if properties == [one.name, mode, dtype])
                assert WORDS[runtime.tensorrt.layout(one)] in words


@pytest.mark.parametrize("targets", [*((one,) for one in RTX.capabilities), (86, 89, 120)])
def test_every_target(targets: tuple[int, ...], exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    trial, files = exported(HALF)
    serialized, report = compile_engine(files["hint"], trial.stages["hint"].spec, Builder(RTX, CPU, targets))
    assert serialized.startswith(RTX.magic)
    assert report.layers
    assert heard(caplog) == []


@pytest.mark.parametrize("capability", RTX.half_only)
def test_where_float32_matrices_are_not_multiplied(capability: int, exported: Exported) -> None:
    for dtype in (HALF, FLOAT):
        trial, files = exported(dtype)
        for name in ("text", "vae"):
            with nullcontext() if dtype == HALF else pytest.raises(TensorRTError, match="FP32 GEMM is not supported"):
                compile_engine(files[name], trial.stages[name].spec, Builder(RTX, CPU, (capability,)))


@pytest.mark.parametrize("targets", [(90,), (89, 90), (100,)])
def test_other_targets_need_the_machine(targets: tuple[int, ...]) -> None:
    with pytest.raises(TensorRTError, match=r"no library builds .*: TensorRT for RTX supports only sm75, .*sm121; for"):
        library_that_builds(CPU, targets)


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations that builders were given."""
    given: list[Any] = []
    configure = build.compile._configure

    def spy(module: Any, config: Any, builder: Builder) -> None:
        configure(module, config, builder)
        given.append(config)

    monkeypatch.setattr(build.compile, "_configure", spy)
    return given


def test_what_the_builder_is_told(toy_file: Path, configs: list[Any]) -> None:
    build_toy(toy_file, builder=replace(SM89, targets=(86, 120)))
    (config,) = configs
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == build.compile.WORKSPACE
    assert config.max_aux_streams == 0
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert not config.get_flag(trt.BuilderFlag.REFIT)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    targets = [config.get_compute_capability(i) for i in range(config.num_compute_capabilities)]
    assert targets == [trt.ComputeCapability.SM86, trt.ComputeCapability.SM120]


def test_without_a_list_in_the_log_the_inspector_is_asked(
    toy_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Classic TensorRT may need the inspector; here the stand-in reads the engine."""
    serialized = standin.serialize(toy_file, LAYOUTS)
    monkeypatch.setitem(sys.modules, "tensorrt", standin)
    monkeypatch.setattr(runtime.tensorrt, "check_device", lambda device, library=None: None)
    monkeypatch.setattr(build.compile, "_build", lambda *arguments: serialized)
    report = build_toy(toy_file)[1]
    assert "Conv" in {layer.kind for layer in report.layers}
    assert report.scratch_bytes == standin.SCRATCH_BYTES
    for call, reason in (
        ("create_engine_inspector", "its inspector cannot be created"),
        ("get_engine_information", "Expecting"),
    ):
        standin.fail_once(call)
        caplog.clear()
        assert build_toy(toy_file)[1].layers == ()
        (line,) = (line for line in caplog.messages if line.startswith("engine toy: layers unknown ("))
        assert reason in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_list_in_the_log_and_without_a_gpu_no_layers_are_known(
    toy_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(BuildLog, "__call__", lambda log, message: None)
    serialized, report = build_toy(toy_file)
    assert serialized.startswith(RTX.magic)
    assert report.layers == ()
    assert "engine toy: layers unknown (TensorRT engines need a CUDA device: got cpu" in caplog.text
