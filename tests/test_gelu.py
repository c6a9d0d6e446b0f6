"""GELU in the products' kernels: a polynomial whose coefficients stand in two files."""

import math
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

PRODUCTS = Path(__file__).parents[1] / "plugins" / "product"


def coefficients(file: str, start: str) -> list[float]:
    """Return the numbers of a function in their order."""
    text = (PRODUCTS / file).read_text().split(start)[1].split("reciprocal")[0]
    return [float(one) for one in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)]


def gelu(x: Tensor, factors: list[float]) -> Tensor:
    *others, last = factors
    series = torch.full_like(x, last)
    for factor in reversed(others):
        series = series * (x * x) + factor
    return x / (1 + torch.exp2(x * series))


def test_the_polynomial() -> None:
    factors = coefficients("kernel.py", "def gelu(x):")  # from the constant term on
    assert factors == coefficients("sums.cuh", "float gelu(float x)")[::-1]
    assert len(factors) == 5
    x = torch.linspace(-12, 12, 1_000_001)
    true = F.gelu(x.double())
    assert (gelu(x, factors) - true).abs().max() < 4e-6
    far = torch.tensor([-6e4, -100.0, 100.0, 6e4, math.inf])
    assert torch.equal(gelu(far, factors), torch.tensor([0.0, 0.0, 100.0, 6e4, math.inf]))
