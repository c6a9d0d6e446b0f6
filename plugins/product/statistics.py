"""The statistics of rows that products return and norms read, computed by PyTorch."""

import torch
from torch import Tensor

from plugins.product.tiles import STEP


def statistics(rows: Tensor, width: int = STEP) -> Tensor:
    """Return mean and squared deviations of each `width` columns of rows [n, columns], and of the rest if there is one.

    float32 [n, groups, 2].
    """
    whole = rows.shape[1] // width * width
    parts = rows[:, :whole].unflatten(1, (-1, width)), rows[:, None, whole:]
    return torch.cat([_of_groups(part.float()) for part in parts if part.numel()], dim=1)


def _of_groups(values: Tensor) -> Tensor:
    """Values [n, groups, columns] -> statistics [n, groups, 2]."""
    variance, mean = torch.var_mean(values, dim=-1, correction=0)
    return torch.stack((mean, variance * values.shape[-1]), dim=-1)
