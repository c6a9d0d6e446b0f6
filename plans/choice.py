"""What a runtime's plan is for each number of steps: a word, a file or a Plan, or the best by this machine's times."""

import logging
from collections.abc import Callable

from plans.auto import best_plan, eligible_plans, measure_costs
from plans.files import PlanFile, choose_plan, usual_steps_of
from plans.plan import STEPS, Plan, make_plan
from scoring.leaderboard import leaderboard_score

log = logging.getLogger(__name__)


class PlanChoice:
    """One plan that was asked for, as a Plan for any number of steps. Files are read once.

    plan: as `plans.files.choose_plan` takes it, or "auto". max_pd: bounds "auto".
    Raises ValueError with one sentence for an unknown plan.
    """

    def __init__(self, plan: str | Plan, architecture: str, max_pd: float | None = None) -> None:
        if max_pd is not None and plan != "auto":
            raise ValueError(f"max_pd: got {max_pd} with plan {plan!r}, expected plan 'auto', which it bounds")
        self.plan, self.architecture, self.max_pd = plan, architecture, max_pd
        self.eligible = eligible_plans(architecture, max_pd) if plan == "auto" else []
        self.usual_steps = STEPS if self.eligible else usual_steps_of(plan, architecture)
        self.auto: PlanFile | None = None  # what "auto" stands for, once it was measured
        self.known: dict[tuple[str | Plan, int], Plan] = {}

    def __call__(self, ddim_steps: int, plan: str | Plan | None = None) -> Plan:
        """For this number of steps; plan: another one than that which was asked for, and not "auto"."""
        choice = self.plan if plan is None else plan
        if (choice, ddim_steps) not in self.known:
            self.known[choice, ddim_steps] = self._read(choice, ddim_steps)
        return self.known[choice, ddim_steps]

    def measure(self, milliseconds: Callable[[Plan], float]) -> None:
        """Let "auto" stand for the best of the eligible plans; `milliseconds` measures a picture of 20 steps."""
        costs = measure_costs(milliseconds)
        self.auto = best = best_plan(self.eligible, costs, None if self.max_pd else leaderboard_score)
        self.known.clear()  # "auto" may have stood for another one
        log.info("plan auto: %s, about %.0f ms here, %s", best.path.stem, costs(best.plan), best.distance)

    def __str__(self) -> str:
        return f"auto: {self.auto.path.stem}" if self.auto else str(self.plan)

    def _read(self, choice: str | Plan, ddim_steps: int) -> Plan:
        """Of "auto" what it stands for, or every step where that is for another number of steps."""
        every, name = make_plan("all", ddim_steps), choice
        if self.auto and choice == "auto":
            choice = self.auto.plan if self.auto.plan.steps == every.steps else every
        plan = choose_plan(choice, ddim_steps, self.architecture)
        if name in ("ten", "auto") and plan.evaluated == every.evaluated:
            log.warning("plan %s: no such plan for %d steps, evaluating all of them", name, plan.steps)
        return plan
