"""Lets a ControlNet use our kernel for its zero convolutions under torch.compile."""

import logging
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ldm.zero_convolutions import Out, WithZeroConvolutions, scaled
from plugins.compiling import compiles_half
from plugins.hopper.compile import HOPPER, cubin
from plugins.nvrtc import KernelError
from plugins.zero_convolutions.compile import ALIGNED, STEP, Layer, ZeroConvolutions, choose
from plugins.zero_convolutions.op import empty, zero_convolutions

log = logging.getLogger(__name__)

# Pixels of all pictures: those of eight of 256x384 with guidance. The kernel takes 19 us for one, and 75 us for four.
MOST_ROWS = 2 * 8 * 32 * 48


def fused_scaled(
    layers: Sequence[nn.Conv2d], features: Sequence[Tensor], factors: Tensor, out: Out = None
) -> list[Tensor]:
    """Compute the same as `ldm.zero_convolutions.scaled`, into `out` if it is given."""
    if not (compiles_half(factors) and _fit(features, len(factors))):
        return scaled(layers, features, factors)
    maps = [feature.contiguous(memory_format=torch.channels_last) for feature in features]
    biases = [cast(Tensor, layer.bias) for layer in layers]
    results = empty(maps, len(factors)) if out is None else list(out)
    zero_convolutions(maps, [layer.weight for layer in layers], biases, factors, results)
    return results


def fuse_zero_convolutions(model: nn.Module) -> None:
    """Let the ControlNet of a model on a Hopper GPU use our kernel, in place.

    Weights and names stay the same; results differ only by rounding. If the kernel cannot be compiled, nothing changes.
    """
    if torch.cuda.get_device_capability(next(model.parameters()).device) != HOPPER:
        return
    try:
        cubin(ZeroConvolutions((Layer(STEP, 1, 1, choose(STEP)),), 1))
    except KernelError as error:
        log.warning("zero convolutions use cuBLAS and Triton, which are slower: %s", error)
        return
    for module in model.modules():
        if isinstance(module, WithZeroConvolutions):
            module.scaled = fused_scaled


def _fit(features: Sequence[Tensor], pictures: int) -> bool:
    return all(x.shape[1] % ALIGNED == 0 and pictures * x.shape[2] * x.shape[3] <= MOST_ROWS for x in features)
