"""The search for plans, with a known function as the network: routes, beam search, elimination, climbing."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.config import load_architecture
from ldm.diffusion import alphas_cumprod
from plans.plan import TEN, Plan, evaluations
from plans.routes import END, Examples, Route, Routes, Schedule, distances, make_schedule, to_plan
from plans.search import beam_search, climb, eliminate, evaluations_of_a_beam
from plans.taps import Rule, fitted, hold

ABAR = alphas_cumprod(load_architecture("sd15").schedule)
ALL = tuple(range(20))[::-1]


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    return make_schedule(ABAR, 20)


def network(x: Tensor, step: int) -> Tensor:
    """Return eps for data around 2 or -2 with some spread, plus a wave, so that eps is far from constant."""
    power = torch.tensor(ABAR[1 + 50 * step])
    spread = 0.05 * power + 1 - power
    centre = 2 * power.sqrt() * torch.tanh(2 * power.sqrt() * x / spread)
    return (1 - power).sqrt() * (x - centre) / spread + 0.1 * torch.sin(2 * x + step)


@pytest.fixture(scope="module")
def examples(schedule: Schedule) -> Examples:
    """Return eight examples: four to fit taps on, and four to judge plans by."""
    x = torch.randn(8, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = {19: x}
    for index in ALL:
        a, w = schedule(index, index - 1)
        whole[index - 1] = a * whole[index] + w * network(whole[index], index)
    return Examples(network, whole, fitted=4)


@pytest.fixture(scope="module")
def go(examples: Examples, schedule: Schedule) -> Callable[..., Route]:
    return lambda evaluated, rule, keep: Routes(examples, schedule, rule, keep).go(evaluated)


@pytest.mark.parametrize("evaluated", [ALL, TEN, (19, 0), (19,)])
def test_route_with_held_eps_matches_the_pipeline_updates(
    evaluated: tuple[int, ...], examples: Examples, go: Callable[..., Route]
) -> None:
    route = go(evaluated, hold, 1)
    x = examples.whole[19]
    for index, step in zip(evaluated, evaluations(Plan(20, evaluated), ABAR, 20), strict=True):
        x = step.a * x + step.weights[0] * network(x, index)
    torch.testing.assert_close(route.x, x, rtol=0, atol=1e-12)
    if evaluated == ALL:
        assert max(distances(route.x, examples.whole[END])) < 1e-12


def test_route_with_taps_matches_the_pipeline_updates(examples: Examples, go: Callable[..., Route]) -> None:
    route = go(TEN, fitted(3), 3)
    x, known = examples.whole[19], list[Tensor]()
    for index, step in zip(TEN, evaluations(to_plan(route, 20), ABAR, 20), strict=True):
        known = [network(x, index), *known][:3]
        x = step.a * x + sum(w * eps for w, eps in zip(step.weights, known, strict=False))
    torch.testing.assert_close(route.x, x, rtol=0, atol=1e-12)


def test_shared_start_of_routes_is_computed_once(examples: Examples, schedule: Schedule) -> None:
    asked: list[int] = []

    def counted(x: Tensor, step: int) -> Tensor:
        asked.append(step)
        return network(x, step)

    routes = Routes(Examples(counted, examples.whole, 4), schedule, fitted(2), 2)
    routes.go((19, 15, 9, 4))
    assert asked == [19, 15, 9, 4]
    other = routes.go((19, 15, 7))
    assert asked[4:] == [7]
    alone = Routes(examples, schedule, fitted(2), 2).go((19, 15, 7))
    assert torch.equal(other.x, alone.x)
    assert other.taps == alone.taps


def test_taps_are_fitted_on_the_first_examples_and_judged_on_the_others(examples: Examples, schedule: Schedule) -> None:
    def changed(part: slice) -> Route:
        whole = {index: x.clone() for index, x in examples.whole.items()}
        for x in whole.values():
            x[part] = x[part].flip(1) * 0.9
        return Routes(Examples(network, whole, 4), schedule, fitted(2), 2).go(TEN)

    routes = Routes(examples, schedule, fitted(2), 2)
    usual = routes.go(TEN)
    assert changed(slice(4, 8)).taps == usual.taps
    assert changed(slice(0, 4)).taps != usual.taps
    judged = distances(usual.x[4:], examples.whole[END][4:])
    assert routes.error(usual) == pytest.approx(float(np.prod(judged)) ** (1 / 4))


def test_beam_search_improves_the_steps_and_taps_improve_them_further(examples: Examples, schedule: Schedule) -> None:
    told: list[int] = []
    holding, mixing = Routes(examples, schedule, hold, 1), Routes(examples, schedule, fitted(2), 2)
    held = beam_search(holding, most=10, width=3, tell=lambda: told.append(1))
    assert len(told) <= evaluations_of_a_beam(20, 10, 3)
    assert held.keys() == set(range(1, 11))
    two = beam_search(mixing, most=10, width=3)
    published, searched, with_taps = (
        routes.error(route)
        for routes, route in ((holding, holding.go(TEN)), (holding, held[10][0]), (mixing, two[10][0]))
    )
    assert searched < 0.7 * published
    assert with_taps < 0.6 * searched
    falling = [mixing.error(two[calls][0]) for calls in (2, 4, 6, 8, 10)]
    assert all(more < less for less, more in pairwise(falling))
    for calls, routes in two.items():
        assert [len(route.evaluated) for route in routes] == [calls] * len(routes)
        assert to_plan(routes[0], 20).evaluated[0] == 19
        assert routes[0].at == END


@pytest.mark.parametrize(("rule", "keep"), [(hold, 1), (fitted(2), 2)])
def test_elimination_keeps_the_most_useful_steps(examples: Examples, schedule: Schedule, rule: Rule, keep: int) -> None:
    worth = {19: 0.0, 18: 9.0, 17: 1.0, 11: 5.0, 3: 7.0}
    found = eliminate(20, 4, lambda steps: -sum(worth.get(step, 0.5) for step in steps))
    assert found[4] == (19, 18, 11, 3)
    assert found[5] == (19, 18, 17, 11, 3)
    assert found[20] == ALL
    routes = Routes(examples, schedule, rule, keep)
    lists = eliminate(20, 8, lambda steps: routes.error(routes.go(steps)))
    assert routes.error(routes.go(lists[10])) < 0.7 * routes.error(routes.go(TEN))


def test_climbing_ends_when_no_neighbour_is_better() -> None:
    goal = (19, 15, 9, 4, 0)
    tries: list[int] = []
    found = climb(
        (19, 18, 17, 3, 1),
        lambda steps: sum((a - b) ** 2 for a, b in zip(steps, goal, strict=True)),
        lambda: tries.append(1),
    )
    assert found == goal
    assert len(tries) > 10


def test_held_eps_needs_no_taps(go: Callable[..., Route]) -> None:
    assert to_plan(go(TEN, hold, 1), 20) == Plan(20, TEN)
