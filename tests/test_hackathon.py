"""The class has the contest's signatures, and every argument of process() has its effect."""

import inspect
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from canny2image_TRT import hackathon
from cldm.request import Request
from runtime.backends import PRECISIONS
from tests.arguments import GOOD, process, waves
from tests.inside import last_of

CONTRACT = [
    "self", "input_image", "prompt", "a_prompt", "n_prompt", "num_samples", "image_resolution", "ddim_steps",
    "guess_mode", "strength", "scale", "seed", "eta", "low_threshold", "high_threshold",
]  # fmt: skip


def test_signatures_match_the_contest() -> None:
    assert hackathon.__name__ == "hackathon"
    assert list(inspect.signature(hackathon.initialize).parameters) == ["self"]
    parameters = inspect.signature(hackathon.process).parameters
    *contest, own = parameters.values()
    assert [p.name for p in contest] == CONTRACT
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in contest)
    assert (own.name, own.kind, own.default) == ("edges", own.KEYWORD_ONLY, None)


def test_constructor_needs_no_argument() -> None:
    runtime = hackathon()
    with pytest.raises(RuntimeError, match=r"before initialize\(\): call initialize\(\) once first"):
        process(runtime)


@pytest.mark.parametrize("plan", ["", "two", "4,19", "19,4,4", "19,-1", "20,4", "19,", "19;4", "19,4.0"])
def test_constructor_rejects_a_bad_plan(plan: str) -> None:
    with pytest.raises(ValueError, match=r"plan .*(expected .*step indices|no ddim_steps gives 21 steps)"):
        hackathon("random:0", plan=plan)


def test_constructor_accepts_a_plan_for_another_step_count() -> None:
    hackathon("random:0", plan="9,5,2")  # the constructor cannot know ddim_steps


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"device": "tpu"}, "device 'tpu'"),
        ({"backend": "fast"}, "backend 'fast'"),
        ({"device": "cpu", "precision": "fp16"}, "precision 'fp16'"),
        ({"precision": "half"}, "precision 'half'"),
        ({"max_pd": 5.0}, "max_pd: got 5.0 with plan 'ten', but it can only be used with plan 'auto'"),
        ({"plan": "auto", "max_pd": -1.0}, "max_pd: got -1.0, expected a finite distance above 0"),
    ],
)
def test_constructor_rejects_a_bad_choice(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hackathon("random:0", **choice)


@pytest.mark.parametrize("samples", [1, 3])
def test_one_picture_per_sample(runtime: hackathon, samples: int) -> None:
    pictures = runtime.process(**{**GOOD, "num_samples": samples})
    assert isinstance(pictures, list)
    assert [p.shape for p in pictures] == [(64, 64, 3)] * samples
    assert all(type(p) is np.ndarray and p.dtype == np.uint8 for p in pictures)
    assert len({p.tobytes() for p in pictures}) == samples
    assert all(p.std() > 1 for p in pictures)


def test_positional_arguments_as_the_contest_passes_them(runtime: hackathon) -> None:
    by_name = process(runtime)[0]
    assert np.array_equal(runtime.process(*GOOD.values())[0], by_name)


def test_same_arguments_same_picture(runtime: hackathon) -> None:
    first = process(runtime)[0]
    process(
        runtime,
        seed=6,
        prompt="a dog",
        scale=3.0,
        strength=0.2,
        guess_mode=True,
        eta=1.0,
        input_image=255 - waves(64, 64),
    )
    assert np.array_equal(process(runtime)[0], first)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"prompt": "a hand"},
        {"a_prompt": "bad quality"},
        {"n_prompt": "hands"},
        {"scale": 4.0},
        {"strength": 0.3},
        {"low_threshold": 20, "high_threshold": 50},
        {"guess_mode": True},
        {"eta": 0.7},
        {"input_image": np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)},
    ],
    ids=lambda change: "-".join(change),
)
def test_every_argument_changes_the_picture(trained: hackathon, change: dict[str, Any]) -> None:
    before, after = process(trained)[0], process(trained, **change)[0]
    assert np.abs(before.astype(int) - after).mean() > 1


def test_seed_minus_one_draws_a_seed(runtime: hackathon) -> None:
    first, second = process(runtime, seed=-1)[0], process(runtime, seed=-1)[0]
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_samples", np.int64(1)),
        ("image_resolution", np.int32(64)),
        ("ddim_steps", np.int64(20)),
        ("guess_mode", np.bool_(False)),
        ("strength", np.float32(1)),
        ("scale", np.float64(9)),
        ("seed", np.int64(5)),
        ("eta", np.float32(0)),
        ("low_threshold", np.float32(100)),
        ("high_threshold", np.int16(200)),
    ],
)
def test_numpy_numbers_are_accepted(runtime: hackathon, name: str, value: Any) -> None:
    assert np.array_equal(process(runtime, **{name: value})[0], process(runtime)[0])


def test_grey_and_rgba(runtime: hackathon) -> None:
    grey = waves(64, 64)[:, :, 1]
    expected = process(runtime, input_image=np.stack([grey] * 3, axis=-1))[0]
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    for same in (grey, grey[:, :, None], opaque):
        assert np.array_equal(process(runtime, input_image=same)[0], expected)
    clear = np.dstack([grey, grey, grey, np.zeros_like(grey)])
    white = np.full((64, 64, 3), 255, np.uint8)
    assert np.array_equal(process(runtime, input_image=clear)[0], process(runtime, input_image=white)[0])


@pytest.mark.parametrize(("shape", "out"), [((40, 80), (64, 128)), ((200, 101), (128, 64))])
def test_a_picture_need_not_be_square(runtime: hackathon, shape: tuple[int, int], out: tuple[int, int]) -> None:
    assert process(runtime, input_image=waves(*shape))[0].shape == (*out, 3)


@pytest.mark.parametrize(("steps", "message"), [(9, "for example 8 or 10"), (0, "expected 1 to 1000"), (-1, "got -1")])
def test_unusable_step_counts(runtime: hackathon, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"ddim_steps: .*{message}"):
        process(runtime, ddim_steps=steps)


def test_twelve_ddim_steps_give_thirteen_evaluations(runtime: hackathon, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(**{**GOOD, "ddim_steps": 12})
    runtime.draw(request, "all")
    decoder = Mock(wraps=last_of(runtime).engines["decoder"])
    monkeypatch.setitem(last_of(runtime).engines, "decoder", decoder)
    runtime.draw(request, "all")
    assert decoder.enqueue.call_count == 13


def test_bad_arguments_raise_before_any_work(runtime: hackathon) -> None:
    with pytest.raises(ValueError, match="seed: got -2, expected -1"):
        process(runtime, seed=-2)
    with pytest.raises(TypeError, match=r"seed: got -1\.0, expected a whole number"):
        process(runtime, seed=-1.0)


@pytest.mark.parametrize("strength", [1e5, -1e5, 65520.0])
def test_numbers_that_half_precision_cannot_hold(
    runtime: hackathon, monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    assert process(runtime, strength=strength)[0].shape == (64, 64, 3), "float32 can hold this strength"
    monkeypatch.setattr(runtime, "precision", PRECISIONS["fp16"])
    with pytest.raises(ValueError, match=rf"strength: got {strength:g}, expected at most 65504, .* precision fp32"):
        process(runtime, strength=strength)
