"""Failures of the real builder of TensorRT for RTX become one-sentence errors."""

# ruff: noqa: E402

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

trt = pytest.importorskip(
    "tensorrt_rtx", reason="./preprocess.sh tensorrt-rtx installs it on Linux x86-64", exc_type=ImportError
)
pytest.importorskip("onnx", reason="./preprocess.sh dev installs it")


import runtime.tensorrt
from runtime.spec import EngineSpec
from runtime.tensorrt import TensorRTEngine
from runtime.tensorrt_calls import TensorRTError
from tests.rtx_builder import RTX, SM89, build_toy
from tests.tensorrt_toys import CPU, SPEC, message, toy, toy_file

__all__ = ["toy", "toy_file"]  # fixtures


def test_refittable_engines_need_a_driver(toy_file: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with pytest.raises(TensorRTError, match=r"toy\.onnx cannot be built \(TensorRT: "):
        build_toy(toy_file, builder=replace(SM89, refit=True))


def test_a_file_that_is_not_onnx(tmp_path: Path) -> None:
    for content in (None, b"", b"no onnx"):
        path = tmp_path / "toy.onnx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(TensorRTError, match=r"engine toy: .*toy\.onnx cannot be parsed: |'gain' is missing"):
            build_toy(path)


@pytest.mark.parametrize(
    ("index", "changes", "difference"),
    [
        (0, {"dtype": torch.float32}, "'x' is INPUT HALF [2, 8, 4, 6] HWC, expected INPUT FLOAT [2, 8, 4, 6] HWC"),
        (1, {"dtype": torch.int32}, "'gain' is INPUT FLOAT [2, 3] LINEAR, expected INPUT INT32 [2, 3] LINEAR"),
        (0, {"shape": (2, 8, 4, 8)}, "'x' is INPUT HALF [2, 8, 4, 6] HWC8, expected INPUT HALF [2, 8, 4, 8] HWC8"),
        (1, {"name": "loss"}, "'gain' is INPUT FLOAT [2, 3] LINEAR, expected no such tensor, 'loss' is missing"),
    ],
)
def test_a_file_with_other_tensors(toy_file: Path, index: int, changes: dict[str, Any], difference: str) -> None:
    inputs = [*SPEC.inputs]
    inputs[index] = replace(inputs[index], **changes)
    with pytest.raises(TensorRTError) as error:
        build_toy(toy_file, EngineSpec("toy", tuple(inputs), SPEC.outputs))
    assert difference in message(error)


class Failing:
    """The library, except that the constructor or builder method named `call` fails."""

    def __init__(self, call: str) -> None:
        self.call = call

    def __getattr__(self, name: str) -> Any:
        real = getattr(trt, name)
        if name == self.call:
            return Mock(side_effect=TypeError("pybind11::init(): factory function returned nullptr"))
        if name == "Builder" and hasattr(real, self.call):
            return lambda logger: self.failing(real(logger))
        return real

    def failing(self, builder: Any) -> Any:
        methods = ("create_network", "create_builder_config", "build_serialized_network")
        return SimpleNamespace(
            **{name: getattr(builder, name) for name in methods} | {self.call: Mock(return_value=None)}
        )


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("Builder", "TensorRT cannot create the Builder"),
        ("create_network", "engine toy: TensorRT cannot create a network"),
        ("OnnxParser", "TensorRT cannot create the OnnxParser"),
        ("create_builder_config", "engine toy: TensorRT cannot create a configuration"),
        ("build_serialized_network", "toy.onnx cannot be built"),
    ],
)
def test_each_failure_is_an_error(toy_file: Path, call: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, RTX.module, Failing(call))
    with pytest.raises(TensorRTError) as error:
        build_toy(toy_file)
    assert sentence in message(error)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_an_engine_without_a_gpu_is_a_sentence(toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serialized, _ = build_toy(toy_file)
    with pytest.raises(TensorRTError, match=r"TensorRT engines need a CUDA device: got cpu, .* use backend eager"):
        TensorRTEngine(SPEC, serialized, CPU)
    monkeypatch.setattr(runtime.tensorrt, "check_device", lambda device, library=None: None)
    with pytest.raises(
        TensorRTError, match=r"the serialized engine cannot be read; build it again .*TensorRT: .*CUDA driver"
    ):
        TensorRTEngine(SPEC, serialized, CPU)
    other = serialized[:24] + bytes([1, 2, 3, 4]) + serialized[28:]
    sentence = rf"by TensorRT for RTX 1\.2\.3\.4, but {trt.__version__} is installed; .*install tensorrt-rtx-cu13==1\.2"
    with pytest.raises(TensorRTError, match=sentence):
        TensorRTEngine(SPEC, other, CPU)
