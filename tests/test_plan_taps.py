"""Taps that are fitted: the weights that made a target are found again."""

import numpy as np
import pytest
import torch

from plans.plan import LARGEST_TAP
from plans.taps import fitted


def test_fitted_taps_are_those_that_made_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    eps = [torch.randn(4, 1000, dtype=torch.float64, generator=generator) for _ in range(2)]
    taps = fitted(2)((19, 15), 9, eps, 1.3 * eps[0] - 0.3 * eps[1])
    np.testing.assert_allclose(taps, (1.3, -0.3), atol=2e-3)  # the ridge pulls a little
    assert fitted(2)((19,), 15, eps[:1], 1.3 * eps[0])[1] == 0.0, "there is none before the first"
    wild = fitted(2)((19, 15), 9, [eps[0], eps[0] + 1e-6 * eps[1]], 50 * eps[1])
    assert max(map(abs, wild)) <= LARGEST_TAP


def test_more_examples_are_pulled_less_towards_holding() -> None:
    generator = torch.Generator().manual_seed(0)
    eps = [torch.randn(32, 1000, dtype=torch.float64, generator=generator) for _ in range(2)]
    few, many = (
        fitted(2)((19, 15), 9, [one[:count] for one in eps], 1.3 * eps[0][:count] - 0.3 * eps[1][:count])[1]
        for count in (2, 32)
    )
    assert -0.3 < many < few < -0.29
    assert many + 0.3 == pytest.approx((few + 0.3) / 16, rel=0.1)


def test_every_example_counts_whatever_its_size() -> None:
    """One of four with a hundred times the values, that wants other taps: it does not rule the fit."""
    generator = torch.Generator().manual_seed(0)
    eps = [torch.randn(4, 1000, dtype=torch.float64, generator=generator) for _ in range(2)]
    size = torch.tensor([1.0, 1.0, 1.0, 100.0], dtype=torch.float64)[:, None]
    noise = 0.1 * torch.randn(4, 1000, dtype=torch.float64, generator=generator)
    target = 1.3 * eps[0] - 0.3 * eps[1] + noise
    target[3] = 0.5 * eps[0][3] + noise[3]
    found = fitted(2)((19, 15), 9, [one * size for one in eps], target * size)
    np.testing.assert_allclose(found, (1.3, -0.3), atol=0.03)


def test_values_that_are_not_finite_are_a_sentence() -> None:
    eps = [torch.full((2, 10), torch.nan)]
    with pytest.raises(ValueError, match="non-finite values at or after step 15; try fp32"):
        fitted(2)((19, 15), 9, eps, torch.zeros(2, 10))
