"""Resolves a runtime's plan (a name, a file, a Plan or "auto") for each number of DDIM steps."""

import logging
from collections.abc import Callable
from contextlib import suppress

from plans.auto import best_plan, eligible_plans, measure_costs
from plans.files import PlanFile, choose_plan, usual_steps_of
from plans.plan import STEPS, Plan, make_plan
from scoring.leaderboard import leaderboard_score

log = logging.getLogger(__name__)


class PlanChoice:
    """Resolves the requested plan to a Plan for any number of steps. Caches the results.

    plan: "auto", or any plan that `plans.files.choose_plan` accepts. max_pd: for "auto", the largest mean distance.
    Raise ValueError for an unknown plan or an unusable max_pd.
    """

    def __init__(self, plan: str | int | Plan, architecture: str, max_pd: float | None = None) -> None:
        plan = _checked(plan)
        if max_pd is not None and plan != "auto":
            raise ValueError(f"max_pd: got {max_pd} with plan {plan!r}, but it can only be used with plan 'auto'")
        self.plan, self.architecture, self.max_pd = plan, architecture, max_pd
        self.eligible = eligible_plans(architecture, max_pd) if plan == "auto" else []
        self.usual_steps = STEPS if self.eligible else usual_steps_of(plan, architecture)
        self.auto: PlanFile | None = None  # the plan file chosen for "auto"; None before measure()
        self.known: dict[tuple[str | Plan, int], Plan] = {}

    def __call__(self, ddim_steps: int, plan: str | int | Plan | None = None) -> Plan:
        """Return the plan for this number of steps. Raise ValueError if there is none.

        plan: used instead of the requested plan. "auto" is valid only if it was requested and `measure` was called.
        """
        choice = self.plan if plan is None else _checked(plan)
        if (choice, ddim_steps) not in self.known:
            self.known[choice, ddim_steps] = self._read(choice, ddim_steps)
        return self.known[choice, ddim_steps]

    def measure(self, milliseconds: Callable[[Plan], float]) -> None:
        """Choose the best eligible plan for "auto", and log it. `milliseconds(plan)` returns the time of a picture."""
        costs = measure_costs(milliseconds)
        self.auto = best = best_plan(self.eligible, costs, None if self.max_pd else leaderboard_score)
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
        if name in ("ten", "auto") and plan.evaluated == every.evaluated:
            log.warning("plan %s evaluates every step if there are %d steps", name, plan.steps)
        return plan


def _checked(plan: object) -> str | Plan:
    """Return the plan, a number of evaluations as a string. Raise TypeError for anything but a name or a Plan."""
    if isinstance(plan, int) and not isinstance(plan, bool):
        return str(plan)
    if not isinstance(plan, (str, Plan)):
        raise TypeError(f"plan: got {plan!r}, expected a name, a number of evaluations, step indices or a Plan")
    return plan
