"""Runs plans on examples: computes the latents along the evaluated steps and fits the taps on the way.

The target is the latent of the run that evaluates every step (the whole run), not the exact solution of the
differential equation. Taps are fitted closed-loop: from the latent that the plan itself has reached, towards the whole
run's latent at the next evaluation. Some examples are used to fit the taps, the others to judge the plan.
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

END = -1  # the index after the last step
KEPT = 512  # cached beginnings of routes

Network = Callable[[Tensor, int], Tensor]  # latents of all examples [m, ...], step index -> eps after guidance


@dataclass(frozen=True)
class Schedule:
    """Returns (a, w) of x[end] = a x[start] + w eps, which equals the DDIM steps in between with a constant eps."""

    alphas: Mapping[int, float]  # signal power, by step index and at END

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
    """A batch of requests: their network, and the whole run's latents before every step and, at END, after the last.

    fitted: taps are fitted on the first `fitted` examples; the others judge the plan.
    """

    network: Network
    whole: Mapping[int, Tensor]  # [m, ...] by step index and at END
    fitted: int


@dataclass(frozen=True)
class Route:
    """The beginning of a plan: the index and the latents it has reached, and the steps and taps that led there."""

    at: int
    x: Tensor
    evaluated: tuple[int, ...] = ()
    taps: tuple[Taps, ...] = ()
    eps: tuple[Tensor, ...] = ()  # newest first


class Routes:
    """Computes routes whose taps `rule` fits on the last `keep` eps. Caches the most recently used beginnings."""

    def __init__(self, examples: Examples, schedule: Schedule, rule: Rule, keep: int) -> None:
        self.examples, self.schedule, self.rule, self.keep = examples, schedule, rule, keep
        self.known: OrderedDict[tuple[int, ...], Route] = OrderedDict()  # least recently used first

    def go(self, evaluated: Sequence[int], end: int = END) -> Route:
        """Return the route that evaluates these steps and continues to `end`. The first must be step `steps - 1`."""
        route, fitted = self._evaluated(tuple(evaluated)), self.examples.fitted
        a, w = self.schedule(route.at, end)
        target = (self.examples.whole[end] - a * route.x) / w
        taps = self.rule(route.evaluated, end, [eps[:fitted] for eps in route.eps], target[:fitted])
        mixed = torch.stack([tap * eps for tap, eps in zip(taps, route.eps, strict=False)]).sum(dim=0)
        return replace(route, at=end, x=a * route.x + w * mixed, taps=(*route.taps, taps))

    def error(self, route: Route) -> float:
        """Return the geometric mean of the root mean square distances from the whole run, over the judging examples."""
        fitted = self.examples.fitted
        return geometric_mean(distances(route.x[fitted:], self.examples.whole[route.at][fitted:]))

    def _evaluated(self, evaluated: tuple[int, ...]) -> Route:
        """Return the route up to the last of these steps, including its eps."""
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
    """Return the root mean square difference between each latent and its counterpart."""
    apart: list[float] = (latents - others).double().flatten(1).square().mean(dim=1).sqrt().tolist()
    return apart


def geometric_mean(errors: Sequence[float]) -> float:
    with np.errstate(divide="ignore"):  # an error of 0 makes the mean 0
        return float(np.exp(np.mean(np.log(errors))))


def to_plan(route: Route, steps: int) -> Plan:
    """Return the plan with the route's steps and taps. Taps are omitted if eps is held throughout."""
    held = all(row == (1.0,) for row in route.taps)
    return Plan(steps, route.evaluated, () if held else route.taps)
