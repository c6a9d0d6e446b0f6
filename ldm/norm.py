"""Group normalization with an optional shift before it and an optional SiLU after it."""

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
