"""A convolution with few output channels: our kernel computes more of them, with zero weights, and they are dropped.

For the UNet's last convolution, from 320 channels to 4, cuDNN also pads, by kernels of their own: four in all.
"""

import torch
from torch import Tensor

from plugins.compiling import ONE_PICTURE, compiles_half
from plugins.convolution.op import convolution
from plugins.convolution.tiles import STEP, Sizes, fits
from plugins.split_k_convolution import SplitKConv2d

FEW = 8  # output channels; for fewer cuDNN pads


class PaddedConv2d(SplitKConv2d):
    """A 3x3 convolution with stride 1 to fewer than FEW channels that uses our kernel under torch.compile."""

    padded: Tensor
    padded_bias: Tensor

    def pad(self) -> None:
        """Make room for the padded weights, and derive them."""
        weight = self.weight.data
        shape = STEP, *weight.shape[1:]
        padded = torch.zeros(shape, dtype=weight.dtype, device=weight.device).to(memory_format=torch.channels_last)
        self.register_buffer("padded", padded, persistent=False)
        self.register_buffer("padded_bias", padded.new_zeros(STEP), persistent=False)
        self.derive()

    def derive(self) -> None:
        """Write the weights into the padded ones."""
        self.padded[: self.out_channels].copy_(self.weight.data)
        if self.bias is not None:
            self.padded_bias[: self.out_channels].copy_(self.bias.data)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        n, channels, h, w = x.shape
        if not (compiles_half(x) and n <= ONE_PICTURE and fits(Sizes(n, h, w, channels, STEP))):
            return super()._conv_forward(x, weight, bias)
        maps = x.contiguous(memory_format=torch.channels_last)
        return convolution(maps, self.padded, self.padded_bias)[:, : self.out_channels]
