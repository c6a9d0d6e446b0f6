"""Plan "auto": which of the plan files is best on this machine.

The cost of a picture is linear in its plan: what is done once, and so much for each evaluation, less for one that uses
ControlNet's residuals again. Three measured pictures tell the three numbers, with all that runs side by side in them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cldm.plan import STEPS, Plan
from cldm.plan_files import Distance, PlanFile, known_plans

ONE = Plan(STEPS, (19,))
FIVE = Plan(STEPS, (19, 15, 11, 7, 3))
FIVE_REUSING = Plan(STEPS, FIVE.evaluated, control=(True, False, False, False, False))


@dataclass(frozen=True)
class Costs:
    """Milliseconds of a picture here."""

    once: float  # text, hint, VAE, the host's work: what a plan changes nothing of
    evaluation: float
    reusing: float  # an evaluation without ControlNet

    def __call__(self, plan: Plan) -> float:
        called = sum(plan.calls_control)
        return self.once + called * self.evaluation + (len(plan.evaluated) - called) * self.reusing


def measure_costs(milliseconds: Callable[[Plan], float]) -> Costs:
    """`milliseconds` measures a picture with a plan of 20 steps."""
    one, five, reusing = (milliseconds(plan) for plan in (ONE, FIVE, FIVE_REUSING))
    evaluation = (five - one) / 4
    return Costs(one - evaluation, evaluation, (reusing - one) / 4)


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
