"""Each check of `python -m build --check`. Checks that need a GPU run on the stand-in for TensorRT's runtime."""

# ruff: noqa: E402

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="exports ONNX files and runs them: ./preprocess.sh dev installs it")

import build.checks
import build.plugin_checks
import build.tensorrt
from build.case import Case, NeedsGPU, NotTried, Wrong
from build.checks import check_attention, check_build, check_graph, check_parity, check_refit
from build.compile import Builder
from build.layers import Layer, Report
from build.plugin_checks import check_engine_with_plugin, check_plugin
from cldm.checkpoint_choice import find_checkpoint
from cldm.engine_files import Target
from runtime.sources import ROOT
from runtime.spec import EngineSpec
from runtime.tensorrt import layout
from runtime.tensorrt_library import LIBRARIES
from tests.conftest import add_tiny
from tests.standin import tensorrt as standin
from tests.tensorrt_toys import CPU
from tests.test_tensorrt_backend import use_standin

CLASSIC, _, RTX = LIBRARIES


@pytest.fixture(autouse=True)
def _all_calls_made(tiny: None) -> Iterator[None]:
    yield
    assert not standin.to_fail, "a call that was set to fail was not made"


def case_of(precision: str = "fp16", library: Any = CLASSIC, **changes: Any) -> Case:
    target = Target("tiny", 64, 64, 1, precision, "tensorrt", **changes)
    return Case(target, find_checkpoint("random:0", "tiny"), Builder(library, CPU))


def listed(*attentions: Any) -> Report:
    return Report("encoder", 1.0, 2, 3, tuple(Layer("a", "b", (), one, "none") for one in attentions))


@pytest.mark.parametrize(
    ("precision", "attentions", "trivial", "wrong"),
    [
        ("fp16", ("fused", "fused"), 0, False),
        ("fp16", ("fused", "unfused"), 0, True),
        ("fp16", ("fused", "unfused"), 1, False),
        ("fp16", ("fused", "unfused", "unfused"), 1, True),
        ("fp16", ("unfused",), 1, True),
        ("fp16", ("none",), 0, True),
        ("fp32", ("unfused",), 0, False),
    ],
)
def test_attentions_in_half_precision_have_to_be_fused(
    precision: str, attentions: tuple[Any, ...], trivial: int, wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build.checks, "single_tokens", lambda path: trivial)
    case = case_of(precision)
    case.engines["encoder"] = b""
    case.reports["encoder"] = listed(*attentions)
    if wrong:
        with pytest.raises(Wrong, match="; expected at least one fused, and none unfused except over a single token"):
            check_attention("encoder", case)
    else:
        assert "unfused" in check_attention("encoder", case)


def test_an_attention_over_a_single_token_needs_no_fused_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With four levels, the lowest maps of a 64x64 picture have one pixel."""
    pytest.importorskip("tensorrt_rtx", reason="./preprocess.sh tensorrt-rtx installs it", exc_type=ImportError)
    add_tiny(monkeypatch, tmp_path_factory.mktemp("deep"), channel_mult=[1, 1, 1, 1])
    case = Case(
        Target("tiny", 64, 64, 1, "fp16", "tensorrt"), find_checkpoint("random:0", "tiny"), Builder(RTX, CPU, (89,))
    )
    check_build("encoder", case)
    assert check_attention("encoder", case) == "3 fused, 1 unfused, 1 over a single token"


def test_without_a_list_of_layers_nothing_is_said_of_them() -> None:
    case = case_of(plugins=True)
    case.engines = {"encoder": b"", "decoder": b""}
    case.reports = {"encoder": listed(), "decoder": listed()}
    case.plugins = True
    for check in (partial(check_attention, "encoder"), check_engine_with_plugin):
        with pytest.raises(NotTried, match="the engine's layers are unknown"):
            check(case)


class Standin(Builder):
    """A builder that treats the CPU as the GPU that runs its engines."""

    runs = True


def compile_standin(path: Path, spec: EngineSpec, builder: Builder) -> tuple[bytes, Report]:
    """Return an engine that the stand-in for TensorRT's runtime can read."""
    layouts = {one.name: layout(one) for one in (*spec.inputs, *spec.outputs)}
    serialized = standin.serialize(path, layouts, builder.refit)
    return serialized, Report(spec.name, 1.0, len(serialized), 0, ())


def test_parity_and_refit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checks accept the encoder in the stand-in, and reject it when its results are wrong."""
    use_standin(monkeypatch, tmp_path / "engines")
    monkeypatch.setattr(build.tensorrt, "compile_engine", compile_standin)
    case = case_of("fp32")
    case.builder = Standin(CLASSIC, CPU)
    case.engines["encoder"], _ = case.build(case.exported, "encoder", case.builder)
    assert check_parity("encoder", case).startswith("error ")
    figures = check_refit(case)
    assert float(figures.split("error is ")[1]) > 0.1, "other weights must give other results"

    def wrong(context: Any, stream_handle: int) -> bool:
        done = execute(context, stream_handle)
        context._memory("middle")[...] *= 1.01
        return done

    execute = standin.IExecutionContext.execute_async_v3
    monkeypatch.setattr(standin.IExecutionContext, "execute_async_v3", wrong)
    with pytest.raises(Wrong, match="error 1"):
        check_parity("encoder", case)


def test_the_plugin_and_an_engine_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A separate process reads the engine, also with the stand-in as TensorRT."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "standin"))
    for case in (case_of(), case_of("fp32", plugins=True)):
        with pytest.raises(NotTried, match="only half-precision engines built with --plugins use the plugin"):
            check_plugin(case)
    case = case_of(plugins=True)
    with pytest.raises(NotTried, match="the plugin is not registered"):
        check_engine_with_plugin(case)
    monkeypatch.setattr(build.plugin_checks, "register_plugin", lambda builder: None)
    assert check_plugin(case) == "registered, its kernel compiles"

    version = bytes(int(number) for number in standin.__version__.split("."))
    content = {"tensors": {}, "model": ""}
    case.engines["decoder"] = b"ftrt" + bytes(20) + version + json.dumps(content).encode()
    names = [("node_group_norm_3", "PluginV3"), ("conv_1", "Convolution")]
    layers = [Layer(name, kind, (), "none", "none") for name, kind in names]
    case.reports["decoder"] = Report("decoder", 1.0, 2, 3, tuple(layers))
    assert check_engine_with_plugin(case).startswith("1 layers of the decoder's engine call the plugin, and another")
    case.reports["decoder"] = Report("decoder", 1.0, 2, 3, tuple(layers[1:]))
    with pytest.raises(Wrong, match="none of its layers is named plugin"):
        check_engine_with_plugin(case)
    case.engines["decoder"] = case.engines["decoder"][:40]
    with pytest.raises(Wrong, match="another process cannot read the engine: no engine: Serialization assertion"):
        check_engine_with_plugin(case)


def test_engines_for_another_gpu_are_not_run() -> None:
    case = case_of()
    case.builder = Builder(RTX, CPU, (86, 120))
    with pytest.raises(NeedsGPU, match="needs a GPU of sm86 or sm120, found none"):
        check_graph(case)
