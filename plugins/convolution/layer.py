"""Layers with 3x3 convolutions that use our kernel under torch.compile."""

import logging
from typing import cast

import torch
from torch import Tensor, nn

from ldm.blocks import Upsample
from plugins.compiling import compiles_half
from plugins.convolution.compile import check_compiler
from plugins.convolution.op import convolution, convolution_skip, upsampled_convolution
from plugins.convolution.padded import FEW, PaddedConv2d
from plugins.convolution.tiles import Sizes, fits, is_small, up
from plugins.hopper.compile import HOPPER
from plugins.nvrtc import KernelError
from plugins.phase_upsampling import PhaseUpsample
from plugins.split_k_convolution import SplitKConv2d

log = logging.getLogger(__name__)


class FusedConv2d(SplitKConv2d):
    """A 3x3 convolution with stride 1 or 2 that uses our kernel, with the residual, if torch.compile compiles it."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._fits(x):
            return super()._conv_forward(x, weight, bias)
        return convolution(_channels_last(x), _channels_last(weight), bias, stride=self.stride[0])

    def add_to(self, x: Tensor, h: Tensor) -> Tensor:
        if not self._fits(h):
            return super().add_to(x, h)
        return convolution(_channels_last(h), _channels_last(self.weight), self.bias, _channels_last(x))

    def add_to_skip(self, skip: nn.Module, x: Tensor, h: Tensor) -> Tensor:
        if not (isinstance(skip, nn.Conv2d) and skip.kernel_size == (1, 1) and self._fits(h, skip.in_channels)):
            return super().add_to_skip(skip, x, h)
        own, other = _weights(self), _weights(skip)
        return convolution_skip(_channels_last(h), *own, _channels_last(x), *other)

    def _fits(self, x: Tensor, extra: int = 0) -> bool:
        n, channels, h, w = x.shape
        stride = self.stride[0]
        size = up(h, stride), up(w, stride)
        return compiles_half(x) and fits(Sizes(n, *size, channels, self.out_channels, extra, stride=stride))


class FusedUpsample(PhaseUpsample):
    """An upsampling whose phases are one kernel of ours, if torch.compile compiles it.

    Small maps are enlarged before the convolution, as without phases.
    """

    def forward(self, x: Tensor) -> Tensor:
        n, channels, h, w = x.shape
        sizes = Sizes(n, h, w, channels, self.conv.out_channels, taps=2)
        if compiles_half(x) and is_small(sizes):
            return Upsample.forward(self, x)
        if not (compiles_half(x) and fits(sizes)):
            return super().forward(x)
        return upsampled_convolution(_channels_last(x), self.sums, cast(Tensor, self.conv.bias))


def fuse_convolutions(model: nn.Module) -> None:
    """Turn layers of a model on a Hopper GPU into those of our kernel, in place.

    They are the `SplitKConv2d`s with stride 1 or 2, and the `PhaseUpsample`s. Weights and names stay the same; results
    differ only by rounding. If the kernel cannot be compiled, the layers stay.
    """
    if torch.cuda.get_device_capability(next(model.parameters()).device) != HOPPER:
        return
    try:
        check_compiler()
    except KernelError as error:
        log.warning("convolutions use cuDNN and split sums, which are slower: %s", error)
        return
    for module in model.modules():
        if type(module) is SplitKConv2d and module.stride in ((1, 1), (2, 2)):
            if min(module.in_channels, module.out_channels) < FEW and module.stride == (1, 1):
                module.__class__ = PaddedConv2d
                cast(PaddedConv2d, module).pad()
            else:
                module.__class__ = FusedConv2d
        elif type(module) is PhaseUpsample:
            module.__class__ = FusedUpsample


def _weights(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    return _channels_last(layer.weight), cast(Tensor, layer.bias)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
