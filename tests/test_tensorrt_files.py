"""Serialized engines are read and checked, on the TensorRT stand-in; each problem becomes a one-sentence error."""

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from runtime.spec import EngineSpec
from runtime.tensorrt import TensorRTEngine
from runtime.tensorrt_calls import TensorRTError
from tests.standin import tensorrt as standin
from tests.tensorrt_toys import (
    CPU,
    GAIN,
    PICTURE,
    SPEC,
    X,
    Y,
    Z,
    assert_equals_eager,
    message,
    ready,
    real_device,
    serialized,
    standin_is_tensorrt,
    toy,
    toy_file,
)

__all__ = ["real_device", "serialized", "standin_is_tensorrt", "toy", "toy_file"]  # fixtures


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("Runtime", "TensorRT cannot create the Runtime"),
        ("deserialize_cuda_engine", "engine toy: the serialized engine cannot be read"),
        ("create_execution_context", "engine toy: no execution context can be created"),
    ],
)
def test_each_failure_to_read_an_engine_is_an_error(serialized: bytes, call: str, sentence: str) -> None:
    standin.fail_once(call)
    with pytest.raises(TensorRTError) as error:
        TensorRTEngine(SPEC, serialized, CPU)
    assert sentence in message(error)
    assert f"(TensorRT: {call}: injected failure)" in message(error)
    TensorRTEngine(SPEC, serialized, CPU)


@pytest.mark.parametrize(
    ("spec", "difference"),
    [
        (
            EngineSpec("toy", (replace(X, shape=(2, 8, 4, 8)), GAIN), SPEC.outputs),
            "'x' is INPUT HALF [2, 8, 4, 6] HWC8, expected INPUT HALF [2, 8, 4, 8] HWC8",
        ),
        (
            EngineSpec("toy", (X, replace(GAIN, dtype=torch.int32)), SPEC.outputs),
            "'gain' is INPUT FLOAT [2, 3] LINEAR, expected INPUT INT32 [2, 3] LINEAR",
        ),
        (
            EngineSpec("toy", (X, GAIN), (Y, Z, replace(PICTURE, name="image"))),
            "'image' is missing, expected OUTPUT UINT8 [2, 4, 6, 3] LINEAR, "
            "'picture' is OUTPUT UINT8 [2, 4, 6, 3] LINEAR, expected no such tensor",
        ),
        (
            EngineSpec("toy", (X,), (GAIN, Y, Z, PICTURE)),
            "'gain' is INPUT FLOAT [2, 3] LINEAR, expected OUTPUT FLOAT [2, 3] LINEAR",
        ),
    ],
)
def test_an_engine_of_another_spec(serialized: bytes, spec: EngineSpec, difference: str) -> None:
    with pytest.raises(TensorRTError) as error:
        TensorRTEngine(spec, serialized, CPU)
    assert message(error) == f"engine toy: {difference}; build it again with python -m build --backend tensorrt"


def test_an_engine_of_another_layout(serialized: bytes) -> None:
    spec = EngineSpec("toy", (replace(X, channels_last=False), GAIN), SPEC.outputs)
    with pytest.raises(TensorRTError, match=r"'x' is INPUT HALF \[2, 8, 4, 6\] HWC8, expected .* LINEAR; build it"):
        TensorRTEngine(spec, serialized, CPU)


def test_an_engine_of_another_version(serialized: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin, "__version__", "11.4.0.106")
    with pytest.raises(TensorRTError, match=r"by TensorRT 10\.16\.1\.11, but 11.* or install tensorrt-cu13==10\.16"):
        TensorRTEngine(SPEC, serialized, CPU)


@pytest.mark.parametrize("foreign", [b"", b"ftrt", b"ftrt" + bytes(23), bytes(1000), b"PK\3\4" + bytes(1000)])
def test_bytes_that_are_no_engine(foreign: bytes) -> None:
    with pytest.raises(
        TensorRTError, match=rf"engine toy: {len(foreign)} bytes that .* are not a serialized TensorRT engine"
    ):
        TensorRTEngine(SPEC, foreign, CPU)


def test_a_truncated_engine(serialized: bytes) -> None:
    for length in (28, 100, len(serialized) - 1):
        with pytest.raises(
            TensorRTError, match=r"engine toy: the serialized engine cannot be read.*TensorRT: Serialization"
        ):
            TensorRTEngine(SPEC, serialized[:length], CPU)


@pytest.mark.usefixtures("real_device")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_tensorrt_is_not_touched(serialized: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    sentence = "TensorRT engines need a CUDA device: got cuda, and PyTorch sees 0 of them; use backend eager"
    with pytest.raises(TensorRTError, match=sentence):
        TensorRTEngine(SPEC, serialized, torch.device("cuda"))


def test_without_tensorrt(serialized: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_lean"):
        monkeypatch.setitem(sys.modules, name, None)
    sentence = r"imported .*tensorrt_lean.*run ./preprocess.sh tensorrt, install tensorrt-cu13 or tensorrt-lean-cu13"
    with pytest.raises(TensorRTError, match=sentence) as error:
        TensorRTEngine(SPEC, serialized, CPU)
    message(error)


def test_the_lean_library_runs(serialized: bytes, toy: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", standin)
    engine, buffers = ready(SPEC, serialized)
    assert engine.library.module == "tensorrt_lean"
    assert_equals_eager(engine, buffers, toy)
