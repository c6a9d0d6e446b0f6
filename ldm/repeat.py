"""Repeats maps for the two passes of guidance, which have the same maps up to the first layer that reads the text."""

import torch
from torch import Tensor


def repeated(x: Tensor, rows: int) -> Tensor:
    """Repeat x [n, ...] along the batch until it has `rows` rows, a multiple of n."""
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))
