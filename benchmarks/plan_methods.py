"""Ways to save evaluations: the latents that each makes of the reported requests with so many of them."""

from collections.abc import Callable, Sequence
from functools import cache

from torch import Tensor

from build.plan_folds import Folds
from build.plan_search import Route, Routes, Rule, fitted, hold, linear, to_plan
from build.plans import Search, even
from cldm.plan import STEPS, TEN, Plan, make_plan
from ldm.config import load_architecture
from ldm.diffusion import ddim_timesteps

Method = Callable[[int], Plan | Tensor | None]  # evaluations -> a plan or latents; None where there is no such number

PUBLISHED = "published list, held"
TWO_TAPS = "searched, two taps"
REUSING = "two taps, ControlNet every other time"


def methods(folds: Folds, calls: Sequence[int], width: int, thorough: bool) -> dict[str, Method]:
    """By name. What is searched is what `python -m build plans` finds for these numbers of evaluations."""

    def searched(rule: Rule, keep: int) -> Callable[[int], Plan]:
        @cache
        def found() -> dict[int, Route]:
            search = Search(Routes(folds.examples, folds.schedule, rule, keep), width, thorough)
            return dict(zip(calls, search.best(calls), strict=True))

        return lambda n: to_plan(found()[n], STEPS)

    two_taps = searched(fitted(2), 2)

    def reusing(n: int) -> Plan:
        plan = two_taps(n)
        return Plan(STEPS, plan.evaluated, plan.taps, tuple(index % 2 == 0 for index in range(n)))

    return {
        "DDIM, fewer steps": lambda n: _ddim(folds, n),
        "even steps, held": lambda n: Plan(STEPS, even(n)),
        PUBLISHED: lambda n: Plan(STEPS, TEN) if n == len(TEN) else None,
        "DPM-Solver++ 2M": lambda n: _solver(folds, "DPMSolverMultistepScheduler", n),
        "UniPC": lambda n: _solver(folds, "UniPCMultistepScheduler", n),
        "searched, held": searched(hold, 1),
        "searched, linear": searched(linear(folds.schedule), 2),
        "searched, one tap": searched(fitted(1), 1),
        TWO_TAPS: two_taps,
        "searched, three taps": searched(fitted(3), 3),
        REUSING: reusing,
    }


def _ddim(folds: Folds, calls: int) -> Tensor | None:
    """DDIM with fewer steps, as `ddim_steps` gives it; None where there is no such count."""
    try:
        steps = len(ddim_timesteps(calls))
    except ValueError:
        return None
    return folds.report.draw(make_plan("all", calls), calls) if steps == calls else None


def _solver(folds: Folds, scheduler: str, calls: int) -> Tensor:
    """A scheduler of the diffusers library, as it is usually set up for Stable Diffusion."""
    import diffusers  # only here: the rest needs none

    schedule = load_architecture(folds.checkpoint.architecture).schedule
    made = getattr(diffusers, scheduler)(
        num_train_timesteps=schedule.steps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    made.set_timesteps(calls)
    x: Tensor = folds.report.starts
    for timestep in made.timesteps:
        x = made.step(folds.report(x, int(timestep)), timestep, x).prev_sample
    return x
