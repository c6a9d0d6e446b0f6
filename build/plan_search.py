"""Finds a plan: which steps call the network, and the taps that stand for the eps in between.

The aim is the latent of the run that evaluates every step, not the solution of the differential equation behind it.
Taps are fitted closed loop: from where the plan itself has come to, towards where the whole run is at the next
evaluation. They are fitted on some examples, and others judge the plan. A beam of the best beginnings finds the steps
for all numbers of evaluations in one pass, and trying neighbours of each step betters them.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from cldm.plan import LARGEST_TAP, Plan
from ldm.diffusion import Floats, ddim_timesteps

RIDGE = 1e-2  # towards holding eps, of the mean square of the eps of one example
ROUNDS = 3  # of weighing the examples anew
FLOOR = 1e-6  # of the square of eps: nearer than this counts no more
END = -1  # the index behind the last step
KEPT = 512  # beginnings of routes

Network = Callable[[Tensor, int], Tensor]  # latents of all examples [m, ...] and step index -> eps after guidance
Taps = tuple[float, ...]
# Steps evaluated until now, index to go to, eps newest first, and the eps that would lead to the whole run's latent;
# both of the examples that taps are fitted on.
Rule = Callable[[Sequence[int], int, Sequence[Tensor], Tensor], Taps]


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


def hold(evaluated: Sequence[int], end: int, eps: Sequence[Tensor], target: Tensor) -> Taps:
    """The seed's rule: the last eps as it is."""
    return (1.0,)


def linear(schedule: Schedule, gamma: float = 0.7) -> Rule:
    """eps goes on as between the last two evaluations, linear in -log sigma, damped by gamma."""

    def rule(evaluated: Sequence[int], end: int, eps: Sequence[Tensor], target: Tensor) -> Taps:
        if len(evaluated) == 1:
            return 1.0, 0.0
        start, before = evaluated[-1], evaluated[-2]
        log = {index: -float(np.log(schedule.sigma(index))) for index in (before, *range(start, end, -1))}
        whole = schedule.sigma(end) - schedule.sigma(start)
        back = -gamma * sum(
            (schedule.sigma(index - 1) - schedule.sigma(index))
            / whole
            * (log[index] - log[start])
            / (log[start] - log[before])
            for index in range(start, end, -1)
        )
        return 1 - back, back

    return rule


def fitted(taps: int) -> Rule:
    """The weights on the last eps that come nearest to the whole run, with as much ridge as keeps them in bounds.

    Nearest in the mean log distance, so that every example counts for as much, however far it is.
    """

    def rule(evaluated: Sequence[int], end: int, eps: Sequence[Tensor], target: Tensor) -> Taps:
        known = torch.stack([one.flatten(1).double() for one in eps[:taps]])  # [taps, m, values]
        wanted = target.flatten(1).double()
        if not (known.isfinite().all() and wanted.isfinite().all()):
            raise ValueError(f"the network gave values that are not finite before step {evaluated[-1]}; try fp32")
        floor = FLOOR * known[0].square().sum(dim=1)
        found = np.eye(len(known))[0]
        for _ in range(ROUNDS):
            apart = wanted - torch.einsum("a,amd->md", torch.from_numpy(found).to(known), known)
            weights = 1 / (apart.square().sum(dim=1) + floor)
            gram = torch.einsum("amd,m,bmd->ab", known, weights, known).cpu().numpy()
            moment = torch.einsum("amd,m,md->a", known, weights, wanted).cpu().numpy()
            found = _bounded(gram, moment, RIDGE / len(wanted))
        return (*found.tolist(), *[0.0] * (taps - len(known)))

    return rule


def _bounded(gram: Floats, moment: Floats, share: float) -> Floats:
    unit = np.eye(len(gram))
    ridge = share * float(gram.diagonal().mean())
    while True:
        weights = np.linalg.solve(gram + ridge * unit, moment + ridge * unit[0])
        if float(np.abs(weights).max()) <= LARGEST_TAP:
            return weights
        ridge *= 10


def distances(latents: Tensor, others: Tensor) -> list[float]:
    """Of each latent from its other: root of the mean square."""
    apart: list[float] = (latents - others).double().flatten(1).square().mean(dim=1).sqrt().tolist()
    return apart


def geometric_mean(errors: Sequence[float]) -> float:
    with np.errstate(divide="ignore"):  # one that is exact makes it 0
        return float(np.exp(np.mean(np.log(errors))))


def beam_search(
    routes: Routes, most: int, width: int, tell: Callable[[], object] = lambda: None
) -> dict[int, list[Route]]:
    """The best whole routes found for each number of evaluations up to `most`, at most `width` of each, best first.

    tell: is called after every evaluation of the network.
    """
    ahead: list[tuple[int, ...]] = [(routes.schedule.steps - 1,)]
    complete: dict[int, list[Route]] = {}
    for calls in range(1, most + 1):
        reached: dict[int, list[Route]] = {}
        for evaluated in ahead:
            for end in range(END, evaluated[-1]):
                reached.setdefault(end, []).append(routes.go(evaluated, end))
            tell()
        best = {end: sorted(found, key=routes.error)[:width] for end, found in reached.items()}
        complete[calls] = best.pop(END)
        ahead = [(*route.evaluated, end) for end, found in best.items() for route in found]
    return complete


def evaluations_of_a_beam(steps: int, most: int, width: int) -> int:
    """How often `beam_search` calls `tell`, if every index is reached by `width` routes; a bit less in truth."""
    return 1 + width * sum(steps - calls for calls in range(1, most))


def eliminate(
    steps: int, least: int, score: Callable[[Sequence[int]], float], tell: Callable[[], object] = lambda: None
) -> dict[int, tuple[int, ...]]:
    """From all steps down to `least`, each time without the one whose loss costs the least; lists by their length.

    Slower than a beam, but it judges by the end: what is near the whole run half-way may yet end elsewhere.
    """
    left = tuple(range(steps))[::-1]
    found = {steps: left}
    while len(left) > least:
        scores = {}
        for place in range(1, len(left)):
            without = (*left[:place], *left[place + 1 :])
            scores[without] = score(without)
            tell()
        left = min(scores, key=lambda one: scores[one])
        found[len(left)] = left
    return found


def climb(
    evaluated: Sequence[int], score: Callable[[Sequence[int]], float], tell: Callable[[], object] = lambda: None
) -> tuple[int, ...]:
    """Move one step after another by one or two while the score, less is better, gets better."""
    best, value = tuple(evaluated), score(evaluated)
    while True:
        before = best
        for neighbour in _neighbours(before):
            tell()
            if (found := score(neighbour)) < value:
                best, value = neighbour, found
        if best == before:
            return best


def to_plan(route: Route, steps: int) -> Plan:
    """The route's steps and taps; the taps are left out where eps is held."""
    held = all(row == (1.0,) for row in route.taps)
    return Plan(steps, route.evaluated, () if held else route.taps)


def _neighbours(evaluated: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
    """Each step but the first moved by one or two, where that leaves them in order."""
    for place in range(1, len(evaluated)):
        for move in (-2, -1, 1, 2):
            moved = (*evaluated[:place], evaluated[place] + move, *evaluated[place + 1 :])
            if moved[-1] >= 0 and all(before > after for before, after in pairwise(moved)):
                yield moved
