"""torch.ops.canny2image.group_norm_joined: two maps as one, and the GroupNorm of that map, with the same kernel.

On a GPU, the first call for each size of maps compiles and loads the kernel. Only later calls can be captured into a
CUDA graph.
"""

import torch
from torch import Tensor

from plugins.group_norm import op
from plugins.group_norm.launch import choose_launch
from plugins.hopper.arguments import check_tensors
from plugins.ops import torch_op


def reference(
    h: Tensor,
    skip: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
    fp8: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the op: the joined map in its own type, then the norm of it as `op.reference` does."""
    x = _empty(h, skip).copy_(torch.cat([h, skip + residual], dim=1))
    return x, op.reference(x, weight, bias, groups, eps, silu, fp8=fp8)


@torch_op()
def group_norm_joined(
    h: Tensor,
    skip: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
    fp8: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return x, the channels of h and then those of skip + residual, and its GroupNorm, followed by SiLU if `silu`.

    h [n, c, height, width], skip and residual [n, d, height, width]: channels-last, c and d even; weight, bias [c + d].
    Both results are channels-last; fp8: the norm as for `group_norm`. On a GPU all inputs must be float16, the sum is
    rounded to float16, and the norm is computed from the rounded values in float32; a CPU uses `reference`.
    On a GPU, raises ValueError for arguments that the kernel does not support, KernelError if it cannot be compiled or
    launched.
    """
    n, first, height, width = h.shape
    channels = first + skip.shape[1]
    added, affine = (n, skip.shape[1], height, width), (channels,)
    tensors = [("h", h, tuple(h.shape)), ("skip", skip, added), ("residual", residual, added)]
    check_tensors(
        "group_norm_joined", [*tensors, ("weight", weight, affine), ("bias", bias, affine)], h.device, torch.float16
    )
    clusters = op.has_clusters(h.device)
    launch = choose_launch(n, channels, height * width, groups, eps, silu, True, clusters, joined=first, fp8=fp8)
    x, y = _empty(h, skip), _empty(h, skip, fp8)
    op.run(launch, [h, weight, bias, skip, residual], height * width, [y, x])
    return x, y


group_norm_joined.on_cpu(reference)


@group_norm_joined.without_values
def _(
    h: Tensor,
    skip: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
    fp8: bool = False,
) -> tuple[Tensor, Tensor]:
    return _empty(h, skip), _empty(h, skip, fp8)


def _empty(h: Tensor, skip: Tensor, fp8: bool = False) -> Tensor:
    """Return an uninitialized joined map."""
    size, dtype = (h.shape[0], h.shape[1] + skip.shape[1], *h.shape[2:]), op.FP8 if fp8 else h.dtype
    return torch.empty(size, dtype=dtype, device=h.device, memory_format=torch.channels_last)
