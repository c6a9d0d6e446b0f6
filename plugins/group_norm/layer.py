"""The layer that torch.compile runs on the kernel."""

import torch
from torch import Tensor, nn

from ldm.norm import GroupNorm
from plugins.group_norm.op import group_norm


class FusedGroupNorm(GroupNorm):
    """GroupNorm, which is one kernel where torch.compile compiles it for a GPU in half precision."""

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        if not (torch.compiler.is_compiling() and x.is_cuda and x.dtype == torch.float16):
            return super().forward(x, shift)
        return group_norm(x, self.weight, self.bias, self.num_groups, self.eps, self.silu, shift)


def fuse_norms(model: nn.Module) -> None:
    """Let the norms of a model on a GPU be one kernel each. Weights and names stay, and results, but for rounding."""
    if torch.cuda.get_device_capability(next(model.parameters()).device) < (9, 0):
        return  # without clusters of blocks it has not been measured, and uses few of them
    for module in model.modules():
        if type(module) is GroupNorm:
            module.__class__ = FusedGroupNorm
