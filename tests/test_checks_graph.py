"""The checks of the captured graph, with the CPU in place of a GPU."""

# ruff: noqa: E402

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="exports ONNX files and runs them: ./preprocess.sh dev installs it")

import build.checks
from build.case import Case, NotTried, Wrong, make_requests
from build.checks import check_graph, check_replay
from build.compile import Builder
from cldm.checkpoint_choice import find_checkpoint
from cldm.engine_files import Target
from cldm.fast import make_fast
from cldm.pipeline import Pipeline, Shape
from plans.plan import make_plan
from runtime.eager import EagerEngine
from runtime.streams import Streams
from runtime.tensorrt_library import LIBRARIES
from tests.tensorrt_toys import CPU

CLASSIC = LIBRARIES[0]
DIFFERENT = ("other picture", "other scale")  # only some of the requests, to save time


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tiny: None) -> Case:
    """Return a case with eager engines on the CPU. Instead of a graph, it runs the work that would be captured."""
    monkeypatch.setattr(Builder, "runs", True)
    checkpoint = find_checkpoint("random:0", "tiny")
    case = Case(Target("tiny", 64, 64, 1, "fp32", "tensorrt"), checkpoint, Builder(CLASSIC, CPU))
    case.requests = {name: one for name, one in case.requests.items() if name in ("first", *DIFFERENT)}
    shape = Shape(64, 64, 1, 20, make_plan("19", 20))
    case.pipeline = Pipeline(make_fast(case.model, torch.float32), shape, EagerEngine, Streams(CPU))
    monkeypatch.setattr(build.checks, "record", lambda pipeline, request, tokenizer: record(pipeline, pipeline.run))
    return case


def record(pipeline: Pipeline, launch: Callable[[], None]) -> None:
    pipeline.graph = SimpleNamespace(nodes=7, kinds=Counter(Kernel=6, Memcpy=1), launch=launch)  # type: ignore[assignment]


def test_a_graph_that_follows_every_request(recorded: Case) -> None:
    with pytest.raises(NotTried, match="no graph was captured"):
        check_replay(recorded)
    assert check_graph(recorded) == "one picture on two streams, 7 nodes: Kernel 6, Memcpy 1"
    case = replace(recorded)
    case.pipeline, case.requests = recorded.pipeline, make_requests(*case.size)
    assert check_replay(case).startswith("equal to eager execution bit for bit for 8 requests: first, other picture, ")


@pytest.mark.parametrize(("buffer", "request_"), [("scale", "other scale"), ("edges", "other picture")])
def test_a_graph_with_a_constant_in_it(recorded: Case, buffer: str, request_: str) -> None:
    pipeline = recorded.pipeline
    pipeline.write([recorded.requests["first"]], recorded.tokenizer)
    constant = pipeline.inputs.written[buffer].clone()

    def launch() -> None:
        pipeline.inputs.written[buffer].copy_(constant)
        pipeline.run()

    record(pipeline, launch)
    with pytest.raises(Wrong, match=f"{request_}: graph replay differs from eager execution"):
        check_replay(recorded)


def test_work_that_ignores_a_request(recorded: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, run = recorded.pipeline, recorded.pipeline.run

    def deaf() -> None:
        pipeline.inputs.written["scale"].fill_(9.0)
        run()

    monkeypatch.setattr(pipeline, "run", deaf)
    record(pipeline, deaf)
    with pytest.raises(Wrong, match="other scale: graph replay gives the same picture as an earlier request"):
        check_replay(recorded)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (256, 384), (512, 320)])
def test_requests_are_of_one_shape(height: int, width: int) -> None:
    for request in make_requests(height, width, 2).values():
        assert (*request.size, request.num_samples) == (height, width, 2)
        assert request.edge_map().any()
