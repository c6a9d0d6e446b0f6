"""Plan files: writing, reading, choosing by name, and error messages of one sentence."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import plans.files
from plans.choice import PlanChoice
from plans.files import Distance, PlanFile, choose_plan, known_plans, path_for, read_plan, usual_steps_of, write_plan
from plans.plan import Plan, make_plan

PLAN = Plan(20, (19, 11, 3), ((1.0, 0.0), (1.2, -0.2), (0.9, 0.1)))
FILE = PlanFile("small", PLAN, Distance("PD*", 0.25), {"pictures": 6})


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans.files, "PLANS", tmp_path)


def test_plan_reads_back_as_written(tmp_path: Path) -> None:
    path = write_plan(FILE)
    assert path == tmp_path / "small_3.json"
    assert [file.name for file in tmp_path.iterdir()] == ["small_3.json"], "a temporary file was left"
    assert read_plan(path) == FILE
    unmeasured = PlanFile("small", Plan(20, (19, 4)))
    assert read_plan(write_plan(unmeasured)) == unmeasured
    write_plan(PlanFile("small_other", PLAN))
    assert known_plans("small") == [unmeasured, FILE]


def test_choices() -> None:
    path = write_plan(FILE)
    for choice in ("small_3", "3", str(path), PLAN):
        assert choose_plan(choice, 20, "small") == PLAN
        assert usual_steps_of(choice, "small") == 20
    assert choose_plan("19", 20, "small") == Plan(20, (19,)), "no plan file has 19 evaluations, so 19 is a step index"
    with pytest.raises(ValueError, match=r"plan 7: .* has plans of 3 evaluations for small; .* --calls 7"):
        choose_plan("7", 20, "small")
    for choice in ("all", "ten", "19,4"):
        assert choose_plan(choice, 20, "small") == make_plan(choice, 20)
    with pytest.raises(ValueError, match="expected all, ten, auto, a plan file such as 8, or step indices"):
        choose_plan("sd15_3", 20, "small")
    with pytest.raises(ValueError, match=r"plan small_3 is for 20 steps, but ddim_steps=10 gives 10: use plan all"):
        choose_plan("small_3", 10, "small")
    with pytest.raises(ValueError, match=r"plan \[19, 11, 3\] is for 20 steps"):
        choose_plan(PLAN, 10, "small")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"evaluated": [19, 3, 11]}, "expected step indices that descend from 19"),
        ({"evaluated": [19, 11.0, 3]}, r"evaluated: got \(19, 11.0, 3\), expected a tuple of whole numbers"),
        ({"evaluated": {"19": 0}}, "evaluated: got {'19': 0}, expected a tuple of whole numbers"),
        ({"steps": True}, "steps: got True, expected a whole number"),
        ({"steps": 10**9}, "steps: got 1000000000, expected 1 to 1000"),
        ({"taps": [[1, 0], [1, 0]]}, r"taps with row lengths \[2, 2\]: expected 3 rows of equal length"),
        ({"taps": [[1, 0], [1], [1, 0]]}, r"taps with row lengths \[2, 1, 2\]: expected 3 rows of equal length"),
        ({"taps": [[], [], []]}, "expected 3 rows of equal length, 1 or more"),
        ({"taps": [[1, 0], [3.5, 0], [1, 0]]}, "evaluation 1: expected numbers from -3 to 3"),
        ({"taps": [[1, 0], [10**99, 0], [1, 0]]}, "evaluation 1: expected numbers from -3 to 3"),
        ({"taps": [[1, 0.1], [1, 0], [1, 0]]}, "evaluation 0: .*, and 0 where there is no earlier evaluation"),
        ({"taps": [["1", 0], [1, 0], [1, 0]]}, "taps: got .*, expected a tuple of tuples of numbers"),
        ({"taps": [[True, 0], [1, 0], [1, 0]]}, "taps: got .*, expected a tuple of tuples of numbers"),
        ({"taps": [[[1], 0], [1, 0], [1, 0]]}, "taps: got .*, expected a tuple of tuples of numbers"),
        ({"taps": "111"}, "taps: got '111', expected a list of lists of numbers"),
        (
            {"control": [True, False, True]},
            "field 'control' lists evaluations without ControlNet, which is not supported anymore",
        ),
        ({"made": [["a", 1]]}, r"made: got \[\['a', 1\]\], expected an object"),
        ({"architecture": None}, "architecture: got None, expected a string"),
        ({"distance": 3}, "distance: got 3, expected an object or null"),
        ({"distance": {"metric": "FID", "mean": 1}}, "distance: metric: got 'FID', expected 'PD' or 'PD\\*'"),
        ({"distance": {"metric": "PD", "mean": -1}}, "distance: mean: got -1, expected a finite distance"),
        ({"distance": {"metric": "PD", "mean": True}}, "distance: mean: got True, expected a finite distance"),
        ({"distance": {"metric": "PD"}}, "has no field 'mean'"),
    ],
)
def test_wrong_plan_raises(change: dict[str, Any], what: str) -> None:
    path = write_plan(FILE)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"plan .*small_3.json:? .*{what}.*; recreate it with python -m"):
        read_plan(path)


def test_damaged_plan_raises(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    for name, why in (("none", "No such file or directory"), ("folder", "Is a directory"), ("pipe", "not a regular")):
        with pytest.raises(ValueError, match=rf"{name}\.json cannot be read \(.*{why}"):
            read_plan(tmp_path / f"{name}.json")
    path = write_plan(FILE)
    text = path.read_text()
    path.write_text(text[:40])
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_plan(path)
    path.write_text(text.replace('"taps"', '"tops"'))
    with pytest.raises(ValueError, match="has no field 'taps'"):
        read_plan(path)


def test_types_of_a_plan() -> None:
    write_plan(FILE)
    choice = PlanChoice(3, "small")
    assert choice(20) == PlanChoice("3", "small")(20) == choice(20, 3) == PLAN
    assert PlanChoice(np.int64(3), "small")(np.int64(20)) == PlanChoice(path_for("small", 3), "small")(20) == PLAN  # type: ignore[arg-type]
    for wrong in (8.0, [19, 3], True, b"8", object):
        with pytest.raises(TypeError, match=r"plan: got .*, expected .* in a string such as '19,14,9,4', or a Plan"):
            choice(20, wrong)  # type: ignore[arg-type]
    for steps in (20.0, "20", [20], True, None):
        with pytest.raises(TypeError, match=r"ddim_steps: got .*, expected a whole number"):
            choice(steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    ["../small_3", "a\0", "a\0.json", "x" * 5000, "x" * 5000 + ".json", "\ud800", "\ud800.json", "9" * 5000, ""],
    ids=range(9),
)
def test_names_that_no_plan_has(name: str) -> None:
    write_plan(FILE)
    with pytest.raises(ValueError, match=r"^plan:? .*(expected|no file can be called)") as caught:
        PlanChoice(name, "small")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("max_pd", ["3", True, [3.0], float("nan"), float("inf"), -1, 10**400], ids=range(7))
def test_wrong_max_pd(max_pd: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"max_pd: got .*, expected a (number or None|finite distance)"):
        PlanChoice("auto", "small", max_pd)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((20.0, (19,)), "steps"),
        ((10**400, (10**400 - 1,)), "steps"),
        ((20, [19]), "evaluated"),
        ((20, (19.0,)), "evaluated"),
        ((20, (19,), [[1.0]]), "taps"),
        ((20, (19,), (("1",),)), "taps"),
        ((20, (19,), ((float("nan"),),)), "taps"),
    ],
)
def test_a_plan_of_wrong_types(arguments: tuple[Any, ...], field: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"{field}.* got|{field} \[nan\]"):
        Plan(*arguments)


def test_a_plan_of_other_weights_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write_plan(PlanFile("small", PLAN, made={"checkpoint": "model.safetensors"}))
    PlanChoice("small_3", "small", checkpoint="models/small/model.safetensors")(20)
    assert caplog.messages == []
    PlanChoice("small_3", "small", checkpoint="other.pth")(20)
    PlanChoice("small_3", "sd15", checkpoint="other.pth")(20)
    assert caplog.messages == [
        "plan small_3 was made with 'model.safetensors', not with other.pth: its distance may differ",
        "plan small_3 was made for architecture small, but the weights are sd15: pictures may be far from those with "
        "all steps",
    ]
