"""A worker of a batch without Ray, on a stand-in for the runtime, and the second try for requests without a result."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cldm.canny import Picture
from cldm.request import CONTEST, Request
from serving import batch_ray, batch_worker
from serving.batch_job import Job, Row, make_job, read_group
from serving.batch_outputs import KEY
from serving.batch_worker import Worker
from serving.parameters import load
from tests.arguments import waves


class Runtime:
    """Draws grey pictures. fails: raises the errors that a test wants."""

    fails: Callable[[Sequence[Request]], None] = staticmethod(lambda requests: None)
    settings = {"plan": "19,4", "precision": "fp32", "backend": "eager", "graph": "none"}  # noqa: RUF012
    checkpoint = type("Checkpoint", (), {"name": "/somewhere/model.safetensors"})

    def __init__(self, **_: Any) -> None: ...

    def initialize(self) -> None: ...

    def process_many(self, requests: Sequence[Request], plan: str | None = None) -> list[list[Picture]]:
        self.fails(requests)
        return [[np.full((64, 64, 3), 9, np.uint8)] * request.num_samples for request in requests]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(batch_worker, "hackathon", Runtime)
    return Worker({})


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    Image.fromarray(waves(64, 64)).save(tmp_path / "one.png")
    said = CONTEST | {"image_resolution": 64}
    return [
        make_job(name, name, said | {"seed": i}, {"input_image": tmp_path / "one.png"}, str)
        for i, name in enumerate("abc")
    ]


def read(jobs: Sequence[Job]) -> Row:
    return read_group({"group": pickle.dumps(list(jobs))})


def errors(rows: Iterator[Row]) -> dict[str, str]:
    return {row["name"]: row["error"] for row in rows}


def fail(monkeypatch: pytest.MonkeyPatch, error: Exception, alone: bool = False) -> None:
    """Make the request of seed 1 fail, or everything that is drawn together."""

    def raise_it(requests: Sequence[Request]) -> None:
        if len(requests) > 1 if alone else any(request.seed == 1 for request in requests):
            raise error

    monkeypatch.setattr(Runtime, "fails", staticmethod(raise_it))


def test_pictures_hold_the_key_and_no_path(worker: Worker, jobs: list[Job]) -> None:
    rows = list(worker(read(jobs)))
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    settings = {"Model": "model", "Plan": "19,4", "Precision": "fp32", "Backend": "eager", KEY: jobs[1].key}
    assert load(rows[1]["pictures"][0])["settings"] == settings


def test_a_picture_that_cannot_be_read_fails_alone(worker: Worker, jobs: list[Job], tmp_path: Path) -> None:
    row = read(jobs[:1])
    (tmp_path / "one.png").unlink()
    late = errors(worker(read(jobs[1:])))
    assert late.keys() == {"b", "c"}
    assert all("one.png" in sentence for sentence in late.values())
    assert errors(worker(row)) == {"a": ""}


@pytest.mark.parametrize(
    "error", [ValueError("the latent\nis not finite"), torch.OutOfMemoryError("the latent is not finite")]
)
def test_a_request_that_fails_is_found_in_its_group(
    worker: Worker, jobs: list[Job], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail(monkeypatch, error)
    assert errors(worker(read(jobs))) == {"a": "", "b": "the latent is not finite", "c": ""}
    assert not worker.failed


def test_too_many_at_once_are_drawn_alone(
    worker: Worker, jobs: list[Job], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail(monkeypatch, torch.OutOfMemoryError("out of memory"), alone=True)
    assert errors(worker(read(jobs))) == {"a": "", "b": "", "c": ""}
    assert "3 requests cannot be drawn together (out of memory)" in caplog.text


def test_a_device_that_fails_ends_the_process(worker: Worker, jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, RuntimeError("the GPU failed"))
    assert errors(worker(read(jobs))) == {}, "nobody knows which of them has caused it"
    worker.failed = False
    assert errors(worker(read(jobs[1:2]))) == {"b": "the GPU failed"}

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr("os._exit", leave)
    with pytest.raises(SystemExit):
        list(worker(read(jobs[:1])))


def test_requests_without_a_result_are_tried_again_alone(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="./preprocess.sh serve installs Ray")
    tried: list[list[list[str]]] = []

    def rows(chunks: Sequence[Sequence[Job]], *_: object) -> Iterator[Row]:
        """Lose the group of a job named b."""
        tried.append([[job.name for job in chunk] for chunk in chunks])
        for chunk in chunks:
            if "b" not in tried[-1][chunks.index(chunk)]:
                yield from ({"name": job.name, "pictures": [], "error": ""} for job in chunk)

    monkeypatch.setattr(batch_ray, "_rows", rows)
    monkeypatch.setattr(batch_ray, "count_workers", lambda *_: (1, {}))
    found = errors(batch_ray.draw_all(jobs, {"device": "cpu"}, None))
    assert tried == [[["a", "b", "c"]], [["a"], ["b"], ["c"]]]
    assert (found["a"], found["c"]) == ("", "")
    assert "its worker was lost" in found["b"]
