"""Timelines: the spans of a run, and the picture that shows them."""

import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from canny2image_TRT import hackathon
from runtime.timing import Span, Timeline
from scoring.timeline import timeline_picture, totals
from tests.arguments import process
from tests.inside import last_of

EVALUATION = ["control", "encoder", "decoder", "update"]


def test_spans_are_measured_from_the_first() -> None:
    timeline = Timeline(torch.device("cpu"))
    assert timeline.spans() == []
    for name, seconds in (("a", 0.02), ("b", 0.01)):
        with timeline.span(name, "main", None):
            time.sleep(seconds)
    first, second = timeline.spans()
    assert first[:3] == ("a", "main", 0.0)
    assert first.end_ms >= 20
    assert second.start_ms >= first.end_ms
    assert second.end_ms - second.start_ms >= 10


def test_timeline_has_every_stage_and_changes_nothing() -> None:
    runtime = hackathon("random:0", plan="19,4", device="cpu")
    with pytest.raises(RuntimeError, match=r"timeline\(\) needs a generated picture: call initialize\(\)"):
        runtime.timeline()
    runtime.initialize()
    process(runtime)
    pipeline = last_of(runtime)
    pictures = pipeline.pictures.clone()
    spans = runtime.timeline()
    assert [span.name for span in spans] == ["hint", "text", *EVALUATION, *EVALUATION, "vae", "copy"]
    assert {span.name for span in spans if span.stream == "side"} == {"hint", "control"}
    assert all(after.start_ms >= before.end_ms for before, after in pairwise(spans))
    assert torch.equal(pipeline.pictures, pictures)
    assert pipeline.clock is None


def test_picture_and_totals(tmp_path: Path) -> None:
    rows = [Span("control", "side", 0, 4), Span("encoder", "main", 0, 5), Span("control", "side", 6, 7)]
    assert totals(rows) == {"control": 5, "encoder": 5}
    timeline_picture(rows, "a title", tmp_path / "timeline.png")
    picture = cv2.imread(str(tmp_path / "timeline.png"))
    assert picture is not None
    blue_green_red = np.array([0x54, 0x7B, 0xE0])  # control's colour
    assert (picture == blue_green_red).all(axis=2).mean() > 0.1


@pytest.mark.gpu
def test_stages_of_a_graph_overlap() -> None:
    runtime = hackathon("random:0", plan="all", device="cuda")
    runtime.initialize()
    assert runtime.graph
    spans = runtime.timeline()
    by_name = {name: [span for span in spans if span.name == name] for name in EVALUATION}
    assert [len(found) for found in by_name.values()] == [20] * 4
    pairs = list(zip(by_name["control"], by_name["encoder"], strict=True))
    assert all(control.start_ms < encoder.end_ms and encoder.start_ms < control.end_ms for control, encoder in pairs)
    for decoder, update in zip(by_name["decoder"], by_name["update"], strict=True):
        assert 0 < decoder.start_ms < decoder.end_ms <= update.start_ms
