"""Methods that save evaluations. Each returns a plan or final latents for a number of evaluations."""

from collections.abc import Callable, Sequence
from functools import cache

from torch import Tensor

from build.plans import Search, even
from ldm.diffusion import ddim_timesteps
from plans.folds import Folds
from plans.plan import STEPS, TEN, Plan, make_plan
from plans.routes import Route, Routes, to_plan
from plans.taps import Rule, fitted, hold

Method = Callable[[int], Plan | Tensor | None]  # number of evaluations -> plan or latents; None if unavailable

PUBLISHED = "published list, held"
TWO_TAPS = "searched, two taps"


def methods(folds: Folds, calls: Sequence[int], width: int, thorough: bool) -> dict[str, Method]:
    """Return the methods by name. The searches are the same as in `python -m build plans --calls` with `calls`."""

    def searched(rule: Rule, keep: int) -> Callable[[int], Plan]:
        @cache
        def found() -> dict[int, Route]:
            search = Search(Routes(folds.examples, folds.schedule, rule, keep), width, thorough)
            return dict(zip(calls, search.best(calls), strict=True))

        return lambda n: to_plan(found()[n], STEPS)

    return {
        "DDIM, fewer steps": lambda n: _ddim(folds, n),
        "even steps, held": lambda n: Plan(STEPS, even(n)),
        PUBLISHED: lambda n: Plan(STEPS, TEN) if n == len(TEN) else None,
        "searched, held": searched(hold, 1),
        TWO_TAPS: searched(fitted(2), 2),
    }


def _ddim(folds: Folds, calls: int) -> Tensor | None:
    """Return the latents of DDIM with ddim_steps=calls; None if that does not give exactly `calls` steps."""
    try:
        steps = len(ddim_timesteps(calls))
    except ValueError:
        return None
    return folds.report.draw(make_plan("all", calls), calls) if steps == calls else None
