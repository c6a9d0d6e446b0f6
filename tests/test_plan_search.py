"""The search for plans, on a small network that is a known function: taps, beam, neighbours."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from build.plan_search import (
    END,
    Examples,
    Schedule,
    beam_search,
    climb,
    eliminate,
    evaluations_of_a_beam,
    final_errors,
    fitted,
    follow,
    geometric_mean,
    given,
    hold,
    linear,
    make_schedule,
    to_plan,
)
from cldm.plan import LARGEST_TAP, TEN, Plan, evaluations
from ldm.config import load_architecture
from ldm.diffusion import alphas_cumprod

ABAR = alphas_cumprod(load_architecture("sd15").schedule)
ALL = tuple(range(20))[::-1]


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    return make_schedule(ABAR, 20)


def network(x: Tensor, step: int) -> Tensor:
    """The eps of data that are 2 or -2 with some spread, times a wave: far from constant."""
    power = torch.tensor(ABAR[1 + 50 * step])
    spread = 0.05 * power + 1 - power
    centre = 2 * power.sqrt() * torch.tanh(2 * power.sqrt() * x / spread)
    return (1 - power).sqrt() * (x - centre) / spread + 0.1 * torch.sin(2 * x + step)


def examples(seed: int, schedule: Schedule) -> Examples:
    x = torch.randn(4, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    whole = {19: x}
    for index in ALL:
        a, w = schedule(index, index - 1)
        whole[index - 1] = a * whole[index] + w * network(whole[index], index)
    return Examples(network, whole)


@pytest.mark.parametrize("evaluated", [ALL, TEN, (19, 0), (19,)])
def test_holding_along_a_path_is_what_the_pipeline_computes(evaluated: tuple[int, ...], schedule: Schedule) -> None:
    some = examples(0, schedule)
    path = follow(evaluated, some, schedule, hold, 1)
    x = some.whole[19]
    for index, step in zip(evaluated, evaluations(Plan(20, evaluated), ABAR, 20), strict=True):
        x = step.a * x + step.weights[0] * network(x, index)
    torch.testing.assert_close(path.x, x, rtol=0, atol=1e-12)
    if evaluated == ALL:
        assert max(final_errors(path, some)) < 1e-12


def test_taps_along_a_path_are_what_the_pipeline_computes(schedule: Schedule) -> None:
    some = examples(0, schedule)
    path = follow(TEN, some, schedule, fitted(3), 3)
    plan = to_plan(path, 20)
    x, known = some.whole[19], list[Tensor]()
    for index, step in zip(TEN, evaluations(plan, ABAR, 20), strict=True):
        known = [network(x, index), *known][:3]
        x = step.a * x + sum(w * eps for w, eps in zip(step.weights, known, strict=False))
    torch.testing.assert_close(path.x, x, rtol=0, atol=1e-12)
    again = follow(TEN, some, schedule, given(plan.taps), 3)
    assert torch.equal(again.x, path.x)


def test_fitted_taps_are_those_that_made_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    eps = [torch.randn(4, 1000, dtype=torch.float64, generator=generator) for _ in range(2)]
    taps = fitted(2)((19, 15), 9, eps, 1.3 * eps[0] - 0.3 * eps[1])
    np.testing.assert_allclose(taps, (1.3, -0.3), atol=2e-3)  # the ridge pulls a little
    assert fitted(2)((19,), 15, eps[:1], 1.3 * eps[0])[1] == 0.0, "there is none before the first"
    wild = fitted(2)((19, 15), 9, [eps[0], eps[0] + 1e-6 * eps[1]], 50 * eps[1])
    assert max(map(abs, wild)) <= LARGEST_TAP


def test_linear_taps_are_exact_where_eps_is_linear(schedule: Schedule) -> None:
    """Between two evaluations the rule takes eps as linear in -log sigma: then it knows the sum of all steps."""
    values = {index: 2.0 - 0.5 * np.log(schedule.sigma(index)) for index in range(20)}
    start, before, end = 14, 17, 9
    wanted = sum(values[i] * (schedule.sigma(i - 1) - schedule.sigma(i)) for i in range(start, end, -1))
    now, back = linear(schedule, gamma=1.0)((19, before, start), end, [], torch.zeros(1))
    got = (now * values[start] + back * values[before]) * (schedule.sigma(end) - schedule.sigma(start))
    assert got == pytest.approx(wanted)
    assert linear(schedule)((19,), 15, [], torch.zeros(1)) == (1.0, 0.0)


def test_a_beam_finds_better_steps_and_taps_make_them_better(schedule: Schedule) -> None:
    some, others = examples(0, schedule), examples(1, schedule)
    told: list[int] = []
    held = beam_search(some, schedule, hold, 1, most=10, width=3, tell=lambda: told.append(1))
    assert len(told) <= evaluations_of_a_beam(20, 10, 3)
    assert held.keys() == set(range(1, 11))
    two = beam_search(some, schedule, fitted(2), 2, most=10, width=3)

    def error(path_taps: tuple[tuple[float, ...], ...], evaluated: tuple[int, ...]) -> float:
        return geometric_mean(final_errors(follow(evaluated, others, schedule, given(path_taps), 2), others))

    published = error(((1.0,),) * 10, TEN)
    searched = error(held[10][0].taps, held[10][0].evaluated)
    with_taps = error(two[10][0].taps, two[10][0].evaluated)
    assert searched < 0.7 * published, "on examples that were not searched on"
    assert with_taps < 0.6 * searched
    falling = [geometric_mean(final_errors(two[calls][0], some)) for calls in (2, 4, 6, 8, 10)]
    assert all(more < less for less, more in pairwise(falling))
    for calls, paths in two.items():
        assert [len(path.evaluated) for path in paths] == [calls] * len(paths)
        assert to_plan(paths[0], 20).evaluated[0] == 19
        assert paths[0].at == END


def test_elimination_keeps_what_costs_most(schedule: Schedule) -> None:
    worth = {19: 0.0, 18: 9.0, 17: 1.0, 11: 5.0, 3: 7.0}
    found = eliminate(20, 4, lambda steps: -sum(worth.get(step, 0.5) for step in steps))
    assert found[4] == (19, 18, 11, 3)
    assert found[5] == (19, 18, 17, 11, 3)
    assert found[20] == ALL
    some, others = examples(0, schedule), examples(1, schedule)
    lists = eliminate(20, 8, lambda steps: geometric_mean(final_errors(follow(steps, some, schedule, hold, 1), some)))
    ours, published = (follow(one, others, schedule, hold, 1) for one in (lists[10], TEN))
    assert geometric_mean(final_errors(ours, others)) < 0.7 * geometric_mean(final_errors(published, others))


def test_climbing_ends_where_no_neighbour_is_better() -> None:
    goal = (19, 15, 9, 4, 0)
    tries: list[int] = []
    found = climb(
        (19, 18, 17, 3, 1),
        lambda steps: sum((a - b) ** 2 for a, b in zip(steps, goal, strict=True)),
        lambda: tries.append(1),
    )
    assert found == goal
    assert len(tries) > 10


def test_held_eps_needs_no_taps(schedule: Schedule) -> None:
    assert to_plan(follow(TEN, examples(0, schedule), schedule, hold, 1), 20) == Plan(20, TEN)
