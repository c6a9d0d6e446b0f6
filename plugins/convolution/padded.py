"""A convolution of few channels, as the first and the last of a network: zeros fill them up for our kernel.

The kernel cannot read pixels of few channels. It can write them, but that takes longer: from 320 to 4 channels at 2
maps of 32x48 pixels 7.6 us, to 64 channels, of which the others are dropped, 6.0 (with a residual, on an H200). cuDNN
also fills up channels, by kernels of its own, of which none starts early.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from plugins.compiling import compiles_half
from plugins.convolution.op import convolution
from plugins.convolution.tiles import ALIGNED, STEP, Sizes, fits
from plugins.split_k_convolution import SplitKConv2d

FEW = 8  # channels that are filled up are fewer


class PaddedConv2d(SplitKConv2d):
    """A 3x3 convolution with stride 1 from or to fewer than FEW channels that uses our kernel under torch.compile."""

    padded: Tensor
    padded_bias: Tensor

    def pad(self) -> None:
        """Make room for the padded weights, and derive them."""
        channels, outs = self.in_channels, self.out_channels
        shape = STEP if outs < FEW else outs, ALIGNED if channels < FEW else channels, 3, 3
        padded = self.weight.data.new_zeros(shape).to(memory_format=torch.channels_last)
        self.register_buffer("padded", padded, persistent=False)
        self.register_buffer("padded_bias", padded.new_zeros(len(padded)), persistent=False)
        self.derive()

    def derive(self) -> None:
        """Write the weights into the padded ones."""
        self.padded[: self.out_channels, : self.in_channels].copy_(self.weight.data)
        if self.bias is not None:
            self.padded_bias[: self.out_channels].copy_(self.bias.data)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        n, channels, h, w = x.shape
        outs, filled, *_ = self.padded.shape
        if not (compiles_half(x) and fits(Sizes(n, h, w, filled, outs))):
            return super()._conv_forward(x, weight, bias)
        maps = F.pad(x, (0, 0, 0, 0, 0, filled - channels)) if filled > channels else x
        maps = maps.contiguous(memory_format=torch.channels_last)
        return convolution(maps, self.padded, self.padded_bias)[:, : self.out_channels]
