"""Plans are read, checked, bound and run as TensorRT's API asks, by a stand-in for its run time on the CPU.

What TensorRT computes and captures into CUDA graphs can only be seen on a GPU; that it builds such plans, in
test_tensorrt_build.py.
"""

import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import runtime.tensorrt
from runtime.cuda import CaptureError
from runtime.eager import EagerEngine
from runtime.scratch import allocate_scratch
from runtime.spec import EngineSpec, TensorSpec
from runtime.tensorrt import TensorRTEngine, layout
from runtime.tensorrt_calls import TensorRTError, listening, logger_of
from runtime.tensorrt_kernels import KernelCache
from tests.standin import tensorrt as standin

CPU = torch.device("cpu")
STREAM: Any = SimpleNamespace(cuda_stream=7)

X = TensorSpec("x", (2, 8, 4, 6), torch.float16, channels_last=True)
GAIN = TensorSpec("gain", (2, 3), torch.float32)
Y = TensorSpec("y", (2, 16, 4, 6), torch.float16, channels_last=True)
Z = TensorSpec("z", (2, 3, 4, 6), torch.float32, channels_last=True)
PICTURE = TensorSpec("picture", (2, 4, 6, 3), torch.uint8)
SPEC = EngineSpec("toy", (X, GAIN), (Y, Z, PICTURE))
LAYOUTS = {one.name: layout(one) for one in (*SPEC.inputs, *SPEC.outputs)}


