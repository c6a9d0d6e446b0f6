"""`python -m build --check` through the stand-in on the CPU: its lines, its report, and what is wrong is noticed."""

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

import build.doctor
from build.__main__ import main
from build.compile import Layer, Report
from build.doctor import (
    CHECKS,
    STAGES,
    Case,
    NotTried,
    Wrong,
    anonymous,
    check_graph,
    check_plan_with_plugin,
    check_plugin,
    check_replay,
    make_requests,
)
from cldm.checkpoint import find_checkpoint
from cldm.engine_files import ROOT, Target
from cldm.pipeline import Pipeline, Shape, to_precision
from cldm.plan import make_plan
from runtime.eager import EagerEngine
from runtime.lanes import Lanes
from tests.standin import tensorrt as standin
from tests.test_tensorrt import CPU
from tests.test_tensorrt_backend import use_standin

COMMAND = "--check --architecture tiny --height 64 --width 64 --device cpu".split()
DIFFERENT = ("other picture", "other scale")  # enough of the requests, to save time
ON_A_GPU = {"driver", "GPU", "plugin", "plugin in a plan", "graph", "replay", "graph launch"}


@pytest.fixture(autouse=True)
def _standin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: None) -> Iterator[None]:
    use_standin(monkeypatch, tmp_path / "engines")
    monkeypatch.setattr(build.doctor, "check_device", lambda device: None)
    monkeypatch.setattr(build.doctor, "RUNS", 1)
    monkeypatch.chdir(tmp_path)
    yield
    assert not standin._to_fail, "a call that should have failed was not made"


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


def test_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMAND) == 0
    found = results(capsys.readouterr().out)
    assert {name for name, result in found.items() if result != "ok"} == ON_A_GPU
    assert {found[name] for name in ON_A_GPU} == {"not tried"}
    assert check("graph")["figures"] == "needs a CUDA device, and the device is cpu"
    assert "0 unfused" in check("attention encoder")["figures"]
    assert float(check("refit encoder")["figures"].split("error is ")[1]) > 0.1, "other weights do make a difference"
    assert not (tmp_path / "engines").exists(), "engine files are left alone"
    text = Path("tensorrt_check.json").read_text()
    report = json.loads(text)
    assert report["manifest"]["tensorrt"] == standin.__version__
    assert report["weights"] == "random:0"
    assert report["layers"].keys() == set(STAGES)
    for private in (str(Path.home()), str(ROOT), str(tmp_path)):
        assert private not in text


def test_what_is_wrong_fails_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unfused(node: Any, index: int) -> dict[str, Any]:
        return {"Name": f"__myl_{'MaxSubExpSum' if node.op_type == 'Attention' else node.op_type}", "Outputs": []}

    def wrong(context: Any, stream_handle: int) -> bool:
        done = execute(context, stream_handle)
        if "eps" in context._addresses:
            context._memory("eps")[...] *= 1.01
        return done

    execute = standin.IExecutionContext.execute_async_v3
    monkeypatch.setattr(standin, "_layer", unfused)
    monkeypatch.setattr(standin.IExecutionContext, "execute_async_v3", wrong)
    standin.fail_once("build_serialized_network")
    assert main(COMMAND) == 1
    found = results(capsys.readouterr().out)
    failed = {"build text", "parity decoder", "attention control", "attention encoder", "attention decoder"}
    assert {name for name, result in found.items() if result == "FAILED"} == failed
    not_tried = {"attention text", "parity text", "process()", *ON_A_GPU}
    assert {name for name, result in found.items() if result == "not tried"} == not_tried
    assert "cannot be built (TensorRT: build_serialized_network was told to fail)" in check("build text")["figures"]
    assert check("build text")["tensorrt"] == ["ERROR: build_serialized_network was told to fail"]
    assert "; expected some, and all of them fused" in check("attention encoder")["figures"]
    assert check("parity decoder")["figures"].startswith("error ")
    assert check("process()")["figures"] == "there is no plan of text"


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
    monkeypatch.undo()
    for name in ("tensorrt", "tensorrt_lean"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(build.doctor, "REPORT", Path("/nowhere/report"))
    assert main(["--check"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("check: TensorRT cannot be imported")
    assert first.endswith("; ./preprocess.sh tensorrt installs it")
    assert second.startswith("check: TensorRT engines need a CUDA device: got cpu")
    assert second.endswith("a machine that has an NVIDIA GPU, its driver and PyTorch for CUDA")
    lean = SimpleNamespace(**vars(standin))
    del lean.Builder
    monkeypatch.setitem(sys.modules, "tensorrt_lean", lean)
    assert main(["--check"]) == 1
    assert "check: only tensorrt_lean is installed, which builds no plans" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--check", "--backend", "inductor"])


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Case:
    """Eager engines, the CPU in place of a GPU, and in place of a graph what it would be made of."""
    checkpoint = find_checkpoint("random:0", "tiny")
    case = Case(Target("tiny", 64, 64, 1, "fp32", "tensorrt"), checkpoint, CPU)
    case.requests = {name: one for name, one in case.requests.items() if name in ("first", *DIFFERENT)}
    shape = Shape(64, 64, 1, 20, make_plan("19", 20))
    case.pipeline = Pipeline(to_precision(case.model, torch.float32), shape, EagerEngine, Lanes(CPU))
    monkeypatch.setattr(Case, "need_cuda", lambda case: None)
    monkeypatch.setattr(build.doctor, "record", lambda pipeline, request, tokenizer: record(pipeline, pipeline.run))
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


def test_the_plugin_and_a_plan_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is read by a process of its own, whose TensorRT is the stand-in too."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "standin"))
    case = Case(Target("tiny", 64, 64, 1, "fp16", "tensorrt"), find_checkpoint("random:0", "tiny"), CPU)
    with pytest.raises(NotTried, match="the plugin is not registered"):
        check_plan_with_plugin(case)
    monkeypatch.setattr(build.doctor, "register_plugin", lambda device: None)
    assert check_plugin(case) == "registered, its kernel compiles"

    version = bytes(int(number) for number in standin.__version__.split("."))
    content = {"tensors": {}, "model": "", "detailed": True}
    case.plans["decoder"] = b"ftrt" + bytes(20) + version + json.dumps(content).encode()
    layers = [Layer("node_group_norm_3", "PluginV3", (), "none"), Layer("conv_1", "Convolution", (), "none")]
    case.reports["decoder"] = Report("decoder", 1.0, 2, 3, tuple(layers))
    assert check_plan_with_plugin(case).startswith("1 layers of the decoder's plan are calls of it, and another")
    case.reports["decoder"] = Report("decoder", 1.0, 2, 3, tuple(layers[1:]))
    with pytest.raises(Wrong, match="no layer of it is called a plugin"):
        check_plan_with_plugin(case)
    case.plans["decoder"] = case.plans["decoder"][:40]
    with pytest.raises(Wrong, match="another process cannot read it: no engine: Serialization assertion"):
        check_plan_with_plugin(case)
