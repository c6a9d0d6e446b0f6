"""A 3x3 convolution that uses our kernel under torch.compile."""

import logging
from typing import cast

import torch
from torch import Tensor, nn

from plugins.compiling import compiles_half
from plugins.convolution.compile import check_compiler
from plugins.convolution.op import convolution
from plugins.convolution.padded import PaddedConv2d
from plugins.convolution.tiles import STEP, Sizes, fits
from plugins.hopper.compile import HOPPER
from plugins.nvrtc import KernelError
from plugins.split_k_convolution import SplitKConv2d

log = logging.getLogger(__name__)


class FusedConv2d(SplitKConv2d):
    """A 3x3 convolution with stride 1 that uses our kernel, with the residual, if torch.compile compiles it."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._fits(x):
            return super()._conv_forward(x, weight, bias)
        return convolution(_channels_last(x), _channels_last(weight), bias)

    def add_to(self, x: Tensor, h: Tensor) -> Tensor:
        if not self._fits(h):
            return super().add_to(x, h)
        return convolution(_channels_last(h), _channels_last(self.weight), self.bias, _channels_last(x))

    def _fits(self, x: Tensor) -> bool:
        n, channels, h, w = x.shape
        return compiles_half(x) and fits(Sizes(n, h, w, channels, self.out_channels))


def fuse_convolutions(model: nn.Module) -> None:
    """Turn the `SplitKConv2d`s with stride 1 of a model on a Hopper GPU into those of our kernel, in place.

    Weights and names stay the same; results differ only by rounding. If the kernel cannot be compiled, the layers stay.
    """
    if torch.cuda.get_device_capability(next(model.parameters()).device) != HOPPER:
        return
    try:
        check_compiler()
    except KernelError as error:
        log.warning("convolutions use cuDNN and split sums, which are slower: %s", error)
        return
    for module in model.modules():
        if type(module) is SplitKConv2d and module.stride == (1, 1):
            if module.out_channels < STEP and module.in_channels % STEP == 0:
                module.__class__ = PaddedConv2d
                cast(PaddedConv2d, module).pad()
            else:
                module.__class__ = FusedConv2d


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
