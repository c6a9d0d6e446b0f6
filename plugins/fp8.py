"""Precision fp8: residual blocks whose 3x3 convolutions compute with e4m3 numbers.

e4m3 has 8 bits, three of them for the fraction (Micikevicius et al. 2022, FP8 Formats for Deep Learning). The norm
before a convolution gives its results times a constant as e4m3: normalized values need no scales of their own. Weights
have a scale for each output channel. On a Hopper GPU, compiled layers use our kernels. Elsewhere the layers
round to the same numbers and compute with PyTorch's convolution: `rounded` and `RoundedConv2d` are the reference.
"""

import logging
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.blocks import AddedConv2d, ResBlock
from ldm.norm import GroupNorm
from plugins.compiling import compiles_half
from plugins.convolution.compile import check_fp8_compiler
from plugins.convolution.op import convolution, convolution_skip
from plugins.convolution.tiles import ALIGNED_FP8
from plugins.group_norm.joined import group_norm_joined
from plugins.group_norm.launch import FP8_FACTOR
from plugins.group_norm.layer import maps_to_join
from plugins.group_norm.op import FP8, group_norm, to_fp8
from plugins.hopper.compile import HOPPER
from plugins.nvrtc import KernelError

log = logging.getLogger(__name__)

LARGEST = torch.finfo(FP8).max


def rounded(x: Tensor) -> Tensor:
    """Return x with the values that e4m3 numbers from a norm represent, in the type of x."""
    return (to_fp8(x).to(torch.float32) / FP8_FACTOR).to(x.dtype)


class RoundedGroupNorm(GroupNorm):
    """A norm whose results are rounded to e4m3; with `fused`, compiled for a GPU, they are e4m3 times FP8_FACTOR."""

    fused = False

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        if self.fused and compiles_half(x):
            return group_norm(x, self.weight, self.bias, self.num_groups, self.eps, self.silu, shift, fp8=True)
        return rounded(super().forward(x, shift))

    def join(self, h: Tensor, skip: Tensor, residual: Tensor | float) -> tuple[Tensor, Tensor]:
        maps = maps_to_join(self, h, skip, residual) if self.fused else None
        if maps is None:
            return super().join(h, skip, residual)
        return group_norm_joined(*maps, self.weight, self.bias, self.num_groups, self.eps, self.silu, fp8=True)


class RoundedConv2d(AddedConv2d):
    """A 3x3 convolution after a `RoundedGroupNorm`, with rounded weights.

    weight8: e4m3 [o, c, 3, 3]; scales: float32 [o], what sums of their products with e4m3 results of the norm are
    multiplied by.
    """

    weight8: Tensor
    scales: Tensor

    def derive(self) -> None:
        """Round the weights again, in place."""
        weight = self.weight.data.float()
        scales = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
        self.weight8.copy_((weight / scales).clamp(-LARGEST, LARGEST).to(FP8))
        self.scales.copy_(scales.flatten() / FP8_FACTOR)

    def rounded_weight(self) -> Tensor:
        """Return the rounded weights, in the type of the weights."""
        scales = FP8_FACTOR * self.scales[:, None, None, None]
        return (self.weight8.to(torch.float32) * scales).to(self.weight.dtype)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.dtype == FP8:
            return convolution(x, self.weight8, bias, scales=self.scales)
        return F.conv2d(x, self.rounded_weight(), bias, padding=1)

    def add_to(self, x: Tensor, h: Tensor) -> Tensor:
        if h.dtype != FP8:
            return super().add_to(x, h)
        return convolution(h, self.weight8, self.bias, _channels_last(x), scales=self.scales)

    def add_to_skip(self, skip: nn.Module, x: Tensor, h: Tensor) -> Tensor:
        if h.dtype != FP8 or not isinstance(skip, nn.Conv2d):
            return super().add_to_skip(skip, x, h)
        extra = _channels_last(x), _channels_last(skip.weight), skip.bias
        return convolution_skip(h, self.weight8, self.bias, *extra, scales=self.scales)


def round_block(block: ResBlock) -> None:
    """Turn norms and convolutions of a block into those above, in place. Names of weights stay the same.

    Convolutions with channels that our kernel does not support stay as they are, with their norms.
    """
    _round(block.in_layers[0], block.in_layers[2])
    _round(block.out_layers[0], block.last_convolution)


def _round(norm: nn.Module, layer: nn.Module) -> None:
    weight = cast(nn.Conv2d, layer).weight.data
    if weight.shape[1] % ALIGNED_FP8 or isinstance(layer, RoundedConv2d):
        return
    norm.__class__, layer.__class__ = RoundedGroupNorm, RoundedConv2d
    weight8 = torch.empty_like(weight, dtype=FP8, memory_format=torch.channels_last)
    layer.register_buffer("weight8", weight8, persistent=False)
    layer.register_buffer("scales", weight.new_empty(len(weight), dtype=torch.float32), persistent=False)
    cast(RoundedConv2d, layer).derive()


def fuse_rounded(model: nn.Module) -> None:
    """Let the rounded layers of a model on a Hopper GPU use our kernels, in place, if those can be compiled."""
    norms = [module for module in model.modules() if isinstance(module, RoundedGroupNorm)]
    if not norms or torch.cuda.get_device_capability(next(model.parameters()).device) != HOPPER:
        return
    try:
        check_fp8_compiler()
    except KernelError as error:
        log.warning("precision fp8 uses PyTorch's float16 convolutions, which are slower: %s", error)
        return
    for norm in norms:
        norm.fused = True


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
