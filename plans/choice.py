"""Resolves a runtime's plan (a name, a file, a Plan or "auto") for each number of DDIM steps."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from plans.auto import best_plan, eligible_plans, measure_costs
from plans.files import PlanFile, choose_plan, plan_file, usual_steps_of
from plans.plan import STEPS, Plan, make_plan
from reading import is_whole, shown, to_float
from scoring.leaderboard import leaderboard_score

log = logging.getLogger(__name__)


class PlanChoice:
    """Resolves the requested plan to a Plan for any number of steps. Caches the results.

    plan: "auto", or any plan that `plans.files.choose_plan` accepts. max_pd: for "auto", the largest mean distance.
    checkpoint: the file of the weights. A log line tells if a plan file was made for other weights.
    Raise TypeError or ValueError for an unknown plan or an unusable max_pd.
    """

    def __init__(
        self, plan: str | int | Plan, architecture: str, max_pd: float | None = None, checkpoint: str = ""
    ) -> None:
        plan = _checked(plan)
        most = None if max_pd is None else to_float(max_pd)
        if max_pd is not None and most is None:
            raise TypeError(f"max_pd: got {shown(max_pd)}, expected a number or None")
        if max_pd is not None and plan != "auto":
            raise ValueError(
                f"max_pd: got {shown(max_pd)} with plan {shown(plan)}, but it can only be used with plan 'auto'"
            )
        self.plan, self.architecture, self.max_pd, self.checkpoint = plan, architecture, most, checkpoint
        self.eligible = eligible_plans(architecture, most) if plan == "auto" else []
        self.usual_steps = STEPS if self.eligible else usual_steps_of(plan, architecture)
        self.auto: PlanFile | None = None  # the plan file chosen for "auto"; None before measure()
        self.known: dict[tuple[str | Plan, int], Plan] = {}

    def __call__(self, ddim_steps: int, plan: str | int | Plan | None = None) -> Plan:
        """Return the plan for this number of steps. Raise ValueError if there is none.

        plan: used instead of the requested plan. "auto" is valid only if it was requested and `measure` was called.
        """
        if not is_whole(ddim_steps):
            raise TypeError(f"ddim_steps: got {shown(ddim_steps)}, expected a whole number")
        choice = self.plan if plan is None else _checked(plan)
        if (choice, ddim_steps) not in self.known:
            self.known[choice, ddim_steps] = self._read(choice, ddim_steps)
        return self.known[choice, ddim_steps]

    def measure(self, milliseconds: Callable[[Plan], float]) -> None:
        """Choose the best eligible plan for "auto", and log it. `milliseconds(plan)` returns the time of a picture."""
        costs = measure_costs(milliseconds)
        self.auto = best = best_plan(self.eligible, costs, None if self.max_pd else leaderboard_score)
        self._log_origin(best)
        self.known.clear()  # an earlier measurement may have chosen a different plan for "auto"
        log.info("plan auto: %s, about %.0f ms per picture here, %s", best.path.stem, costs(best.plan), best.distance)

    def name_of(self, plan: Plan, ddim_steps: int) -> str:
        """Return the requested plan's name if `plan` is what it gives, else the indices of the plan's steps."""
        usual = None
        with suppress(ValueError):  # the requested plan is for another number of steps
            usual = self(ddim_steps)
        return str(self) if plan == usual else ",".join(map(str, plan.evaluated))

    def __str__(self) -> str:
        return f"auto: {self.auto.path.stem}" if self.auto else str(self.plan)

    def _read(self, choice: str | Plan, ddim_steps: int) -> Plan:
        """Resolve `choice`. "auto" is the chosen file's plan, or every step if the number of steps differs."""
        every, name = make_plan("all", ddim_steps), choice
        if self.auto and choice == "auto":
            choice = self.auto.plan if self.auto.plan.steps == every.steps else every
        plan = choose_plan(choice, ddim_steps, self.architecture)
        if file := plan_file(choice, self.architecture):
            self._log_origin(file)
        if name in ("ten", "auto") and plan.evaluated == every.evaluated:
            log.warning("plan %s evaluates every step if there are %d steps", name, plan.steps)
        return plan

    def _log_origin(self, file: PlanFile) -> None:
        """Log if the plan was made for other weights: its distance holds only for those."""
        checkpoint, made_with = Path(self.checkpoint).name, file.made.get("checkpoint", "")
        if file.architecture != self.architecture:
            log.warning(
                "plan %s was made for architecture %s, but the weights are %s: pictures may be far from those with "
                "all steps",
                *(file.path.stem, file.architecture, self.architecture),
            )
        elif checkpoint and made_with and made_with != checkpoint:
            log.info(
                "plan %s was made with %s, not with %s: its distance may differ",
                *(file.path.stem, shown(made_with), checkpoint),
            )


def _checked(plan: object) -> str | Plan:
    """Return the plan, a path or a number of evaluations as a string. Raise TypeError for any other type."""
    if is_whole(plan):
        return shown(int(plan))
    if isinstance(plan, os.PathLike):
        plan = os.fspath(plan)
    if not isinstance(plan, (str, Plan)):
        raise TypeError(
            f"plan: got {shown(plan)}, expected a name, a number of evaluations, step indices in a string such as "
            "'19,14,9,4', or a Plan"
        )
    # Absolute: the file is read again for another number of steps, maybe in another current folder.
    return os.path.abspath(plan) if isinstance(plan, str) and plan.endswith(".json") else plan
