"""Computes the noise schedule, and the coefficients of DDIM with or without noise (Song et al. 2021), in float64."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.config import ScheduleConfig

Floats = NDArray[np.float64]


def alphas_cumprod(config: ScheduleConfig) -> Floats:
    """Return the signal power left after each training step, [steps]."""
    return np.cumprod(1.0 - _betas(config), dtype=np.float64)


def schedule_buffers(config: ScheduleConfig) -> dict[str, Tensor]:
    """Return the 13 schedule tensors of a checkpoint, float32 [steps] each (Ho et al. 2020 for the posterior)."""
    betas, abar = _betas(config), alphas_cumprod(config)
    before = np.append(1.0, abar[:-1])
    variance = betas * (1 - before) / (1 - abar)
    buffers = {
        "betas": betas,
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(abar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - abar),
        "log_one_minus_alphas_cumprod": np.log(1 - abar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / abar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / abar - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - abar),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - abar),
        "logvar": np.zeros_like(betas),
    }
    return {name: torch.from_numpy(values).float() for name, values in buffers.items()}


def ddim_timesteps(steps: int, training_steps: int = 1000) -> list[int]:
    """Return DDIM's timesteps in ascending order: 1, 1 + s, 1 + 2 s, ..., with the spacing s = training_steps // steps.

    The spacing is an integer, so some counts give more steps (12 gives 13). Raises ValueError for a count below 1 or
    above training_steps, and for a count whose last timestep is outside the schedule (9 ends at 1000, and the schedule
    is 0..999); that message suggests counts that work.
    """
    if not 1 <= steps <= training_steps:
        raise ValueError(f"ddim_steps: got {steps}, expected 1 to {training_steps}")
    timesteps = _spaced(steps, training_steps)
    if timesteps[-1] >= training_steps:
        good = [n for n in range(1, training_steps + 1) if _spaced(n, training_steps)[-1] < training_steps]
        near = sorted(good, key=lambda n: abs(n - steps))[:2]
        raise ValueError(
            f"ddim_steps: {steps} puts its last timestep at {timesteps[-1]}, outside the schedule "
            f"0..{training_steps - 1}; choose another count, for example {' or '.join(map(str, sorted(near)))}"
        )
    return list(timesteps)


def ddim_alphas(abar: Floats, timesteps: list[int]) -> tuple[Floats, Floats]:
    """Return alphas_cumprod before and after the step at each timestep, in the order of `timesteps`.

    The step at the lowest timestep, which runs last, ends at abar[0], not at 1.
    """
    return abar[timesteps], np.append(abar[0], abar[timesteps[:-1]])


def ddim_sigmas(now: Floats, after: Floats, eta: float) -> Floats:
    """Return the standard deviation of the noise that each step adds: 0 for eta = 0, DDPM's for eta = 1."""
    return eta * np.sqrt((1 - after) / (1 - now) * (1 - now / after))


def _betas(config: ScheduleConfig) -> Floats:
    return np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.steps, dtype=np.float64) ** 2


def _spaced(steps: int, training_steps: int) -> range:
    return range(1, training_steps + 1, training_steps // steps)
