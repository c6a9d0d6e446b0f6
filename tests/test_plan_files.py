"""Plan files: writing, reading, choosing by name, and error messages of one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

import plans.files
from plans.choice import PlanChoice
from plans.files import Distance, PlanFile, choose_plan, known_plans, read_plan, usual_steps_of, write_plan
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
        ({"evaluated": [19, 11.0, 3]}, "got 11.0, expected a whole number"),
        ({"steps": True}, "got True, expected a whole number"),
        ({"taps": [[1, 0], [1, 0]]}, r"taps with row lengths \[2, 2\]: expected 3 rows of equal length"),
        ({"taps": [[1, 0], [1], [1, 0]]}, r"taps with row lengths \[2, 1, 2\]: expected 3 rows of equal length"),
        ({"taps": [[], [], []]}, "expected 3 rows of equal length, 1 or more"),
        ({"taps": [[1, 0], [3.5, 0], [1, 0]]}, "evaluation 1: expected numbers from -3 to 3"),
        ({"taps": [[1, 0], [float("nan"), 0], [1, 0]]}, "evaluation 1: expected numbers from -3 to 3"),
        ({"taps": [[1, 0.1], [1, 0], [1, 0]]}, "evaluation 0: .*, and 0 where there is no earlier evaluation"),
        ({"taps": [["one", 0], [1, 0], [1, 0]]}, "could not convert string"),
        ({"taps": 7}, "not iterable"),
        (
            {"control": [True, False, True]},
            "field 'control' lists evaluations without ControlNet, which is not supported anymore",
        ),
        ({"made": 3}, "not iterable"),
        ({"distance": 3}, "not subscriptable"),
        ({"distance": {"metric": "PD", "mean": -1}}, "got -1, expected a finite distance of 0 or more"),
    ],
)
def test_wrong_plan_raises(change: dict[str, Any], what: str) -> None:
    path = write_plan(FILE)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"plan .*small_3.json: .*{what}.*; recreate it with python -m"):
        read_plan(path)


def test_damaged_plan_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json cannot be read"):
        choose_plan(str(tmp_path / "none.json"), 20, "small")
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
    for wrong in (8.0, [19, 3], True):
        with pytest.raises(TypeError, match="expected a name, a number of evaluations, step indices or a Plan"):
            choice(20, wrong)  # type: ignore[arg-type]
