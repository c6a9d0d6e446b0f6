"""Many requests in one batch: each picture is that of its own request, whatever the others are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cldm.engine_files
from canny2image_TRT import hackathon
from cldm.batch_sizes import BATCHES, padded, split
from cldm.canny import Picture
from cldm.engine_choice import Engines
from cldm.reference import reference_latent
from cldm.request import Request
from runtime.backends import BACKENDS
from scoring.pictures import DRAWN_BIRDS, find_pictures
from tests.inside import pipelines_of

BIRDS = list(find_pictures(DRAWN_BIRDS).values())
DIFFERENT: list[dict[str, Any]] = [
    {},
    {"prompt": "a red bird", "seed": 1},
    {"picture": BIRDS[1], "scale": 3.0, "n_prompt": ""},
    {"picture": BIRDS[2], "strength": 0.4, "num_samples": 2},
    {"guess_mode": True, "seed": 5},
    {"eta": 0.8, "seed": 6, "num_samples": 2},
]


def request(picture: Picture = BIRDS[0], **changes: Any) -> Request:
    return Request.contest(picture, **{"image_resolution": 64} | changes)


def apart(one: list[Picture], other: list[Picture]) -> int:
    """Return the largest difference in grey levels."""
    return max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(one, other, strict=True))


def test_each_picture_is_that_of_its_own_request(trained: hackathon) -> None:
    requests = [request(**changes) for changes in DIFFERENT]
    made = trained.process_many(requests)
    assert [len(pictures) for pictures in made] == [1, 1, 1, 2, 1, 2]
    alone = [trained.draw(one) for one in requests]
    assert [apart(*pair) for pair in zip(made, alone, strict=True)] <= [1] * len(made)
    assert apart(made[0], made[1]) > 20, "the requests give different pictures"
    assert apart(trained.process_many(requests[::-1])[-1], alone[0]) <= 1


def test_latents_are_those_of_the_reference(trained: hackathon) -> None:
    requests = [request(**{"ddim_steps": 4} | changes) for changes in DIFFERENT]
    trained.process_many(requests, plan="all")
    model, tokenizer = trained.checkpoint.load_model(), pipelines_of(trained).tokenizer
    samples = [one.num_samples for one in requests]
    for one, latent in zip(requests, trained.latent[: sum(samples)].split(samples), strict=True):
        assert (reference_latent(model, tokenizer, one) - latent).abs().max() < 1e-3


def test_batches_have_few_sizes(trained: hackathon) -> None:
    trained.process_many([request()] * 3)
    last = pipelines_of(trained).last
    assert last is not None
    assert last.shape.samples == 4
    assert trained.process_many([]) == []
    assert len(trained.process_many(iter([request()]))[0]) == 1  # type: ignore[arg-type]


def test_split_and_padded() -> None:
    sizes = (1, 2, 4, 8)
    counts = [3, 1, 4, 1, 9, 2, 1]
    batches = split([request(num_samples=count) for count in counts], sizes)
    assert [[one.num_samples for one in batch] for batch in batches] == [[3, 1, 4], [1], [9], [2, 1]]
    assert [sum(one.num_samples for one in padded(batch, sizes)) for batch in batches] == [8, 1, 9, 4]
    assert split([], sizes) == []
    large = [replace(request(num_samples=2), image_resolution=2048)] * 3
    assert sum(one.num_samples for one in padded(large, sizes)) == 8


def test_only_batches_with_engine_files_are_used(
    trained: hackathon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cldm.engine_files, "ENGINES", tmp_path)
    engines = Engines(trained.checkpoint, trained.precision, torch.device("cpu"), strict=False)
    engines.backend = replace(BACKENDS["eager"], name="inductor")
    assert engines.batch_sizes(256, 384) == list(BATCHES)
    assert engines.batch_sizes(4096, 2048) == [1, 2]
    for samples in (1, 4):
        replace(engines._size(256, 384, samples), backend="inductor").folder.mkdir(parents=True)
    assert engines.batch_sizes(256, 384) == [1, 4]


@pytest.mark.parametrize(
    ("requests", "error", "sentence"),
    [
        (None, TypeError, "requests: got None, expected a list of Requests"),
        (request(), TypeError, "requests: got Request"),
        ("ab", TypeError, "requests: got 'ab'"),
        ([request(), 3], TypeError, "request: got 3, expected a Request"),
        (
            [request(), request(image_resolution=128)],
            ValueError,
            "requests: got pictures of 64 x 128 with 20 steps and of 128 x 192 with 20 steps, expected one size",
        ),
        ([request(), request(ddim_steps=10)], ValueError, "with 10 steps and of .* with 20 steps, expected one"),
        ([request(), request(scale=1e30)], ValueError, "the latent has values up to .* scale 1e"),
    ],
    ids=range(7),
)
def test_what_cannot_be_drawn_together(
    trained: hackathon, requests: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        trained.process_many(requests)


def test_before_initialize() -> None:
    with pytest.raises(RuntimeError, match=r"process_many\(\) was called before initialize\(\)"):
        hackathon("random:0", device="cpu").process_many([request()])
