"""Defines plans: which DDIM steps call the network, and the linear update after each call.

DDIM performs `steps` updates of x, each linear in x, eps and fresh noise z. A plan evaluates eps only at some of these
steps. From one evaluation up to the next, every update uses the same mix of the last eps, weighted by the plan's taps.
These updates therefore combine into one linear map, whose coefficients are computed beforehand in float64:

    x = a x + w[0] eps_now + w[1] eps_before + ... + sum of n[j] z_j

With eta = 0 and a single tap of 1, this is plain DDIM over the evaluated timesteps alone.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from ldm.diffusion import Floats, ddim_alphas, ddim_sigmas, ddim_timesteps
from reading import shown

STEPS = 20  # DDIM updates per picture in the contest; plans are made for this number
# The steps evaluated by the entry that won second place in the contest; index 19 is the noisiest step.
TEN = (19, 18, 17, 16, 15, 14, 13, 11, 8, 4)
MOST_STEPS = 1000  # the noise schedule has no more
INDICES = re.compile(r"\s*[0-9]{1,4}\s*(,\s*[0-9]{1,4}\s*)*")
LARGEST_TAP = 3.0  # larger taps would amplify errors of eps from step to step


@dataclass(frozen=True)
class Plan:
    """The steps that call the network, and the taps. Raise TypeError or ValueError for an invalid plan.

    evaluated: indices of the steps that call the network, descending from steps - 1.
    taps: one row per evaluation, with the weights on its own eps and on the eps of earlier evaluations, newest first.
        Empty: the last eps is held.
    """

    steps: int
    evaluated: tuple[int, ...]
    taps: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        self._check_types()
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(
                f"plan {shown([*self.evaluated])}: steps: got {shown(self.steps)}, expected 1 to {MOST_STEPS}"
            )
        falls = all(before > after for before, after in pairwise(self.evaluated))
        if not self.evaluated or self.evaluated[0] != self.steps - 1 or self.evaluated[-1] < 0 or not falls:
            raise ValueError(
                f"plan {shown([*self.evaluated])}: expected step indices that descend from {self.steps - 1} "
                f"(the first of {self.steps} steps always calls the network) and end at 0 or above"
            )
        calls = len(self.evaluated)
        if self.taps and (len(self.taps) != calls or len({len(row) for row in self.taps}) != 1 or not self.taps[0]):
            raise ValueError(
                f"taps with row lengths {shown([len(row) for row in self.taps])}: expected {calls} rows of equal "
                f"length, 1 or more, for {calls} evaluations"
            )
        for index, row in enumerate(self.taps):
            if not all(abs(tap) <= LARGEST_TAP for tap in row) or any(row[index + 1 :]):
                raise ValueError(
                    f"taps {shown([*row])} of evaluation {index}: expected numbers from {-LARGEST_TAP:g} to "
                    f"{LARGEST_TAP:g}, and 0 where there is no earlier evaluation"
                )

    def _check_types(self) -> None:
        if type(self.steps) is not int:
            raise TypeError(f"steps: got {shown(self.steps)}, expected a whole number")
        if not _holds(self.evaluated, int):
            raise TypeError(f"evaluated: got {shown(self.evaluated)}, expected a tuple of whole numbers")
        if not isinstance(self.taps, tuple) or not all(_holds(row, int, float) for row in self.taps):
            raise TypeError(f"taps: got {shown(self.taps)}, expected a tuple of tuples of numbers")

    @property
    def mixed(self) -> int:
        """The number of eps that each update mixes."""
        return len(self.taps[0]) if self.taps else 1


@dataclass(frozen=True)
class Evaluation:
    """One call of the network at `timestep`, and the update after it."""

    timestep: int
    a: float  # on x
    weights: tuple[float, ...]  # on eps, newest first
    noise: tuple[float, ...]  # weights on the noise draws up to the next evaluation, in the order of drawing


def make_plan(choice: str, ddim_steps: int) -> Plan:
    """Return the plan called `choice`: "all", "ten", or step indices such as "19,17,14,11,8,4".

    "ten" is for 20 steps; with any other number it evaluates every step. Raise ValueError for any other `choice`.
    """
    steps = len(ddim_timesteps(ddim_steps))
    if choice == "all" or (choice == "ten" and steps != STEPS):
        return Plan(steps, tuple(range(steps))[::-1])
    return Plan(steps, TEN if choice == "ten" else _indices(choice))


def usual_steps(choice: str) -> int:
    """Return the ddim_steps that the plan is intended for: 20 for "all" and "ten". Raise ValueError if none fits."""
    if choice in ("all", "ten"):
        return STEPS
    indices = _indices(choice)
    Plan(indices[0] + 1, indices)
    for ddim_steps in (indices[0] + 1, *range(1, 1000)):
        with suppress(ValueError):  # the last timestep would be outside the schedule
            if len(ddim_timesteps(ddim_steps)) == indices[0] + 1:
                return ddim_steps
    raise ValueError(f"plan {shown(choice)}: no ddim_steps gives {indices[0] + 1} steps")


def _indices(choice: str) -> tuple[int, ...]:
    if not INDICES.fullmatch(choice):
        raise ValueError(
            f"plan {shown(choice)}: expected all, ten, auto, a plan file such as 8, or step indices such as "
            "19,17,14,11,8,4"
        )
    return tuple(map(int, choice.split(",")))


def _holds(values: object, *kinds: type) -> bool:
    """Return whether `values` is a tuple of these kinds; True and False are no numbers."""
    return isinstance(values, tuple) and all(isinstance(v, kinds) and not isinstance(v, bool) for v in values)


def evaluations(plan: Plan, abar: Floats, ddim_steps: int, eta: float = 0.0) -> tuple[Evaluation, ...]:
    """Return the plan's evaluations with the coefficients of their updates, in order of execution.

    abar: alphas_cumprod [1000]. eta: 0 is deterministic, 1 is as noisy as DDPM.
    """
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
