"""The real parser and builder, of TensorRT for RTX, which need no GPU: what we export builds, and what they refuse.

Running the engines needs an RTX card and is not tested here.
"""

# ruff: noqa: E402

import logging
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from tqdm import tqdm

trt = pytest.importorskip(
    "tensorrt_rtx", reason="./preprocess.sh tensorrt-rtx installs it on Linux x86-64", exc_type=ImportError
)
onnx = pytest.importorskip("onnx", reason="./preprocess.sh dev installs it")

from onnx import TensorProto, helper

import build.compile
import build.progress
import runtime.tensorrt
from build.compile import Builder, compile_engine
from build.layers import Report
from runtime.spec import EngineSpec, TensorSpec
from runtime.tensorrt import TensorRTEngine
from runtime.tensorrt_calls import TensorRTError, heard_log
from runtime.tensorrt_library import LIBRARIES, library_that_builds
from tests.conftest import Exported
from tests.standin import tensorrt as standin
from tests.tensorrt_toys import CPU, LAYOUTS, SPEC, message, toy, toy_file

__all__ = ["toy", "toy_file"]  # fixtures

RTX = next(library for library in LIBRARIES if library.portable)
SM89 = Builder(RTX, CPU, (89,))
ATTENTIONS = {"text": 3, "hint": 0, "control": 14, "encoder": 14, "decoder": 18, "vae": 1}
WORDS = {"LINEAR": "(kLINEAR)", "HWC": "channel-last", "HWC8": "(kHWC8)"}  # the builder's for a layout
FLOAT, HALF = torch.float32, torch.float16


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> None:
    """What TensorRT's logger is given of warnings and errors, so that a test can say that it was nothing."""
    caplog.set_level(logging.DEBUG, heard_log.name)


def heard(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == heard_log.name]


def build_toy(path: Path, spec: EngineSpec = SPEC, builder: Builder = SM89) -> tuple[bytes, Report]:
    return compile_engine(path, spec, builder)


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
    if dtype == HALF:
        assert (fused, unfused) == (ATTENTIONS | {"vae": 0}, dict.fromkeys(ATTENTIONS, 0) | {"vae": 1})
    else:
        assert (fused, unfused) == (dict.fromkeys(ATTENTIONS, 0), ATTENTIONS)
    assert reports["decoder"].silu_norms > 5
    kinds = {one.split()[0] for one in reports["decoder"].formats}
    assert ("Half" in kinds) == (dtype == HALF)
    assert all(report.scratch_bytes > 0 and report.layers for report in reports.values())


def test_an_engine_reads_and_writes_in_our_layouts(
    exported: Exported, caplog: pytest.LogCaptureFixture, toy_file: Path
) -> None:
    """As the builder lists them: the toy has every layout, the stages have each of theirs."""
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


@pytest.mark.parametrize("targets", [(90,), (89, 90), (100,)])
def test_other_targets_need_the_machine(targets: tuple[int, ...]) -> None:
    with pytest.raises(TensorRTError, match=r"no library builds for .*: TensorRT for RTX does for sm75, .*sm121; for"):
        library_that_builds(CPU, targets)


def attention(kind: int, width: int, operator: bool, masked: bool = False, **attributes: Any) -> Any:
    """One attention of two heads of this width over 64 tokens, as ONNX's operator or as build.export writes it."""
    shape = [1, 2, 64, width]
    values = [helper.make_tensor_value_info(name, kind, shape) for name in "qkv"]
    values += [helper.make_tensor_value_info("m", kind, [64, 64])] if masked else []
    names = [value.name for value in values]
    if operator:
        nodes = [helper.make_node("Attention", names, ["a"], name="attention", **attributes)]
    else:
        nodes = [
            helper.make_node("Mul", ["q", "scale"], ["scaled"]),
            helper.make_node("Transpose", ["k"], ["turned"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["scaled", "turned"], ["logits"]),
            *([helper.make_node("Add", ["logits", "m"], ["masked"])] if masked else []),
            helper.make_node("Softmax", ["masked" if masked else "logits"], ["weights"], axis=-1),
            helper.make_node("MatMul", ["weights", "v"], ["a"]),
        ]
    scale = helper.make_tensor("scale", kind, [], [width**-0.5])
    output = helper.make_tensor_value_info("a", kind, shape)
    graph = helper.make_graph(nodes, "attention", values, [output], [] if operator else [scale])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23 if operator else 21)], ir_version=10)


