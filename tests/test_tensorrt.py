"""Plans are built, checked, bound and run as TensorRT's API asks, by a stand-in for TensorRT on the CPU.

What TensorRT computes, fuses and records into CUDA graphs can only be seen on a GPU.
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
from tqdm import tqdm

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import build.compile
import runtime.tensorrt
from build.compile import CompileOptions, compile_plan, table
from runtime.eager import EagerEngine
from runtime.spec import EngineSpec, TensorSpec
from runtime.tensorrt import TensorRTEngine, allocate_scratch, check_device, layout
from runtime.tensorrt_library import TensorRTError, make_logger
from tests.standin import tensorrt as standin

CPU = torch.device("cpu")
STREAM: Any = SimpleNamespace(cuda_stream=7)

X = TensorSpec("x", (2, 8, 4, 6), torch.float16, channels_last=True)
GAIN = TensorSpec("gain", (2, 3), torch.float32)
Y = TensorSpec("y", (2, 16, 4, 6), torch.float16, channels_last=True)
Z = TensorSpec("z", (2, 3, 4, 6), torch.float32, channels_last=True)
PICTURE = TensorSpec("picture", (2, 4, 6, 3), torch.uint8)
SPEC = EngineSpec("toy", (X, GAIN), (Y, Z, PICTURE))
Q = TensorSpec("q", (1, 2, 5, 4), torch.float32)
HEADS = EngineSpec("heads", (Q,), (replace(Q, name="a"),))


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


class Fused(nn.Module):
    def forward(self, q: Tensor) -> tuple[Tensor]:
        return (nn.functional.scaled_dot_product_attention(q, q + 1, q * 2),)


class Unfused(nn.Module):
    def forward(self, q: Tensor) -> tuple[Tensor]:
        return (torch.softmax(q @ (q + 1).transpose(-1, -2), dim=-1) @ (q * 2),)


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
        monkeypatch.setattr(runtime.tensorrt, "check_device", lambda device: None)
        monkeypatch.setattr(build.compile, "check_device", lambda device: None)
    yield
    assert not standin._to_fail, "a call that should have failed was not made"


@pytest.fixture
def real_device() -> None:
    """Asks for the real check of the device."""


@pytest.fixture
def plan(onnx: Path) -> bytes:
    return compile_plan(onnx, SPEC, CPU)[0]


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
        ("Builder", "TensorRT makes no Builder"),
        ("create_network", "engine toy: TensorRT makes no network"),
        ("OnnxParser", "TensorRT makes no OnnxParser"),
        (
            "parse_from_file",
            "toy.onnx cannot be parsed: node 3 'node_of_the_standin': an operator that nobody knows",
        ),
        ("create_builder_config", "engine toy: TensorRT makes no configuration"),
        ("create_timing_cache", "cannot be begun"),
        ("set_timing_cache", "cannot be begun"),
        ("build_serialized_network", "toy.onnx cannot be built"),
        ("get_timing_cache", "cannot be saved"),
        ("serialize", "cannot be saved"),
        ("Runtime", "TensorRT makes no Runtime"),
        ("deserialize_cuda_engine", "engine toy: the plan cannot be deserialised"),
        ("create_execution_context", "engine toy: no execution context can be created"),
        ("create_engine_inspector", "engine toy cannot be inspected"),
        ("get_engine_information", "engine toy: EngineInspector's text has no detailed layers"),
    ],
)
def test_each_failure_of_a_build_is_an_error(onnx: Path, tmp_path: Path, call: str, sentence: str) -> None:
    options = CompileOptions(timing_cache=tmp_path / "times")
    standin.fail_once(call)
    with pytest.raises(TensorRTError) as error:
        compile_plan(onnx, SPEC, CPU, options)
    assert sentence in message(error)
    assert f"(TensorRT: {call} was told to fail)" in message(error)
    compile_plan(onnx, SPEC, CPU, options)


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
def test_a_plan_or_file_of_another_spec(onnx: Path, plan: bytes, spec: EngineSpec, difference: str) -> None:
    with pytest.raises(TensorRTError) as error:
        TensorRTEngine(spec, plan, CPU)
    assert message(error) == f"engine toy: {difference}; build it again with python -m build --backend tensorrt"
    with pytest.raises(TensorRTError) as error:
        compile_plan(onnx, spec, CPU)
    assert difference in message(error)


def test_a_plan_of_another_layout(plan: bytes) -> None:
    spec = EngineSpec("toy", (replace(X, channels_last=False), GAIN), SPEC.outputs)
    with pytest.raises(TensorRTError, match=r"'x' is INPUT HALF \[2, 8, 4, 6\] HWC8, expected .* LINEAR; build it"):
        TensorRTEngine(spec, plan, CPU)


def test_a_plan_of_another_version(plan: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin, "__version__", "11.4.0.106")
    with pytest.raises(TensorRTError, match=r"of TensorRT 10\.16\.1\.11, and 11\.4\.0\.106 is installed"):
        TensorRTEngine(SPEC, plan, CPU)


@pytest.mark.parametrize("foreign", [b"", b"ftrt", b"ftrt" + bytes(23), bytes(1000), b"PK\3\4" + bytes(1000)])
def test_bytes_that_are_no_plan(foreign: bytes) -> None:
    with pytest.raises(TensorRTError, match=rf"engine toy: {len(foreign)} bytes that .* are no TensorRT plan"):
        TensorRTEngine(SPEC, foreign, CPU)


def test_a_truncated_plan(plan: bytes) -> None:
    for length in (28, 100, len(plan) - 1):
        with pytest.raises(
            TensorRTError, match=r"engine toy: the plan cannot be deserialised.*TensorRT: Serialization"
        ):
            TensorRTEngine(SPEC, plan[:length], CPU)


def test_a_file_that_is_no_onnx(tmp_path: Path) -> None:
    for content in (None, b"", b"no onnx"):
        path = tmp_path / "toy.onnx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(TensorRTError, match=r"engine toy: .*toy\.onnx cannot be parsed: |'gain' is missing"):
            compile_plan(path, SPEC, CPU)


@pytest.mark.usefixtures("real_device")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_tensorrt_is_not_touched(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    sentence = "TensorRT engines need a CUDA device: got cuda, and PyTorch sees 0 of them; use backend eager"
    with pytest.raises(TensorRTError, match=sentence):
        TensorRTEngine(SPEC, b"", torch.device("cuda"))
    with pytest.raises(TensorRTError, match=sentence):
        compile_plan(onnx, SPEC, torch.device("cuda"))


@pytest.mark.usefixtures("real_device")
def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cuda", "cuda:1"):
        check_device(torch.device(device))
    for device in ("cpu", "cuda:2"):
        with pytest.raises(TensorRTError, match=f"got {device}, and PyTorch sees 2 of them"):
            check_device(torch.device(device))


def test_without_tensorrt(onnx: Path, plan: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_lean"):
        monkeypatch.setitem(sys.modules, name, None)
    for use in (lambda: TensorRTEngine(SPEC, plan, CPU), lambda: compile_plan(onnx, SPEC, CPU)):
        with pytest.raises(TensorRTError, match=r"cannot be imported .*tensorrt_lean.*install tensorrt-cu13") as error:
            use()
        message(error)


def test_the_lean_library_runs_and_does_not_build(
    onnx: Path, plan: bytes, toy: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    lean = SimpleNamespace(**vars(standin))
    del lean.Builder, lean.OnnxParser
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", lean)
    assert_equals_eager(*ready(SPEC, plan), toy)
    with pytest.raises(TensorRTError, match="only tensorrt_lean is installed, which builds no plans"):
        compile_plan(onnx, SPEC, CPU)


def test_the_logger_keeps_the_last_warnings_and_errors() -> None:
    logger, severity = make_logger(), standin.ILogger.Severity
    for level in severity:
        logger.log(level, f"{level.name}\n")
    assert logger.heard() == "INTERNAL_ERROR; ERROR; WARNING"
    assert logger.heard() == ""
    for i in range(100):
        logger.log(severity.ERROR, str(i))
    assert logger.heard() == "92; 93; 94; 95; 96; 97; 98; 99"


def test_importing_needs_no_tensorrt() -> None:
    code = "import sys, build.compile, runtime.tensorrt; assert 'tensorrt' not in sys.modules"
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_timing_cache_is_kept_between_builds(onnx: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "new" / "times"
    for builds in (1, 2):
        compile_plan(onnx, SPEC, CPU, CompileOptions(timing_cache=path))
        assert path.read_bytes() == standin.ITimingCache.HEADER + b"." * builds
        assert [*path.parent.iterdir()] == [path]
    assert not caplog.records
    path.write_bytes(b"times of another GPU")
    compile_plan(onnx, SPEC, CPU, CompileOptions(timing_cache=path))
    assert path.read_bytes() == standin.ITimingCache.HEADER + b"."
    (line,) = caplog.messages
    assert "times is of another GPU or TensorRT, so it is replaced (Timing cache verification header mis" in line
    for call in ("create_timing_cache", "set_timing_cache"):
        standin.fail_once(call)
        compile_plan(onnx, SPEC, CPU, CompileOptions(timing_cache=path))
        assert path.read_bytes() == standin.ITimingCache.HEADER + b"."


def test_what_the_builder_is_told(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = []
    build_plan = standin.Builder.build_serialized_network

    def spy(self: standin.Builder, network: standin.INetworkDefinition, config: standin.IBuilderConfig) -> Any:
        configs.append(config)
        return build_plan(self, network, config)

    monkeypatch.setattr(standin.Builder, "build_serialized_network", spy)
    compile_plan(onnx, SPEC, CPU, CompileOptions(optimization_level=5, workspace_bytes=1 << 20))
    (config,) = configs
    assert config.builder_optimization_level == 5
    assert config.limits == {standin.MemoryPoolType.WORKSPACE: 1 << 20}
    assert config.max_aux_streams == 0
    assert config.cleared == {standin.BuilderFlag.TF32}
    assert config.profiling_verbosity == standin.ProfilingVerbosity.DETAILED


def test_progress_ends_full(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            bars.append(self)

    monkeypatch.setattr(build.compile, "tqdm", Bar)
    compile_plan(onnx, SPEC, CPU)
    (bar,) = bars
    assert (bar.n, bar.total) == (5, 5)


def test_interrupted(onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bar(tqdm):  # type: ignore[type-arg]
        def update(self, n: float | None = 1) -> bool | None:
            raise KeyboardInterrupt

    monkeypatch.setattr(build.compile, "tqdm", Bar)
    with pytest.raises(KeyboardInterrupt):
        compile_plan(onnx, SPEC, CPU, CompileOptions(timing_cache=tmp_path / "times"))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("module", "opset", "fused"), [(Fused(), 23, True), (Unfused(), 21, False)])
def test_report_counts_fused_attention(module: nn.Module, opset: int, fused: bool, tmp_path: Path) -> None:
    plan, report = compile_plan(export(module, HEADS, tmp_path / "heads.onnx", opset), HEADS, CPU)
    assert (report.attentions("fused"), report.attentions("unfused")) == ((1, 0) if fused else (0, 1))
    assert (report.plan_bytes, report.scratch_bytes) == (len(plan), standin.SCRATCH_BYTES)
    assert report.formats == {"Float": len(report.layers)}
    lines = table([report, replace(report, engine="control", seconds=1234.5)]).splitlines()
    assert len(lines) == 3
    count = str(len(report.layers))
    assert lines[2].split() == ["control", "1234.5", "0.0", "0.0", count, *("10" if fused else "01"), "Float", count]
    assert lines[0].index("output formats") == lines[1].index("Float") == lines[2].index("Float")
    assert_equals_eager(*ready(HEADS, plan), module)


@pytest.mark.parametrize(
    ("information", "attention"),
    [
        ({"Name": "_gemm_mha_v2_myl0_4", "LayerType": "kgen", "TacticName": "_gemm_mha_v2_0x1"}, "fused"),
        ({"Name": "__mye8037_gemm_mha_v2", "LayerType": "kgen"}, "fused"),
        ({"Name": "a", "LayerType": "kgen", "TacticName": "_gemv_mha_v1_0x2"}, "fused"),
        ({"Name": "/encoder/mha/output/MatMul_myl0_70", "LayerType": "gemm", "TacticName": "sm80_xmma_gemm"}, "none"),
        ({"Name": "__myl_MaxSubExpSumDivMul_myl0_3", "LayerType": "kgen"}, "unfused"),
        ({"Name": "a", "LayerType": "kgen", "Metadata": "[ONNX Layer: node_Softmax_7]"}, "unfused"),
    ],
)
def test_layers_as_tensorrt_names_them(information: dict[str, Any], attention: str) -> None:
    """Names are from published listings of TensorRT 9 and 10."""
    outputs = [{"Format/Datatype": "Half"}, {"Datatype": "Half", "Format": "Row major"}]
    layer = build.compile._layer({**information, "Outputs": outputs})
    assert layer.attention == attention
    assert layer.formats == ("Half", "Half Row major")
