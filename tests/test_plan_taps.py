"""Fitting taps recovers the weights that produced a target."""

import numpy as np
import pytest
import torch

from plans.plan import LARGEST_TAP
from plans.taps import fitted


def test_fitted_taps_recover_the_weights_of_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    eps = [torch.randn(4, 1000, dtype=torch.float64, generator=generator) for _ in range(2)]
    taps = fitted(2)((19, 15), 9, eps, 1.3 * eps[0] - 0.3 * eps[1])
    np.testing.assert_allclose(taps, (1.3, -0.3), atol=2e-3)  # the ridge term adds a small bias
    assert fitted(2)((19,), 15, eps[:1], 1.3 * eps[0])[1] == 0.0, "there is no eps before the first evaluation"
    wild = fitted(2)((19, 15), 9, [eps[0], eps[0] + 1e-6 * eps[1]], 50 * eps[1])
    assert max(map(abs, wild)) <= LARGEST_TAP


def test_ridge_bias_shrinks_with_more_examples() -> None:
    generator = torch.Generator().manual_seed(0)
    eps = [torch.randn(32, 1000, dtype=torch.float64, generator=generator) for _ in range(2)]
    few, many = (
        fitted(2)((19, 15), 9, [one[:count] for one in eps], 1.3 * eps[0][:count] - 0.3 * eps[1][:count])[1]
        for count in (2, 32)
    )
    assert -0.3 < many < few < -0.29
    assert many + 0.3 == pytest.approx((few + 0.3) / 16, rel=0.1)


def test_every_example_counts_equally_regardless_of_scale() -> None:
    """One of four examples has values 100 times as large and needs other taps; it must not dominate the fit."""
    generator = torch.Generator().manual_seed(0)
    eps = [torch.randn(4, 1000, dtype=torch.float64, generator=generator) for _ in range(2)]
    size = torch.tensor([1.0, 1.0, 1.0, 100.0], dtype=torch.float64)[:, None]
    noise = 0.1 * torch.randn(4, 1000, dtype=torch.float64, generator=generator)
    target = 1.3 * eps[0] - 0.3 * eps[1] + noise
    target[3] = 0.5 * eps[0][3] + noise[3]
    found = fitted(2)((19, 15), 9, [one * size for one in eps], target * size)
    np.testing.assert_allclose(found, (1.3, -0.3), atol=0.03)


def test_non_finite_values_raise() -> None:
    eps = [torch.full((2, 10), torch.nan)]
    with pytest.raises(ValueError, match="non-finite values at or after step 15; try fp32"):
        fitted(2)((19, 15), 9, eps, torch.zeros(2, 10))
