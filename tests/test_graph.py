"""On a CUDA device: replay of the captured graph equals eager execution, call after call."""

import gc
import os
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from cldm.request import Request
from runtime.cuda import CaptureError
from runtime.graph import Graph
from scoring.pictures import DRAWN_BIRDS, find_pictures
from tests.inside import last_of

pytestmark = pytest.mark.gpu
CALLS = 20


@pytest.fixture(scope="module")
def runtime() -> hackathon:
    made = hackathon(str(SMALL_MODEL), device="cuda")
    made.initialize()
    return made


def arguments(call: int) -> dict[str, Any]:
    """Return different pictures, prompts, seeds, scales, strengths and modes for every call."""
    pictures = list(find_pictures(DRAWN_BIRDS).values())
    return vars(
        Request.contest(
            pictures[call % 8],
            prompt=("a bird", "a red bird at sunset", "a blue fish")[call % 3],
            n_prompt=("lowres", "")[call % 2],
            guess_mode=call % 4 == 3,
            strength=(1.0, 0.6, 0.0)[call % 3],
            scale=9.0 - call % 5,
            seed=call,
            eta=(0.0, 0.0, 0.7)[call % 3],
        )
    )


def enqueued(runtime: hackathon, call: int) -> NDArray[np.uint8]:
    """Return the picture generated without the graph, with the same engines and buffers."""
    pipeline = last_of(runtime)
    graph, pipeline.graph = pipeline.graph, None
    try:
        return runtime.process(**arguments(call))[0]
    finally:
        pipeline.graph = graph


def test_replay_equals_enqueues(runtime: hackathon) -> None:
    pipeline = last_of(runtime)
    assert pipeline.graph
    made = [runtime.process(**arguments(call))[0] for call in range(CALLS)]
    for call, picture in enumerate(made):
        assert np.array_equal(picture, enqueued(runtime, call)), f"call {call}"
    assert len({picture.tobytes() for picture in made}) == CALLS


def test_one_launch_per_call(runtime: hackathon, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = last_of(runtime)
    assert pipeline.graph
    launch = Mock(wraps=pipeline.graph.launch)
    monkeypatch.setattr(pipeline.graph, "launch", launch)
    run = Mock(wraps=pipeline.run)
    monkeypatch.setattr(pipeline, "run", run)
    runtime.process(**arguments(0))
    assert (launch.call_count, run.call_count) == (1, 0)
    assert pipeline.graph.kinds["Kernel"] > 1000
    assert set(pipeline.graph.kinds) <= {"Kernel", "Memcpy", "Memset", "Empty"}


def test_many_calls(runtime: hackathon) -> None:
    """Memory does not grow, no picture is blank, and the first call's arguments give the first picture again."""
    first, *_ = (runtime.process(**arguments(call))[0] for call in range(CALLS))
    pipeline = last_of(runtime)
    gc.collect()
    on_gpu, on_host = torch.cuda.memory_reserved(), [host_bytes()]
    for call in range(500):
        assert runtime.process(**arguments(call % 100))[0].std() > 1
        assert pipeline.buffers["x"].isfinite().all()
        if call % 100 == 99:
            on_host.append(host_bytes())
    assert np.array_equal(runtime.process(**arguments(0))[0], first)
    assert torch.cuda.memory_reserved() <= on_gpu
    grown = [after - before for before, after in pairwise(on_host)]
    assert sorted(grown)[2] < 2**20, f"{grown} bytes more after each 100 calls"  # the median: memory may come in blocks


def host_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_other_weights_under_the_recorded_graph(runtime: hackathon) -> None:
    pipeline = last_of(runtime)
    first, graph = runtime.process(**arguments(0))[0], pipeline.graph
    runtime.load_weights("random:3")
    fresh = hackathon("random:3", device="cuda")
    fresh.initialize()
    assert np.array_equal(runtime.process(**arguments(0))[0], fresh.process(**arguments(0))[0])
    runtime.load_weights(str(SMALL_MODEL))
    assert np.array_equal(runtime.process(**arguments(0))[0], first)
    assert pipeline.graph is graph


def test_an_evicted_pipeline_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cldm.pipeline_cache.KEPT", 1)
    runtime = hackathon(str(SMALL_MODEL), device="cuda")
    runtime.initialize()
    held = []
    for samples in (1, 3, 1, 3, 1):  # at the first call of each number, libraries may take memory that they keep
        runtime.process(**arguments(0) | {"num_samples": samples})
        held.append(torch.cuda.memory_reserved())
    assert held[2] < held[1], held
    assert held[3] <= held[1] * 1.05, held
    assert held[4] <= held[2] * 1.05, held


def test_work_that_cannot_be_recorded_leaves_nothing_behind() -> None:
    stream, x = torch.cuda.Stream(), torch.ones(1, device="cuda")
    with pytest.raises(CaptureError, match="captur"):
        Graph(lambda: print(x.item()), stream)
    with pytest.raises(torch.OutOfMemoryError):
        Graph(lambda: torch.empty(2**50, dtype=torch.uint8, device="cuda"), stream)
    with pytest.raises(ZeroDivisionError):
        Graph(lambda: print(1 / 0), stream)
    graph = Graph(lambda: x.add_(1), stream)
    assert (graph.nodes, x.item()) == (1, 1.0), "captured, not run"
    for _ in range(3):
        graph.launch()
    stream.synchronize()
    assert x.item() == 4.0


def test_without_a_graph_kernels_are_enqueued(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cldm.one_graph.Graph", Mock(side_effect=CaptureError("operation not permitted")))
    runtime = hackathon(str(SMALL_MODEL), device="cuda")
    runtime.initialize()
    assert "no CUDA graph, launching kernels one by one: operation not permitted" in caplog.text
    assert runtime.process(**arguments(0))[0].std() > 1
    assert runtime.graph is None
    assert runtime.settings["graph"] == "no graph: operation not permitted"
