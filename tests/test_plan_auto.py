"""Plan "auto": costs from two measured pictures, and the best plan file at these costs."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import plans.files
from canny2image_TRT import hackathon
from cldm.request import Request
from plans.auto import Costs, best_plan, eligible_plans, measure_costs
from plans.files import Distance, PlanFile, write_plan
from plans.plan import Plan
from scoring.leaderboard import leaderboard_score
from tests.arguments import process
from tests.inside import last_of

COSTS = Costs(once=26.8, evaluation=17.6)  # on the contest's A10


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plans.files, "PLANS", tmp_path)
    return tmp_path


def file(calls: int, mean: float | None, metric: str = "PD") -> PlanFile:
    plan = Plan(20, tuple(range(19, 19 - calls, -1)))
    return PlanFile("small", plan, None if mean is None else Distance(metric, mean))


def test_costs_are_recovered_from_times() -> None:
    found = measure_costs(COSTS)
    assert (found.once, found.evaluation) == pytest.approx((26.8, 17.6))
    assert COSTS(file(10, 5.0).plan) == pytest.approx(26.8 + 176)


def test_best_plan_by_score_or_by_time() -> None:
    """Up to PD 8, saving an evaluation gains more score than the added distance loses; above, the score drops."""
    files = [file(6, 9.5), file(8, 6.8), file(10, 5.4), file(20, 3.2)]
    assert best_plan(files, COSTS, leaderboard_score) == files[1]
    assert best_plan(files, COSTS) == files[0]
    equal = [file(8, 6.8), file(8, 6.1), file(8, 7.0)]
    assert best_plan(equal, COSTS) == equal[1], "plans with equal time: the smallest distance wins"


def test_eligible_plans() -> None:
    with pytest.raises(ValueError, match="no plan file for small in models/plans has 20 steps and a measured distance"):
        eligible_plans("small", 5.0)
    files = [write_plan(one) and one for one in (file(6, 0.3, "PD*"), file(8, 0.2, "PD*"), file(10, None))]
    write_plan(PlanFile("other", Plan(20, (19,)), Distance("PD", 1.0)))
    assert eligible_plans("small", 0.25) == files[1:2]
    assert eligible_plans("small", 0.3) == files[:2]
    with pytest.raises(
        ValueError, match=r"measured as PD\*, from which no leaderboard score can be computed; set max_pd"
    ):
        eligible_plans("small", None)
    with pytest.raises(
        ValueError, match=r"no plan for small has a mean PD\* of at most 0.1; .* closest plan is small_8 with 0.2"
    ):
        eligible_plans("small", 0.1)
    contest = file(12, 4.5)
    write_plan(contest)
    assert eligible_plans("small", None) == [contest], "PD* plans are eligible although there is a PD plan"
    with pytest.raises(ValueError, match="max_pd: got nan"):
        eligible_plans("small", float("nan"))


def test_runtime_chooses_the_quickest_plan_within_max_pd(caplog: pytest.LogCaptureFixture, tiny: None) -> None:
    """The runtime times pictures on this machine and chooses the quickest plan whose distance is within max_pd."""
    for calls, mean in ((2, 0.4), (3, 0.2), (4, 0.1)):
        write_plan(replace(file(calls, mean, "PD*"), architecture="tiny"))
    runtime = hackathon("random:0", architecture="tiny", device="cpu", plan="auto", max_pd=0.3)
    with caplog.at_level(logging.INFO):
        runtime.initialize()
    assert runtime._plan.auto == replace(file(3, 0.2, "PD*"), architecture="tiny")
    assert "plan auto: tiny_3, about" in caplog.text
    assert "mean PD* 0.2" in caplog.text
    process(runtime)
    assert runtime.settings["plan"] == "auto: tiny_3"
    request = Request.contest(np.zeros((64, 64, 3), np.uint8), image_resolution=64)
    runtime.draw(request)
    assert last_of(runtime).shape.plan == file(3, 0.2).plan
    runtime.draw(replace(request, ddim_steps=4))
    assert runtime.settings["evaluates"] == "4 of 4 steps", "another number of steps evaluates every step"
    runtime._plan.eligible = runtime._plan.eligible[1:]
    runtime.initialize()
    runtime.draw(request)
    assert last_of(runtime).shape.plan == file(4, 0.1).plan, "initialize() did not choose again"