def compiled(model: Any, folder: Path) -> Report:
    """Of a file with one output, whatever its tensors are called."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    dtypes = {TensorProto.FLOAT: FLOAT, TensorProto.FLOAT16: HALF}
    inputs, outputs = (
        tuple(
            TensorSpec(
                value.name,
                tuple(size.dim_value for size in value.type.tensor_type.shape.dim),
                dtypes[value.type.tensor_type.elem_type],
            )
            for value in values
        )
        for values in (model.graph.input, model.graph.output)
    )
    return compile_engine(path, EngineSpec("one", inputs, outputs), SM89)[1]


UNFUSABLE = {
    "a head of 512": (TensorProto.FLOAT16, 512, False),
    "float32": (TensorProto.FLOAT, 64, False),
    "float32 with a mask": (TensorProto.FLOAT, 64, True),
}


@pytest.mark.parametrize(("kind", "width", "masked"), UNFUSABLE.values(), ids=UNFUSABLE)
def test_attention_without_a_fused_kernel(kind: int, width: int, masked: bool, tmp_path: Path) -> None:
    """The operator is refused, two products and a softmax are not: why we write these."""
    with pytest.raises(
        TensorRTError, match=r"one: .*model\.onnx cannot be built .*not supported by a dedicated kernel"
    ):
        compiled(attention(kind, width, operator=True, masked=masked), tmp_path)
    report = compiled(attention(kind, width, operator=False, masked=masked), tmp_path)
    assert (report.attentions("fused"), report.attentions("unfused")) == (0, 1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [40, 64, 80, 160])
def test_attention_with_a_fused_kernel_is_fused_in_either_form(width: int, masked: bool, tmp_path: Path) -> None:
    for operator in (True, False):
        report = compiled(attention(TensorProto.FLOAT16, width, operator, masked), tmp_path)
        assert (report.attentions("fused"), report.attentions("unfused")) == (1, 0)


def test_softmax_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TensorRTError, match=r"cannot be parsed: node 0 'attention': .*[Ss]oftmax precision is not supp"
    ):
        compiled(attention(TensorProto.FLOAT16, 64, operator=True, softmax_precision=1), tmp_path)


def test_groups_that_do_not_divide_the_channels_are_refused(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, 8, 4, 4]) for name in "xy")
    scale, bias = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, [8]) for name in ("scale", "bias"))
    node = helper.make_node("GroupNormalization", ["x", "scale", "bias"], ["y"], name="norm", num_groups=3)
    graph = helper.make_graph([node], "norm", [x, scale, bias], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(TensorRTError, match=r"node 0 'norm': .*group count must divide input channel count"):
        compiled(model, tmp_path)
    model.graph.node[0].attribute[0].i = 4
    assert compiled(model, tmp_path).layers


def test_an_unknown_operator_is_refused(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("group_norm", ["x"], ["y"], domain="canny2image")], "g", [x], [y])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("canny2image", 1)]
    with pytest.raises(TensorRTError, match=r"cannot be parsed: node 0 .*[Pp]lugin"):
        compiled(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path)


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
        (0, {"dtype": FLOAT}, "'x' is INPUT HALF [2, 8, 4, 6] HWC, expected INPUT FLOAT [2, 8, 4, 6] HWC"),
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
    """The library, but its builder's or parser's call of one name gives its sign of failure."""

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
        ("Builder", "TensorRT makes no Builder"),
        ("create_network", "engine toy: TensorRT makes no network"),
        ("OnnxParser", "TensorRT makes no OnnxParser"),
        ("create_builder_config", "engine toy: TensorRT makes no configuration"),
        ("build_serialized_network", "toy.onnx cannot be built"),
    ],
)
def test_each_failure_is_an_error(toy_file: Path, call: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, RTX.module, Failing(call))
    with pytest.raises(TensorRTError) as error:
        build_toy(toy_file)
    assert sentence in message(error)


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What every builder was given."""
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


