"""The noise schedule has the published values, and step counts that would leave it are rejected."""

import numpy as np
import pytest

from ldm.config import load_architecture
from ldm.diffusion import alphas_cumprod, ddim_alphas, ddim_sigmas, ddim_timesteps, schedule_buffers

ABAR = alphas_cumprod(load_architecture("sd15").schedule)
PUBLISHED = [
    0.99829602, 0.95052433, 0.89298052, 0.82639927, 0.75214338, 0.67215145, 0.58881873, 0.50481856, 0.42288151,
    0.34555823, 0.27499905, 0.21278252, 0.15981644, 0.11632485, 0.08191671, 0.05571903, 0.03654652, 0.02307699,
    0.01400490, 0.00815500,
]  # fmt: skip


def test_alphas_of_twenty_steps() -> None:
    now, after = ddim_alphas(ABAR, ddim_timesteps(20))
    np.testing.assert_allclose(now, PUBLISHED, rtol=0, atol=3e-8)
    np.testing.assert_allclose(after[1:], PUBLISHED[:-1], rtol=0, atol=3e-8)
    assert after[0] == pytest.approx(0.99914998, abs=3e-8)


def test_timesteps() -> None:
    assert ddim_timesteps(20) == list(range(1, 1000, 50))
    assert len(ddim_timesteps(12)) == 13
    assert ddim_timesteps(1) == [1]


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_step_count_out_of_range(steps: int) -> None:
    with pytest.raises(ValueError, match=f"ddim_steps: got {steps}, expected 1 to 1000"):
        ddim_timesteps(steps)


@pytest.mark.parametrize(("steps", "last"), [(9, 1000), (1000, 1000), (999, 1000)])
def test_last_timestep_outside_the_schedule(steps: int, last: int) -> None:
    with pytest.raises(ValueError, match=f"{steps} puts its last timestep at {last}, outside the schedule") as caught:
        ddim_timesteps(steps)
    suggested = [int(word) for word in str(caught.value).replace(" or", "").split() if word.isdigit()][-2:]
    assert all(ddim_timesteps(count) for count in suggested)


def test_sigmas_are_zero_without_eta_and_ddpm_with() -> None:
    now, after = ddim_alphas(ABAR, ddim_timesteps(20))
    assert not ddim_sigmas(now, after, 0.0).any()
    posterior = (1 - after) / (1 - now) * (1 - now / after)  # Ho et al. 2020, equation 7
    np.testing.assert_allclose(ddim_sigmas(now, after, 1.0) ** 2, posterior)


def test_buffers_of_the_checkpoint() -> None:
    buffers = schedule_buffers(load_architecture("sd15").schedule)
    assert len(buffers) == 13
    assert all(tensor.shape == (1000,) and tensor.isfinite().all() for tensor in buffers.values())
    np.testing.assert_allclose(buffers["sqrt_alphas_cumprod"] ** 2, buffers["alphas_cumprod"], rtol=1e-5)
