"""Group normalization with an optional shift before it and an optional SiLU after it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """GroupNorm of x + shift, followed by SiLU if `silu` is set: one layer, so that a single GPU kernel can replace it.

    x: [n, c, h, w]; shift: [1 or n, c], or None for no shift.
    """

    def __init__(self, groups: int, channels: int, eps: float = 1e-5, silu: bool = False) -> None:
        super().__init__(groups, channels, eps)
        self.silu = silu

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        y = super().forward(x if shift is None else x + shift[..., None, None])
        return F.silu(y) if self.silu else y

    def join(self, h: Tensor, skip: Tensor, residual: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return one map, the channels of h and then those of skip + residual, and the norm of that map."""
        x = torch.cat([h, skip + residual], dim=1)
        return x, self(x)