def bars_with(monkeypatch: pytest.MonkeyPatch, **methods: Any) -> list[Any]:
    """The progress bars that builds make from now on."""
    bars: list[Any] = []

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            bars.append(self)

    for name, method in methods.items():
        setattr(Bar, name, method)
    monkeypatch.setattr(build.progress, "tqdm", Bar)
    return bars


def test_progress_ends_full(toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = bars_with(monkeypatch)
    build_toy(toy_file)
    (bar,) = bars
    assert bar.n == bar.total > 1


def test_ctrl_c_stops_a_build(toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real signal, inside the builder, whose bindings swallow exceptions of callbacks."""
    before = signal.getsignal(signal.SIGINT)
    bars_with(monkeypatch, set_postfix_str=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        build_toy(toy_file)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_library_without_timing_cache_leaves_none(toy_file: Path, tmp_path: Path) -> None:
    build_toy(toy_file, builder=replace(SM89, timing_cache=tmp_path / "times"))
    assert not [*tmp_path.iterdir()]


def test_timing_cache_is_kept_between_builds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of classic TensorRT, whose builder needs a GPU: its configuration is a mock."""
    caplog.set_level(logging.INFO)
    path, logger = tmp_path / "new" / "times", Mock(heard=lambda: "its reason")
    config = Mock()
    config.get_timing_cache.return_value.serialize.return_value = b"times"
    build.compile._load_times(config, path, logger)
    config.create_timing_cache.assert_called_once_with(b"")
    build.compile._save_times(config, path, logger)
    assert [(one.name, one.read_bytes()) for one in path.parent.iterdir()] == [("times", b"times")]
    build.compile._load_times(config, path, logger)
    config.create_timing_cache.assert_called_with(b"times")
    assert not caplog.records

    config.set_timing_cache.side_effect = [False, True]
    build.compile._load_times(config, path, logger)
    assert "times is of another GPU or TensorRT, so it is replaced (its reason)" in caplog.text
    config.set_timing_cache.side_effect = None
    for call, failing in (
        ("create_timing_cache", "begun"),
        ("set_timing_cache", "begun"),
        ("get_timing_cache", "saved"),
    ):
        broken = Mock(**{f"{call}.return_value": None})
        work = build.compile._save_times if failing == "saved" else build.compile._load_times
        with pytest.raises(TensorRTError, match=rf"cannot be {failing} \(TensorRT: its reason\)"):
            work(broken, tmp_path / "none", logger)


def test_without_a_list_in_the_log_the_inspector_is_asked(toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As classic TensorRT may need; the stand-in reads the engine."""
    serialized = standin.serialize(toy_file, LAYOUTS)
    monkeypatch.setitem(sys.modules, "tensorrt", standin)
    monkeypatch.setattr(runtime.tensorrt, "check_device", lambda device, library=None: None)
    monkeypatch.setattr(build.compile, "_build", lambda *arguments: serialized)
    report = build_toy(toy_file)[1]
    assert "Conv" in {layer.kind for layer in report.layers}
    assert report.scratch_bytes == standin.SCRATCH_BYTES
    for call in ("create_engine_inspector", "get_engine_information"):
        standin.fail_once(call)
        with pytest.raises(TensorRTError, match=rf"engine toy.*\(TensorRT: {call} was told to fail\)"):
            build_toy(toy_file)


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
    sentence = rf"of TensorRT for RTX 1\.2\.3\.4, and {trt.__version__} is installed; .*install tensorrt-rtx-cu13==1\.2"
    with pytest.raises(TensorRTError, match=sentence):
        TensorRTEngine(SPEC, other, CPU)
