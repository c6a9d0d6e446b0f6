"""Repeats maps for the two passes of guidance, which have the same maps up to the first layer that reads the text."""

import torch
from torch import Tensor


def repeated(x: Tensor, rows: int) -> Tensor:
    """Repeat x [n, ...] along the batch until it has `rows` rows, a multiple of n."""
    if len(x) == rows:
        return x
    if x.dim() == 4 and not x.is_contiguous():  # channels-last maps stay so also under torch.compile
        return torch.cat([x.permute(0, 2, 3, 1)] * (rows // len(x))).permute(0, 3, 1, 2)
    return torch.cat([x] * (rows // len(x)))
