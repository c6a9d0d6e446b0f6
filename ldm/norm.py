"""Group normalisation as these networks use it."""

import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """GroupNorm of x + shift, and SiLU behind it if the layer has one: what one kernel can do on a GPU.

    x: [n, c, h, w]; shift: [1, c], none by default.
    """

    def __init__(self, groups: int, channels: int, eps: float = 1e-5, silu: bool = False) -> None:
        super().__init__(groups, channels, eps)
        self.silu = silu

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        y = super().forward(x if shift is None else x + shift[..., None, None])
        return F.silu(y) if self.silu else y
