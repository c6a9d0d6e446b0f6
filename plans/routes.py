"""Where a plan leads: the latents of examples along evaluated steps, with taps fitted on the way.

The aim is the latent of the run that evaluates every step, not the solution of the differential equation behind it.
Taps are fitted closed loop: from where the plan itself has come to, towards where the whole run is at the next
evaluation. They are fitted on some examples, and others judge the plan.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ldm.diffusion import Floats, ddim_timesteps
from plans.plan import Plan
from plans.taps import Rule, Taps

END = -1  # the index behind the last step
KEPT = 512  # beginnings of routes

Network = Callable[[Tensor, int], Tensor]  # latents of all examples [m, ...] and step index -> eps after guidance


@dataclass(frozen=True)
class Schedule:
    """x at one index from x at another with a constant eps: x[to] = a x[from] + w eps, exactly DDIM's steps between."""

    alphas: Mapping[int, float]  # signal power, by index

    @property
    def steps(self) -> int:
        return len(self.alphas) - 1

    def __call__(self, start: int, end: int) -> tuple[float, float]:
        now, after = self.alphas[start], self.alphas[end]
        return (after / now) ** 0.5, after**0.5 * (self.sigma(end) - self.sigma(start))

    def sigma(self, index: int) -> float:
        return ((1 - self.alphas[index]) / self.alphas[index]) ** 0.5


@dataclass(frozen=True)
class Examples:
    """Requests with their network, and the whole run's latent of each before every step and, under END, after all.

    fitted: so many, the first, are those that taps are fitted on; the others judge.
    """

    network: Network
    whole: Mapping[int, Tensor]  # [m, ...] by index
    fitted: int


@dataclass(frozen=True)
class Route:
    """A plan's beginning: where it is, and how it came there."""

    at: int
    x: Tensor
    evaluated: tuple[int, ...] = ()
    taps: tuple[Taps, ...] = ()
    eps: tuple[Tensor, ...] = ()  # newest first


class Routes:
    """All routes by one rule, which looks at the last `keep` eps. What several share is computed once."""

    def __init__(self, examples: Examples, schedule: Schedule, rule: Rule, keep: int) -> None:
        self.examples, self.schedule, self.rule, self.keep = examples, schedule, rule, keep
        self.known: OrderedDict[tuple[int, ...], Route] = OrderedDict()  # the one used last comes last

    def go(self, evaluated: Sequence[int], end: int = END) -> Route:
        """Evaluated at these steps, which begin with the first of all, and from the last of them to another index."""
        route, fitted = self._evaluated(tuple(evaluated)), self.examples.fitted
        a, w = self.schedule(route.at, end)
        target = (self.examples.whole[end] - a * route.x) / w
        taps = self.rule(route.evaluated, end, [eps[:fitted] for eps in route.eps], target[:fitted])
        mixed = torch.stack([tap * eps for tap, eps in zip(taps, route.eps, strict=False)]).sum(dim=0)
        return replace(route, at=end, x=a * route.x + w * mixed, taps=(*route.taps, taps))

    def error(self, route: Route) -> float:
        """How far the judging examples are from the whole run: geometric mean of the root of the mean square."""
        fitted = self.examples.fitted
        return geometric_mean(distances(route.x[fitted:], self.examples.whole[route.at][fitted:]))

    def _evaluated(self, evaluated: tuple[int, ...]) -> Route:
        """With the eps of the last of these steps."""
        if evaluated not in self.known:
            *before, at = evaluated
            route = self.go(before, at) if before else Route(at, self.examples.whole[at])
            eps = (self.examples.network(route.x, at), *route.eps)[: self.keep]
            self.known[evaluated] = replace(route, evaluated=evaluated, eps=eps)
            if len(self.known) > KEPT:
                self.known.popitem(last=False)
        self.known.move_to_end(evaluated)
        return self.known[evaluated]


def make_schedule(abar: Floats, ddim_steps: int) -> Schedule:
    timesteps = ddim_timesteps(ddim_steps)
    return Schedule({END: float(abar[0]), **{index: float(abar[t]) for index, t in enumerate(timesteps)}})


def distances(latents: Tensor, others: Tensor) -> list[float]:
    """Of each latent from its other: root of the mean square."""
    apart: list[float] = (latents - others).double().flatten(1).square().mean(dim=1).sqrt().tolist()
    return apart


def geometric_mean(errors: Sequence[float]) -> float:
    with np.errstate(divide="ignore"):  # one that is exact makes it 0
        return float(np.exp(np.mean(np.log(errors))))


def to_plan(route: Route, steps: int) -> Plan:
    """The route's steps and taps; the taps are left out where eps is held."""
    held = all(row == (1.0,) for row in route.taps)
    return Plan(steps, route.evaluated, () if held else route.taps)