class Toy(nn.Module):
    """Every layout and every type that the stages have."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(8, 16, 3, padding=1).half()
        self.narrow = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = nn.functional.silu(self.wide(x))
        z = self.narrow(y.float()) * gain[:, :, None, None]
        return y, z, (z.permute(0, 2, 3, 1) * 50 + 128).clamp(0, 255).to(torch.uint8)


def export(module: nn.Module, spec: EngineSpec, path: Path, opset: int) -> Path:
    inputs = tuple(torch.zeros(one.shape, dtype=one.dtype) for one in spec.inputs)
    names = [one.name for one in spec.inputs], [one.name for one in spec.outputs]
    torch.onnx.export(
        module.eval(),
        inputs,
        path,
        dynamo=True,
        opset_version=opset,
        input_names=names[0],
        output_names=names[1],
        external_data=False,
        verbose=False,
    )
    return path


@pytest.fixture(scope="module")
def toy() -> nn.Module:
    torch.manual_seed(0)
    return Toy().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def onnx(toy: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(toy, SPEC, tmp_path_factory.mktemp("onnx") / "toy.onnx", 21)


@pytest.fixture(autouse=True)
def _standin(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """The stand-in as the installed TensorRT, and, but where a test asks for the real check, the CPU as its device."""
    monkeypatch.setitem(sys.modules, "tensorrt", standin)
    if "real_device" not in request.fixturenames:
        monkeypatch.setattr(runtime.tensorrt, "check_device", lambda device, library=None: None)
    yield
    assert not standin._to_fail, "a call that should have failed was not made"


@pytest.fixture
def real_device() -> None:
    """Asks for the real check of the device."""


@pytest.fixture(scope="module")
def plan(onnx: Path) -> bytes:
    return standin.make_plan(onnx, LAYOUTS)


@pytest.fixture
def rtx_plan(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Of TensorRT for RTX, for which the stand-in stands too."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", standin)
    return standin.make_plan(onnx, LAYOUTS, magic=b"vtrt")


def aligned(spec: TensorSpec, offset: int = 0) -> Tensor:
    """A random buffer as runtime.spec.allocate makes it on a GPU, whose allocator aligns it."""
    count = torch.Size(spec.shape).numel() * spec.dtype.itemsize
    memory = torch.zeros(count + 512, dtype=torch.uint8)
    start = -memory.data_ptr() % 256 + offset
    flat = memory[start : start + count].view(spec.dtype)
    if spec.channels_last:
        n, c, h, w = spec.shape
        buffer = flat.view(n, h, w, c).permute(0, 3, 1, 2)
    else:
        buffer = flat.view(spec.shape)
    return buffer.copy_(torch.randn(spec.shape))


def buffers_of(spec: EngineSpec) -> dict[str, Tensor]:
    return {one.name: aligned(one) for one in (*spec.inputs, *spec.outputs)}


def ready(spec: EngineSpec, plan: bytes) -> tuple[TensorRTEngine, dict[str, Tensor]]:
    engine, buffers = TensorRTEngine(spec, plan, CPU), buffers_of(spec)
    allocate_scratch([[engine]], CPU)
    engine.bind(buffers)
    return engine, buffers


def assert_equals_eager(engine: TensorRTEngine, buffers: dict[str, Tensor], module: nn.Module) -> None:
    for one in engine.spec.inputs:
        buffers[one.name].copy_(torch.randn(one.shape))
    expected = {name: buffer.clone() for name, buffer in buffers.items()}
    eager = EagerEngine(engine.spec, module)
    eager.bind(expected)
    eager.enqueue(None)
    engine.enqueue(STREAM)
    for one in engine.spec.outputs:
        tolerance = {"rtol": 0, "atol": 1} if one.dtype == torch.uint8 else {"rtol": 2e-3, "atol": 2e-3}
        torch.testing.assert_close(buffers[one.name], expected[one.name], **tolerance)
        assert buffers[one.name].float().std() > 0.05


def message(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_results_equal_eager_in_every_layout(plan: bytes, toy: nn.Module) -> None:
    assert [layout(one) for one in (X, GAIN, Y, Z, PICTURE)] == ["HWC8", "LINEAR", "HWC8", "HWC", "LINEAR"]
    engine, buffers = ready(SPEC, plan)
    assert_equals_eager(engine, buffers, toy)
    assert_equals_eager(engine, buffers, toy)


def test_engines_share_scratch_within_their_group(plan: bytes, toy: nn.Module) -> None:
    one, two, three = (TensorRTEngine(SPEC, plan, CPU) for _ in range(3))
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


def test_twins_share_a_plan_and_nothing_else(plan: bytes, toy: nn.Module) -> None:
    engine, buffers = ready(SPEC, plan)
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
        (torch.empty(8192, dtype=torch.uint8)[1:], "an address that is no multiple of 256"),
    ],
)
def test_unfit_scratch(plan: bytes, memory: Tensor, wrong: str) -> None:
    engine = TensorRTEngine(SPEC, plan, CPU)
    with pytest.raises(ValueError, match="engine toy: scratch memory has") as error:
        engine.use_scratch(memory)
    assert wrong in message(error)
    assert engine.scratch is None


def test_nothing_runs_unbound_or_without_scratch(plan: bytes) -> None:
    engine = TensorRTEngine(SPEC, plan, CPU)
    with pytest.raises(TensorRTError, match="engine toy has no buffers: call bind before enqueue"):
        engine.enqueue(STREAM)
    engine.bind(buffers_of(SPEC))
    with pytest.raises(TensorRTError, match="engine toy has no scratch memory: call allocate_scratch before enqueue"):
        engine.enqueue(STREAM)


def test_unfit_buffers(plan: bytes) -> None:
    engine, _ = ready(SPEC, plan)
    with pytest.raises(ValueError, match="engine toy: buffer 'x' is nothing"):
        engine.bind({})
    buffers = buffers_of(SPEC)
    with pytest.raises(ValueError, match=r"buffer 'y' has strides \(384, 24, 6, 1\), expected torch.channels_last"):
        engine.bind(buffers | {"y": buffers["y"].contiguous()})
    transposed = torch.zeros(3, 2).T
    with pytest.raises(ValueError, match=r"buffer 'gain' has strides \(1, 2\), expected torch.contiguous_format"):
        engine.bind(buffers | {"gain": transposed})
    with pytest.raises(TensorRTError, match=r"TensorRT refuses the address of 'z' .*must be aligned to 256 bytes"):
        engine.bind(buffers | {"z": aligned(Z, offset=64)})
    with pytest.raises(TensorRTError, match="call bind before enqueue"):
        engine.enqueue(STREAM)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("Runtime", "TensorRT makes no Runtime"),
        ("deserialize_cuda_engine", "engine toy: the plan cannot be deserialised"),
        ("create_execution_context", "engine toy: no execution context can be created"),
    ],
)
def test_each_failure_to_read_a_plan_is_an_error(plan: bytes, call: str, sentence: str) -> None:
    standin.fail_once(call)
    with pytest.raises(TensorRTError) as error:
        TensorRTEngine(SPEC, plan, CPU)
    assert sentence in message(error)
    assert f"(TensorRT: {call} was told to fail)" in message(error)
    TensorRTEngine(SPEC, plan, CPU)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("set_tensor_address", "engine toy: TensorRT refuses the address of 'x'"),
        ("execute_async_v3", "engine toy cannot be enqueued"),
    ],
)
def test_each_failure_of_a_run_is_an_error(plan: bytes, toy: nn.Module, call: str, sentence: str) -> None:
    engine, buffers = ready(SPEC, plan)

    def run() -> None:
        engine.bind(buffers)
        engine.enqueue(STREAM)

    for _ in range(2):  # what the logger heard of the first is not told again
        standin.fail_once(call)
        with pytest.raises(TensorRTError) as error:
            run()
        assert message(error) == f"{sentence} (TensorRT: {call} was told to fail)"
    run()
    assert_equals_eager(engine, buffers, toy)


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
def test_a_plan_of_another_spec(plan: bytes, spec: EngineSpec, difference: str) -> None:
    with pytest.raises(TensorRTError) as error:
        TensorRTEngine(spec, plan, CPU)
    assert message(error) == f"engine toy: {difference}; build it again with python -m build --backend tensorrt"


def test_a_plan_of_another_layout(plan: bytes) -> None:
    spec = EngineSpec("toy", (replace(X, channels_last=False), GAIN), SPEC.outputs)
    with pytest.raises(TensorRTError, match=r"'x' is INPUT HALF \[2, 8, 4, 6\] HWC8, expected .* LINEAR; build it"):
        TensorRTEngine(spec, plan, CPU)


def test_a_plan_of_another_version(plan: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin, "__version__", "11.4.0.106")
    with pytest.raises(TensorRTError, match=r"of TensorRT 10\.16\.1\.11, and 11.* or install tensorrt-cu13==10\.16"):
        TensorRTEngine(SPEC, plan, CPU)


@pytest.mark.parametrize("foreign", [b"", b"ftrt", b"ftrt" + bytes(23), bytes(1000), b"PK\3\4" + bytes(1000)])
def test_bytes_that_are_no_plan(foreign: bytes) -> None:
    with pytest.raises(TensorRTError, match=rf"engine toy: {len(foreign)} bytes that .* are not a TensorRT plan"):
        TensorRTEngine(SPEC, foreign, CPU)


def test_a_truncated_plan(plan: bytes) -> None:
    for length in (28, 100, len(plan) - 1):
        with pytest.raises(
            TensorRTError, match=r"engine toy: the plan cannot be deserialised.*TensorRT: Serialization"
        ):
            TensorRTEngine(SPEC, plan[:length], CPU)


@pytest.mark.usefixtures("real_device")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_tensorrt_is_not_touched(plan: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    sentence = "TensorRT engines need a CUDA device: got cuda, and PyTorch sees 0 of them; use backend eager"
    with pytest.raises(TensorRTError, match=sentence):
        TensorRTEngine(SPEC, plan, torch.device("cuda"))


def test_without_tensorrt(plan: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_lean"):
        monkeypatch.setitem(sys.modules, name, None)
    sentence = r"cannot be imported .*tensorrt_lean.*install tensorrt-cu13 or tensorrt-lean-cu13"
    with pytest.raises(TensorRTError, match=sentence) as error:
        TensorRTEngine(SPEC, plan, CPU)
    message(error)


def test_the_lean_library_runs(plan: bytes, toy: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", standin)
    engine, buffers = ready(SPEC, plan)
    assert engine.library.module == "tensorrt_lean"
    assert_equals_eager(engine, buffers, toy)


def test_kernels_compiled_at_the_first_run_are_kept(
    rtx_plan: bytes, toy: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "kernels.bin"
    for starts in (1, 2):
        kernels = KernelCache(path)
        engines = [TensorRTEngine(SPEC, rtx_plan, CPU, kernels) for _ in range(2)]
        allocate_scratch([engines], CPU)
        for engine in engines:
            buffers = buffers_of(SPEC)
            engine.bind(buffers)
            assert_equals_eager(engine, buffers, toy)
        kernels.save()
        kernels.save()
        assert path.read_bytes() == standin.IRuntimeCache.HEADER + 2 * starts * b".", "one cache for all engines"
        assert [*tmp_path.iterdir()] == [path]
    assert [line.split(" in ")[0] for line in caplog.messages] == [
        "compiled kernels: none",
        *2 * ["compiled kernels: kept 0.0 MiB"],
    ]
    caplog.clear()
    path.write_bytes(b"of another GPU")
    kernels = KernelCache(path)
    TensorRTEngine(SPEC, rtx_plan, CPU, kernels)
    assert "is of another machine or version and is replaced (the runtime cache is of another" in caplog.text
    kernels.save()
    assert path.read_bytes() == standin.IRuntimeCache.HEADER + b"."


def test_kernels_that_cannot_be_kept_are_no_error(
    rtx_plan: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    for path, sentence in (
        (tmp_path / "file" / "kernels.bin", "kernels.bin cannot be written"),
        (tmp_path, f"{tmp_path} cannot be read"),
    ):
        kernels = KernelCache(path)
        TensorRTEngine(SPEC, rtx_plan, CPU, kernels)
        kernels.save()
        assert sentence in caplog.text
    standin.fail_once("serialize")
    kernels.save()
    assert "compiled kernels are not kept (serialize was told to fail): the next start" in caplog.text


@pytest.mark.parametrize("call", ["create_runtime_config", "create_runtime_cache", "set_runtime_cache"])
def test_each_failure_of_the_kernels_is_an_error(rtx_plan: bytes, tmp_path: Path, call: str) -> None:
    standin.fail_once(call)
    with pytest.raises(TensorRTError, match=rf"TensorRT .* runtime .*\(TensorRT: {call} was told to fail\)"):
        TensorRTEngine(SPEC, rtx_plan, CPU, KernelCache(tmp_path / "kernels.bin"))


def test_classic_plans_have_no_kernels_to_keep(plan: bytes, tmp_path: Path) -> None:
    kernels = KernelCache(tmp_path / "kernels.bin")
    TensorRTEngine(SPEC, plan, CPU, kernels)
    kernels.save()
    assert not [*tmp_path.iterdir()]


def test_an_engine_that_cannot_be_captured_says_so(
    rtx_plan: bytes, toy: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TensorRTEngine(SPEC, rtx_plan, CPU)
    EagerEngine(SPEC, toy).check_capturable(STREAM)
    engine.check_capturable(STREAM)
    standin.fail_once("is_stream_capturable")
    with pytest.raises(CaptureError, match=r"engine toy cannot be captured \(is_stream_capturable was told to fail\)"):
        engine.check_capturable(STREAM)
    monkeypatch.delattr(standin.IExecutionContext, "is_stream_capturable")
    engine.check_capturable(STREAM)


def test_the_logger_keeps_the_last_warnings_and_errors() -> None:
    messages: list[str] = []
    logger, severity = logger_of(standin), standin.ILogger.Severity
    assert logger_of(standin) is logger, "TensorRT has one for a process"
    logger.heard()
    for level in severity:
        logger.log(level, f"{level.name}\n")
    assert logger.heard() == "INTERNAL_ERROR; ERROR; WARNING"
    assert logger.heard() == ""
    with listening(logger, messages.append):
        for i in range(100):
            logger.log(severity.ERROR, str(i))
    assert logger.heard() == "92; 93; 94; 95; 96; 97; 98; 99"
    assert messages == [str(i) for i in range(100)]


def test_importing_needs_no_tensorrt() -> None:
    code = "import sys, build.compile; assert not {name for name in sys.modules if name.startswith('tensorrt')}"
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
