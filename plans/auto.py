"""Chooses the plan file that is best on this machine, for plan "auto".

The time of a picture is a fixed part plus a cost per evaluation. Both numbers follow from the times of two plans, which
include the effect of running two streams at once.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plans.files import Distance, PlanFile, known_plans
from plans.plan import STEPS, Plan
from reading import shown

ONE = Plan(STEPS, (19,))
FIVE = Plan(STEPS, (19, 15, 11, 7, 3))


@dataclass(frozen=True)
class Costs:
    """The parts of a picture's time on this machine, in milliseconds. Calling it gives the time with a plan."""

    once: float  # text, hint, VAE and host work, which do not depend on the plan
    evaluation: float  # per evaluation of the network

    def __call__(self, plan: Plan) -> float:
        return self.once + len(plan.evaluated) * self.evaluation


def measure_costs(milliseconds: Callable[[Plan], float]) -> Costs:
    """Return the costs. `milliseconds(plan)` generates a picture with a plan of 20 steps and returns its time."""
    one, five = milliseconds(ONE), milliseconds(FIVE)
    evaluation = (five - one) / 4
    return Costs(one - evaluation, evaluation)


def eligible_plans(architecture: str, max_pd: float | None) -> list[PlanFile]:
    """Return the plan files to choose from: 20 steps, and a measured mean distance of at most `max_pd`, if given.

    If any distance was measured as PD, files measured as PD* are left out. Raise ValueError for an invalid `max_pd`, if
    no file is left, and if there are only PD* distances and no `max_pd`.
    """
    if max_pd is not None and not 0 < max_pd <= sys.float_info.max:
        raise ValueError(f"max_pd: got {shown(max_pd)}, expected a finite distance above 0")
    files = [file for file in known_plans(architecture) if file.plan.steps == STEPS and file.distance]
    if not files:
        raise ValueError(
            f"plan auto: no plan file for {architecture} in models/plans has 20 steps and a measured distance; "
            "create plans with python -m build plans"
        )
    metric = min(_distance(file).metric for file in files)  # PD if any file has it: it sorts before PD*
    files = [file for file in files if _distance(file).metric == metric]
    if max_pd is None and metric != "PD":
        raise ValueError(
            f"plan auto: the plans for {architecture} were measured as {metric}, from which no leaderboard score can "
            "be computed; set max_pd (--max-pd), or put the Inception weights into models/ and run "
            "python -m build plans --force"
        )
    near = [file for file in files if max_pd is None or _distance(file).mean <= max_pd]
    if not near:
        nearest = min(files, key=lambda file: _distance(file).mean)
        raise ValueError(
            f"plan auto: no plan for {architecture} has a mean {metric} of at most {max_pd:g}; increase max_pd: the "
            f"closest plan is {nearest.path.stem} with {_distance(nearest).mean:g}"
        )
    return near


def best_plan(
    files: Sequence[PlanFile], costs: Costs, score: Callable[[float, float], float] | None = None
) -> PlanFile:
    """Return the file with the highest `score(milliseconds, distance)`, or the fastest one if there is no `score`.

    Ties go to the smaller distance.
    """

    def worth(file: PlanFile) -> tuple[float, float]:
        milliseconds, distance = costs(file.plan), _distance(file).mean
        return (score(milliseconds, distance) if score else -milliseconds), -distance

    return max(files, key=worth)


def _distance(file: PlanFile) -> Distance:
    assert file.distance, "eligible plan files have a distance"
    return file.distance
