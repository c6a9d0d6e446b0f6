"""`python -m build --check`: its lines and its report, by the real builder without a GPU; what is wrong is noticed.

What needs a GPU is called check by check, with the stand-in for TensorRT's run time.
"""

# ruff: noqa: E402

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the exporter and what runs its files: ./preprocess.sh dev")

import build.checks
import build.doctor
import build.plugin_checks
import build.tensorrt
import build.verify
from build.__main__ import main
from build.case import STAGES, Case, NeedsGPU, NotTried, Wrong, make_requests
from build.checks import CHECKS, check_attention, check_graph, check_parity, check_refit, check_replay
from build.compile import Builder, compile_engine
from build.doctor import anonymous
from build.layers import Layer, Report
from build.plugin_checks import check_engine_with_plugin, check_plugin
from cldm.checkpoint import find_checkpoint
from cldm.engine_files import ROOT, Target
from cldm.pipeline import Pipeline, Shape, to_precision
from cldm.plan import make_plan
from runtime.eager import EagerEngine
from runtime.lanes import Lanes
from runtime.spec import EngineSpec
from runtime.tensorrt import layout
from runtime.tensorrt_library import LIBRARIES
from tests.standin import tensorrt as standin
from tests.tensorrt_toys import CPU
from tests.test_tensorrt_backend import use_standin

CLASSIC, _, RTX = LIBRARIES
COMMAND = "--check --architecture tiny --height 64 --width 64 --device cpu".split()
DIFFERENT = ("other picture", "other scale")  # enough of the requests, to save time
ON_A_GPU = {
    *("driver", "GPU", "graph", "replay", "process()", "graph launch", "refit encoder"),
    *(f"parity {stage}" for stage in STAGES),
}
NOT_TRIED = {"plugin", "plugin in engine"}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: None) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not standin.to_fail, "a call that should have failed was not made"


def results(printed: str) -> dict[str, str]:
    """What each check came to, as it was printed and as the report says."""
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
    assert check("graph")["figures"] == "needs a GPU of sm89, and there is none here"
    assert check("driver")["figures"] == "needs a CUDA device, and the device is cpu"
    assert check("library")["figures"].startswith(f"TensorRT for RTX {trt.__version__}, builds for sm89, PyTorch")
    assert "0 unfused" in check("attention encoder")["figures"]
    assert check("ONNX decoder")["figures"].startswith("error ")
    left = next(line for line in printed.splitlines() if line.startswith("left for a machine with sm89, by the same"))
    assert set(left.split(": ")[1].split(", ")) == ON_A_GPU
    assert not (tmp_path / "engines").exists(), "engine files are left alone"
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
    assert check("ONNX hint")["figures"] == "there is no engine"


def case_of(precision: str = "fp16", library: Any = CLASSIC, **changes: Any) -> Case:
    target = Target("tiny", 64, 64, 1, precision, "tensorrt", **changes)
    return Case(target, find_checkpoint("random:0", "tiny"), Builder(library, CPU))


@pytest.mark.parametrize(
    ("precision", "attentions", "wrong"),
    [
        ("fp16", ("fused", "fused"), False),
        ("fp16", ("fused", "unfused"), True),
        ("fp16", ("none",), True),
        ("fp32", ("unfused",), False),
    ],
)
def test_attentions_in_half_precision_have_to_be_fused(
    precision: str, attentions: tuple[Any, ...], wrong: bool
) -> None:
    case = case_of(precision)
    case.engines["encoder"] = b""
    case.reports["encoder"] = Report(
        "encoder", 1.0, 2, 3, tuple(Layer("a", "b", (), one, "none") for one in attentions)
    )
    if wrong:
        with pytest.raises(Wrong, match="; expected some, and all of them fused"):
            check_attention("encoder", case)
    else:
        assert "unfused" in check_attention("encoder", case)


class Standin(Builder):
    """Takes the CPU for the GPU that runs its engines."""

    runs = True


def compile_standin(path: Path, spec: EngineSpec, builder: Builder) -> tuple[bytes, Report]:
    """An engine that the stand-in for TensorRT's run time reads."""
    layouts = {one.name: layout(one) for one in (*spec.inputs, *spec.outputs)}
    serialized = standin.serialize(path, layouts, builder.refit)
    return serialized, Report(spec.name, 1.0, len(serialized), 0, ())


