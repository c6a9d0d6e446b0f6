"""Plan "auto": which of the plan files is best on this machine.

The cost of a picture is linear in its plan: what is done once, and so much for each evaluation. Two measured pictures
tell the two numbers, with all that runs side by side in them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plans.files import Distance, PlanFile, known_plans
from plans.plan import STEPS, Plan

ONE = Plan(STEPS, (19,))
FIVE = Plan(STEPS, (19, 15, 11, 7, 3))


@dataclass(frozen=True)
class Costs:
    """Milliseconds of a picture here."""

    once: float  # text, hint, VAE, the host's work: what a plan changes nothing of
    evaluation: float

    def __call__(self, plan: Plan) -> float:
        return self.once + len(plan.evaluated) * self.evaluation


def measure_costs(milliseconds: Callable[[Plan], float]) -> Costs:
    """`milliseconds` measures a picture with a plan of 20 steps."""
    one, five = milliseconds(ONE), milliseconds(FIVE)
    evaluation = (five - one) / 4
    return Costs(one - evaluation, evaluation)


def eligible_plans(architecture: str, max_pd: float | None) -> list[PlanFile]:
    """The plan files to choose from: of 20 steps, with a known distance, by PD where there are such, within `max_pd`.

    Raises ValueError with one sentence that says what to do if there are none.
    """
    if max_pd is not None and not (math.isfinite(max_pd) and max_pd > 0):
        raise ValueError(f"max_pd: got {max_pd}, expected a finite distance above 0")
    files = [file for file in known_plans(architecture) if file.plan.steps == STEPS and file.distance]
    if not files:
        raise ValueError(
            f"plan auto: of {architecture} there is no plan in models/plans that says how far its pictures are "
            "from those of all steps; find some with python -m build plans"
        )
    metric = min(_distance(file).metric for file in files)  # PD comes before PD*
    files = [file for file in files if _distance(file).metric == metric]
    if max_pd is None and metric != "PD":
        raise ValueError(
            f"plan auto: the plans of {architecture} were measured by {metric}, which makes no leaderboard score; "
            "bound it by max_pd (--max-pd), or put the Inception weights into models/ and find the plans anew"
        )
    near = [file for file in files if max_pd is None or _distance(file).mean <= max_pd]
    if not near:
        nearest = min(files, key=lambda file: _distance(file).mean)
        raise ValueError(
            f"plan auto: no plan of {architecture} has a {metric} of at most {max_pd:g}; the nearest is "
            f"{nearest.path.stem} with {_distance(nearest).mean:g}"
        )
    return near


def best_plan(
    files: Sequence[PlanFile], costs: Costs, score: Callable[[float, float], float] | None = None
) -> PlanFile:
    """The quickest, or that of the highest score of milliseconds and distance."""

    def worth(file: PlanFile) -> tuple[float, float]:
        milliseconds, distance = costs(file.plan), _distance(file).mean
        return (score(milliseconds, distance) if score else -milliseconds), -distance

    return max(files, key=worth)


def _distance(file: PlanFile) -> Distance:
    assert file.distance, "the eligible have one"
    return file.distance
