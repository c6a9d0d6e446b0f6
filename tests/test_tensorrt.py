"""Engines are bound and run as TensorRT's API requires, on a stand-in for its runtime on the CPU.

TensorRT's own results and capture into CUDA graphs can be tested only on a GPU. test_tensorrt_build.py tests that
TensorRT for RTX builds such engines.
"""

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from runtime.cuda import CaptureError
from runtime.eager import EagerEngine
from runtime.scratch import allocate_scratch
from runtime.tensorrt import TensorRTEngine, layout
from runtime.tensorrt_calls import TensorRTError
from tests.standin import tensorrt as standin
from tests.tensorrt_toys import (
    CPU,
    GAIN,
    PICTURE,
    SPEC,
    STREAM,
    X,
    Y,
    Z,
    aligned,
    assert_equals_eager,
    buffers_of,
    message,
    ready,
    rtx_serialized,
    serialized,
    standin_is_tensorrt,
    toy,
    toy_file,
)

__all__ = ["aligned", "rtx_serialized", "serialized", "standin_is_tensorrt", "toy", "toy_file"]  # fixtures


def test_results_equal_eager_in_every_layout(serialized: bytes, toy: nn.Module) -> None:
    assert [layout(one) for one in (X, GAIN, Y, Z, PICTURE)] == ["HWC8", "LINEAR", "HWC8", "HWC", "LINEAR"]
    engine, buffers = ready(SPEC, serialized)
    assert_equals_eager(engine, buffers, toy)
    assert_equals_eager(engine, buffers, toy)


def test_engines_share_scratch_within_their_group(serialized: bytes, toy: nn.Module) -> None:
    one, two, three = (TensorRTEngine(SPEC, serialized, CPU) for _ in range(3))
    allocate_scratch([[one, two], [three], []], CPU)
    assert one.scratch is not None
    assert two.scratch is not None
    assert three.scratch is not None
    assert one.scratch.data_ptr() == two.scratch.data_ptr() != three.scratch.data_ptr()
    for engine in (one, two, three):
        assert engine.scratch is not None
        assert engine.scratch.numel() >= engine.scratch_bytes == standin.SCRATCH_BYTES
        buffers = buffers_of(SPEC)
        engine.bind(buffers)
        assert_equals_eager(engine, buffers, toy)


def test_twins_share_what_was_read_and_nothing_else(serialized: bytes, toy: nn.Module) -> None:
    engine, buffers = ready(SPEC, serialized)
    twin = engine.twin()
    assert twin.engine is engine.engine
    assert twin.context is not engine.context
    assert twin.scratch is None
    assert not twin.buffers
    allocate_scratch([[twin]], CPU)
    others = buffers_of(SPEC)
    twin.bind(others)
    for one, its in ((engine, buffers), (twin, others), (engine, buffers)):
        assert_equals_eager(one, its, toy)
    standin.fail_once("create_execution_context")
    with pytest.raises(TensorRTError, match="engine toy: no execution context can be created; free GPU memory"):
        engine.twin()


@pytest.mark.parametrize(
    ("memory", "wrong"),
    [
        (torch.empty(4096, dtype=torch.int8), "dtype torch.int8, expected torch.uint8"),
        (torch.empty(4096, dtype=torch.uint8, device="meta"), "device meta, expected cpu"),
        (torch.empty(8192, dtype=torch.uint8)[::2], "gaps"),
        (torch.empty(999, dtype=torch.uint8), "999 bytes, expected at least 1000"),
        (torch.empty(8192, dtype=torch.uint8)[1:], "an address that is not a multiple of 256"),
    ],
)
def test_unfit_scratch(serialized: bytes, memory: Tensor, wrong: str) -> None:
    engine = TensorRTEngine(SPEC, serialized, CPU)
    with pytest.raises(ValueError, match="engine toy: scratch memory has") as error:
        engine.use_scratch(memory)
    assert wrong in message(error)
    assert engine.scratch is None


def test_nothing_runs_unbound_or_without_scratch(serialized: bytes) -> None:
    engine = TensorRTEngine(SPEC, serialized, CPU)
    with pytest.raises(TensorRTError, match="engine toy has no buffers: call bind before enqueue"):
        engine.enqueue(STREAM)
    engine.bind(buffers_of(SPEC))
    with pytest.raises(TensorRTError, match="engine toy has no scratch memory: call allocate_scratch before enqueue"):
        engine.enqueue(STREAM)


def test_unfit_buffers(serialized: bytes) -> None:
    engine, _ = ready(SPEC, serialized)
    with pytest.raises(ValueError, match="engine toy: buffer 'x' is missing"):
        engine.bind({})
    buffers = buffers_of(SPEC)
    with pytest.raises(ValueError, match=r"buffer 'y' has strides \(384, 24, 6, 1\), expected torch.channels_last"):
        engine.bind(buffers | {"y": buffers["y"].contiguous()})
    transposed = torch.zeros(3, 2).T
    with pytest.raises(ValueError, match=r"buffer 'gain' has strides \(1, 2\), expected torch.contiguous_format"):
        engine.bind(buffers | {"gain": transposed})
    with pytest.raises(TensorRTError, match=r"TensorRT rejects the address of 'z' .*must be aligned to 256 bytes"):
        engine.bind(buffers | {"z": aligned(Z, offset=64)})
    with pytest.raises(TensorRTError, match="call bind before enqueue"):
        engine.enqueue(STREAM)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("set_tensor_address", "engine toy: TensorRT rejects the address of 'x'"),
        ("execute_async_v3", "engine toy cannot be enqueued"),
    ],
)
def test_each_failure_of_a_run_is_an_error(serialized: bytes, toy: nn.Module, call: str, sentence: str) -> None:
    engine, buffers = ready(SPEC, serialized)

    def run() -> None:
        engine.bind(buffers)
        engine.enqueue(STREAM)

    for _ in range(2):  # the second error must not repeat the first one's log message
        standin.fail_once(call)
        with pytest.raises(TensorRTError) as error:
            run()
        assert message(error) == f"{sentence} (TensorRT: {call}: injected failure)"
    run()
    assert_equals_eager(engine, buffers, toy)


def test_an_engine_that_cannot_be_captured_says_so(
    rtx_serialized: bytes, toy: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TensorRTEngine(SPEC, rtx_serialized, CPU)
    EagerEngine(SPEC, toy).check_capturable(STREAM)
    engine.check_capturable(STREAM)
    standin.fail_once("is_stream_capturable")
    with pytest.raises(CaptureError, match=r"engine toy cannot be captured \(is_stream_capturable: injected failure\)"):
        engine.check_capturable(STREAM)
    monkeypatch.delattr(standin.IExecutionContext, "is_stream_capturable")
    engine.check_capturable(STREAM)
