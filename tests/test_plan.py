"""A plan's updates equal the original loop, where steps that do not call the network reuse the last eps."""

import numpy as np
import pytest

from ldm.config import load_architecture
from ldm.diffusion import Floats, alphas_cumprod, ddim_alphas, ddim_sigmas, ddim_timesteps
from plans.plan import TEN, Evaluation, Plan, evaluations, make_plan, usual_steps

ABAR = alphas_cumprod(load_architecture("sd15").schedule)
PLANS = [TEN, tuple(range(20))[::-1], (19, 0), (19,), (19, 17, 11, 3, 1)]


def network(x: Floats, timestep: int) -> Floats:
    """Replace the guided network: a smooth function of latent and time."""
    return np.tanh(1.3 * x + timestep / 700) + 0.2 * np.sin(3 * x)


def loop(x: Floats, evaluated: tuple[int, ...], eta: float, noise: Floats) -> Floats:
    """Run all 20 updates one by one, as the original does; skipped steps reuse the last eps."""
    timesteps = ddim_timesteps(20)
    now, after = ddim_alphas(ABAR, timesteps)
    sigmas = ddim_sigmas(now, after, eta)
    eps = np.zeros_like(x)
    for draw, step in enumerate(reversed(range(20))):
        if step in evaluated:
            eps = network(x, timesteps[step])
        x0 = (x - np.sqrt(1 - now[step]) * eps) / np.sqrt(now[step])
        direction = np.sqrt(1 - after[step] - sigmas[step] ** 2) * eps
        x = np.sqrt(after[step]) * x0 + direction + sigmas[step] * noise[draw]
    return x


def run(x: Floats, steps: tuple[Evaluation, ...], noise: Floats) -> Floats:
    draws = iter(noise)
    for step in steps:
        eps = network(x, step.timestep)
        x = step.a * x + step.weights[0] * eps + sum(weight * next(draws) for weight in step.noise)
    assert next(draws, None) is None, "not every noise draw of the original was used"
    return x


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("evaluated", PLANS)
def test_plan_equals_the_loop(evaluated: tuple[int, ...], eta: float) -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal(64), rng.standard_normal((20, 64))
    steps = evaluations(Plan(20, evaluated), ABAR, 20, eta)
    np.testing.assert_allclose(run(x, steps, noise), loop(x, evaluated, eta, noise), rtol=0, atol=1e-12)


@pytest.mark.parametrize("evaluated", PLANS)
def test_held_eps_is_ddim_over_the_evaluated_timesteps(evaluated: tuple[int, ...]) -> None:
    """Compare with Euler steps of y = x / sqrt(abar) in sigma over the evaluated timesteps, ending at abar[0]."""
    x = np.random.default_rng(1).standard_normal(64)
    ends = [*(ABAR[1 + 50 * i] for i in evaluated), ABAR[0]]
    euler = x
    for i, now, after in zip(evaluated, ends, ends[1:], strict=False):
        slope = np.sqrt((1 - after) / after) - np.sqrt((1 - now) / now)
        y = euler / np.sqrt(now) + slope * network(euler, 1 + 50 * i)
        euler = np.sqrt(after) * y
    steps = evaluations(Plan(20, evaluated), ABAR, 20)
    np.testing.assert_allclose(run(x, steps, np.zeros((20, 64))), euler, rtol=0, atol=1e-12)


def test_choices() -> None:
    assert make_plan("ten", 20).evaluated == (19, 18, 17, 16, 15, 14, 13, 11, 8, 4)
    assert make_plan("all", 20).evaluated == tuple(range(19, -1, -1))
    assert make_plan("19,4", 20).evaluated == (19, 4)
    assert make_plan("ten", 12).evaluated == tuple(range(12, -1, -1)), "ddim_steps 12 gives 13 steps, all evaluated"


@pytest.mark.parametrize(
    "choice", ["", "eleven", "19,,4", "18,4", "19,4,4", "4,19", "19,-1", "20,19", "19;4", "1_9", "19,\u0664", "-1"]
)
def test_bad_choice_raises(choice: str) -> None:
    with pytest.raises(ValueError, match=r"plan .*: expected .*step indices"):
        make_plan(choice, 20)


def test_usual_steps() -> None:
    assert usual_steps("ten") == usual_steps("all") == usual_steps("19,4") == 20
    assert usual_steps("9,5,2") == 10
    assert usual_steps("12,0") == 12, "ddim_steps 12 gives 13 steps"
    with pytest.raises(ValueError, match="no ddim_steps gives 700 steps"):
        usual_steps("699,1")