def test_parity_and_refit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the encoder, by the stand-in; then with a result that is wrong."""
    use_standin(monkeypatch, tmp_path / "engines")
    monkeypatch.setattr(build.tensorrt, "compile_engine", compile_standin)
    case = case_of("fp32")
    case.builder = Standin(CLASSIC, CPU)
    case.engines["encoder"], _ = case.build(case.exported, "encoder", case.builder)
    assert check_parity("encoder", case).startswith("error ")
    figures = check_refit(case)
    assert float(figures.split("error is ")[1]) > 0.1, "other weights do make a difference"

    def wrong(context: Any, stream_handle: int) -> bool:
        done = execute(context, stream_handle)
        context._memory("middle")[...] *= 1.01
        return done

    execute = standin.IExecutionContext.execute_async_v3
    monkeypatch.setattr(standin.IExecutionContext, "execute_async_v3", wrong)
    with pytest.raises(Wrong, match="error 1"):
        check_parity("encoder", case)


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
    assert line.endswith("install tensorrt-rtx-cu13, or use another backend")
    monkeypatch.setattr(build.doctor, "find_spec", lambda name: None)
    assert main(COMMAND) == 1
    assert "check: the ONNX exporter needs onnx and onnxscript: run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--check", "--backend", "inductor"])


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Case:
    """Eager engines, the CPU in place of a GPU, and in place of a graph what it would be made of."""
    checkpoint = find_checkpoint("random:0", "tiny")
    case = Case(Target("tiny", 64, 64, 1, "fp32", "tensorrt"), checkpoint, Standin(CLASSIC, CPU))
    case.requests = {name: one for name, one in case.requests.items() if name in ("first", *DIFFERENT)}
    shape = Shape(64, 64, 1, 20, make_plan("19", 20))
    case.pipeline = Pipeline(to_precision(case.model, torch.float32), shape, EagerEngine, Lanes(CPU))
    monkeypatch.setattr(build.checks, "record", lambda pipeline, request, tokenizer: record(pipeline, pipeline.run))
    return case


def record(pipeline: Pipeline, launch: Callable[[], None]) -> None:
    pipeline.graph = SimpleNamespace(nodes=7, kinds=Counter(Kernel=6, Memcpy=1), launch=launch)  # type: ignore[assignment]


def test_a_graph_that_follows_every_request(recorded: Case) -> None:
    with pytest.raises(NotTried, match="there is no graph"):
        check_replay(recorded)
    assert check_graph(recorded) == "one picture on two streams, 7 nodes: Kernel 6, Memcpy 1"
    case = replace(recorded)
    case.pipeline, case.requests = recorded.pipeline, make_requests(*case.size)
    assert check_replay(case).startswith("equal bit for bit to 8 requests enqueued: first, other picture, ")


@pytest.mark.parametrize(("buffer", "request_"), [("scale", "other scale"), ("edges", "other picture")])
def test_a_graph_with_a_constant_in_it(recorded: Case, buffer: str, request_: str) -> None:
    pipeline = recorded.pipeline
    pipeline.write(recorded.requests["first"], recorded.tokenizer)
    constant = pipeline.written[buffer].clone()

    def launch() -> None:
        pipeline.written[buffer].copy_(constant)
        pipeline.run()

    record(pipeline, launch)
    with pytest.raises(Wrong, match=f"{request_}: the graph draws another picture than its work"):
        check_replay(recorded)


def test_work_that_ignores_a_request(recorded: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, run = recorded.pipeline, recorded.pipeline.run

    def deaf() -> None:
        pipeline.written["scale"].fill_(9.0)
        run()

    monkeypatch.setattr(pipeline, "run", deaf)
    record(pipeline, deaf)
    with pytest.raises(Wrong, match="other scale: the graph draws a picture that it drew before"):
        check_replay(recorded)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (256, 384), (512, 320)])
def test_requests_are_of_one_shape(height: int, width: int) -> None:
    for request in make_requests(height, width, 2).values():
        assert (*request.size, request.num_samples) == (height, width, 2)
        assert request.edges().any()


def test_nothing_personal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    text = f'"{ROOT}/build/x.py", /home/ada/engines, "/data/ada", /data/adagio, /home/adagio'
    assert anonymous(text) == '"<project>/build/x.py", ~/engines, "/data/<user>", /data/adagio, /home/adagio'
    monkeypatch.setenv("HOME", "/")
    assert anonymous("/data/ada") == "/data/ada"


def test_the_plugin_and_an_engine_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is read by a process of its own, whose TensorRT is the stand-in too."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "standin"))
    for case in (case_of(), case_of("fp32", plugins=True)):
        with pytest.raises(NotTried, match="only engines in half precision that are built with --plugins have it"):
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
    assert check_engine_with_plugin(case).startswith("1 layers of the decoder's engine are calls of it, and another")
    case.reports["decoder"] = Report("decoder", 1.0, 2, 3, tuple(layers[1:]))
    with pytest.raises(Wrong, match="no layer of it is called a plugin"):
        check_engine_with_plugin(case)
    case.engines["decoder"] = case.engines["decoder"][:40]
    with pytest.raises(Wrong, match="another process cannot read it: no engine: Serialization assertion"):
        check_engine_with_plugin(case)


def test_engines_for_another_gpu_are_not_run() -> None:
    case = case_of()
    case.builder = Builder(RTX, CPU, (86, 120))
    with pytest.raises(NeedsGPU, match="needs a GPU of sm86 or sm120, and there is none here"):
        check_graph(case)
