"""Which of DDIM's steps call the network, and the linear update that follows each call.

DDIM makes `steps` updates of x, all linear in x, eps and fresh noise z. A plan evaluates eps on some of them only, and
takes for the others a fixed mix of the last ones, its taps. So the updates between two evaluations are one linear map,
and a plan is a tuple of evaluations, each with its numbers computed beforehand in float64:

    x = a x + w[0] eps_now + w[1] eps_before + ... + sum of n[j] z_j

With eta = 0 and one tap of 1, that is plain DDIM over the evaluated timesteps alone.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from ldm.diffusion import Floats, ddim_alphas, ddim_sigmas, ddim_timesteps

STEPS = 20  # DDIM updates of a picture in the contest, for which plans are made
# The evaluations of such a run that won the contest's second place; index 19 is the noisiest step.
TEN = (19, 18, 17, 16, 15, 14, 13, 11, 8, 4)
LARGEST_TAP = 3.0  # beyond it errors of eps would grow from step to step


@dataclass(frozen=True)
class Plan:
    """Raises ValueError for what cannot be a plan.

    evaluated: indices of the steps that call the network, falling from steps - 1.
    taps: for each of them, the weights on the eps of this and of the evaluations before, newest first, in the place of
        one held eps; none: eps is held.
    """

    steps: int
    evaluated: tuple[int, ...]
    taps: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        falls = all(before > after for before, after in pairwise(self.evaluated))
        if not self.evaluated or self.evaluated[0] != self.steps - 1 or self.evaluated[-1] < 0 or not falls:
            raise ValueError(
                f"plan {list(self.evaluated)}: expected step indices that fall from {self.steps - 1} "
                f"(the first of {self.steps} steps always calls the network) and end at 0 or above"
            )
        calls = len(self.evaluated)
        if self.taps and (len(self.taps) != calls or len({len(row) for row in self.taps}) != 1 or not self.taps[0]):
            raise ValueError(
                f"taps {[len(row) for row in self.taps]}: expected {calls} rows of one length, 1 or more, for "
                f"{calls} evaluations"
            )
        for index, row in enumerate(self.taps):
            if not all(math.isfinite(tap) and abs(tap) <= LARGEST_TAP for tap in row) or any(row[index + 1 :]):
                raise ValueError(
                    f"taps {list(row)} of evaluation {index}: expected numbers from {-LARGEST_TAP:g} to "
                    f"{LARGEST_TAP:g}, and 0 for evaluations before the first"
                )

    @property
    def mixed(self) -> int:
        """So many eps are mixed in an update."""
        return len(self.taps[0]) if self.taps else 1


@dataclass(frozen=True)
class Evaluation:
    """One call of the network at `timestep`, and the update after it."""

    timestep: int
    a: float
    weights: tuple[float, ...]  # on eps, newest first
    noise: tuple[float, ...]  # on the draws of the steps up to the next evaluation, in the order of drawing


def make_plan(choice: str, ddim_steps: int) -> Plan:
    """The plan called `choice`: "all", "ten" or step indices as in "19,17,14,11,8,4".

    "ten" is made for 20 steps; any other count evaluates every step. Raises ValueError for anything else.
    """
    steps = len(ddim_timesteps(ddim_steps))
    if choice == "all" or (choice == "ten" and steps != STEPS):
        return Plan(steps, tuple(range(steps))[::-1])
    return Plan(steps, TEN if choice == "ten" else _indices(choice))


def usual_steps(choice: str) -> int:
    """The ddim_steps that the plan is made for; 20 if it says nothing. Raises ValueError if there are none."""
    if choice in ("all", "ten"):
        return STEPS
    indices = _indices(choice)
    Plan(indices[0] + 1, indices)
    for ddim_steps in (indices[0] + 1, *range(1, 1000)):
        with suppress(ValueError):  # counts that leave the schedule
            if len(ddim_timesteps(ddim_steps)) == indices[0] + 1:
                return ddim_steps
    raise ValueError(f"plan {choice!r}: no ddim_steps makes {indices[0] + 1} steps")


def _indices(choice: str) -> tuple[int, ...]:
    try:
        return tuple(int(index) for index in choice.split(","))
    except ValueError:
        raise ValueError(f"plan {choice!r}: expected all, ten or step indices as 19,17,14,11,8,4") from None


def evaluations(plan: Plan, abar: Floats, ddim_steps: int, eta: float = 0.0) -> tuple[Evaluation, ...]:
    """The plan in numbers. `abar`: alphas_cumprod, [1000]; `eta`: 0 deterministic, 1 as noisy as DDPM."""
    timesteps = ddim_timesteps(ddim_steps)
    now, after = ddim_alphas(abar, timesteps)
    sigmas = ddim_sigmas(now, after, eta)
    # One step of DDIM as x = scale x + slope eps + sigma z.
    scale = (after / now) ** 0.5
    slope = (1 - after - sigmas**2) ** 0.5 - scale * (1 - now) ** 0.5
    result = []
    rows = plan.taps or [(1.0,)] * len(plan.evaluated)
    for first, following, taps in zip(plan.evaluated, (*plan.evaluated[1:], -1), rows, strict=True):
        a, w = 1.0, 0.0
        noise: list[float] = []
        for step in range(first, following, -1):
            a, w = scale[step] * a, scale[step] * w + slope[step]
            noise = [scale[step] * n for n in noise] + [sigmas[step]]
        weights = tuple(float(w) * tap for tap in taps)
        result.append(Evaluation(timesteps[first], float(a), weights, tuple(map(float, noise))))
    return tuple(result)
