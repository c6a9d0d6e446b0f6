"""Pictures from the caller's edge map: process(), the reference, the cache of base pictures, and the scoring run."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import cldm.base_pictures
import compute_score
from canny2image_TRT import hackathon
from cldm.canny import Picture, canny
from cldm.reference import reference_pictures
from cldm.request import Request
from tests.arguments import GOOD, process, waves

LOW = {"low_threshold": 20, "high_threshold": 50}
EDGES = canny(waves(64, 64), 20, 50)


@pytest.mark.parametrize(
    "change",
    [
        {"edges": EDGES},
        {"edges": EDGES[:, :, None], "input_image": None},
        {"edges": np.dstack([EDGES] * 3), "input_image": None, "low_threshold": None, "high_threshold": None},
        {"edges": EDGES.repeat(2, axis=0).repeat(2, axis=1), "input_image": None},
        {"input_image": EDGES, "low_threshold": None, "high_threshold": None},
    ],
    ids=lambda change: "-".join(change),
)
def test_the_same_edges_give_the_same_picture(trained: hackathon, change: dict[str, Any]) -> None:
    by_canny = process(trained, **LOW)[0]
    assert np.array_equal(process(trained, **change)[0], by_canny)
    assert not np.array_equal(process(trained)[0], by_canny), "the edges have no effect"


def test_soft_edges_reach_the_network_as_they_are(trained: hackathon) -> None:
    pictures = [process(trained, edges=edges)[0].astype(int) for edges in (EDGES, EDGES // 2, EDGES * 0)]
    assert np.abs(pictures[0] - pictures[1]).mean() > 1
    assert np.abs(pictures[1] - pictures[2]).mean() > 1


def test_the_reference_uses_the_same_edges() -> None:
    checkpoint = hackathon("random:0", device="cpu").checkpoint
    model, tokenizer = checkpoint.load_model(), checkpoint.load_tokenizer()
    asked = [
        Request(**GOOD | LOW | {"ddim_steps": 2}),
        Request(**GOOD | {"ddim_steps": 2, "input_image": None, "edges": EDGES}),
        Request(**GOOD | {"ddim_steps": 2, "input_image": None, "edges": EDGES // 2}),
    ]
    by_canny, same, soft = (reference_pictures(model, tokenizer, one)[0] for one in asked)
    assert np.array_equal(by_canny, same)
    assert not np.array_equal(by_canny, soft)


def test_base_pictures_depend_on_the_edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = hackathon("random:0", device="cpu").checkpoint
    grey = np.full((64, 64, 3), 7, np.uint8)
    monkeypatch.setattr(cldm.base_pictures, "reference_pictures", lambda *_: [grey])
    whole = np.ascontiguousarray(EDGES[:32])
    asked: list[dict[str, Any]] = [
        {},
        {"edges": EDGES},
        {"edges": EDGES ^ 1},
        {"edges": EDGES[:, :, None]},
        {"edges": whole, "input_image": None},
        {"edges": whole.reshape(64, 32), "input_image": None},
        {"input_image": whole, "low_threshold": None, "high_threshold": None},
    ]
    for number, change in enumerate(asked, 1):
        request = Request(**GOOD | change)
        for _ in range(2):
            cldm.base_pictures.base_pictures(
                checkpoint, {"one": request}, hackathon(device="cpu").device, cache=tmp_path
            )
        assert len(list(tmp_path.iterdir())) == number, change


def score(folder: Path, *more: str) -> Any:
    words = f"--pictures {folder}/in --out {folder}/out --weights random:0 --image-resolution 64 --device cpu --plan 19"
    return compute_score.run(compute_score.parse_arguments([*words.split(), *more]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cached = partial(cldm.base_pictures.base_pictures, cache=tmp_path / "cache")
    monkeypatch.setattr(compute_score, "base_pictures", cached)
    monkeypatch.setattr("scoring.inception.MODELS", tmp_path)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "bird_1.png"), EDGES)
    return tmp_path


def test_a_scoring_run_on_edge_maps(folder: Path) -> None:
    score(folder, "--edges")
    for kind in ("input", "canny"):
        shown = cv2.imread(str(folder / "out" / "shown" / f"bird_1_{kind}.png"))
        assert shown is not None
        assert np.array_equal(shown, np.dstack([EDGES] * 3)), kind
    base = cv2.imread(str(folder / "out" / "shown" / "bird_1_base.png"))
    assert base is not None
    assert np.array_equal(base[:, :, ::-1], _reference(edges=EDGES))
    assert json.loads((folder / "out" / "score.json").read_text())["settings"]["edges"] == "the pictures"


def test_a_scoring_run_names_a_coloured_edge_map(folder: Path) -> None:
    cv2.imwrite(str(folder / "in" / "bird_2.png"), waves(64, 64))
    with pytest.raises(ValueError, match="--edges: picture bird_2: got channels that differ, expected one channel"):
        score(folder, "--edges")


def test_a_scoring_run_warns_of_inverted_edge_maps(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imwrite(str(folder / "in" / "bird_1.png"), 255 - EDGES)
    monkeypatch.setattr(compute_score, "check", lambda *_: (_ for _ in ()).throw(OSError("enough")))
    with caplog.at_level(logging.WARNING), pytest.raises(OSError, match="enough"):
        score(folder, "--edges")
    assert "looks like black edges on white" in caplog.text


def _reference(**changes: Any) -> Picture:
    checkpoint = hackathon("random:0", device="cpu").checkpoint
    request = Request.contest(None, image_resolution=64, **changes)
    return reference_pictures(checkpoint.load_model(), checkpoint.load_tokenizer(), request)[0]
