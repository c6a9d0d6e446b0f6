"""A GroupNorm layer that uses our kernel under torch.compile."""

import torch
from torch import Tensor, nn

from ldm.norm import GroupNorm
from plugins.choices import Choice, chosen
from plugins.compiling import compiles_half
from plugins.group_norm.joined import group_norm_joined
from plugins.group_norm.launch import can_join
from plugins.group_norm.op import group_norm, has_clusters


class FusedGroupNorm(GroupNorm):
    """GroupNorm that uses our kernel if torch.compile compiles it for a GPU in float16, also for its input in parts."""

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        if not (compiles_half(x) and chosen(self.choice(x))):
            return super().forward(x, shift)
        return group_norm(x, self.weight, self.bias, self.num_groups, self.eps, self.silu, shift)

    def join(self, h: Tensor, skip: Tensor, residual: Tensor | float) -> tuple[Tensor, Tensor]:
        maps = maps_to_join(self, h, skip, residual)
        if maps is None:
            return super().join(h, skip, residual)
        return group_norm_joined(*maps, self.weight, self.bias, self.num_groups, self.eps, self.silu)

    def choice(self, x: Tensor) -> Choice:
        """Return the choice between PyTorch's norm, 0, and ours, 1, for a map on a GPU.

        With thread block clusters there is only ours. Without, it uses few blocks, and has not been measured.
        """
        clusters = has_clusters(x.device)
        question = f"GroupNorm of maps {list(x.shape)} in {self.num_groups} groups by our kernel"
        return Choice(question, (1,) if clusters else (0, 1), int(clusters))


def maps_to_join(norm: GroupNorm, h: Tensor, skip: Tensor, residual: Tensor | float) -> list[Tensor] | None:
    """Return the maps in channels-last if our kernel joins them, in code that is being compiled; otherwise None."""
    if not (
        compiles_half(h)
        and has_clusters(h.device)
        and isinstance(residual, Tensor)
        and residual.shape == skip.shape
        and can_join(norm.num_channels, norm.num_groups, h.shape[1])
    ):
        return None
    return [one.contiguous(memory_format=torch.channels_last) for one in (h, skip, residual)]


def fuse_norms(model: nn.Module) -> None:
    """Turn the norms of a model on a GPU into `FusedGroupNorm`, in place.

    Weights and names stay the same; results differ only by rounding.
    """
    if torch.cuda.get_device_capability(next(model.parameters()).device) < (8, 0):
        return  # tests compile the kernel for newer GPUs only
    for module in model.modules():
        if type(module) is GroupNorm:
            module.__class__ = FusedGroupNorm
