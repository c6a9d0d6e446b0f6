"""A convolution of few channels, as the first of a network: zeros fill them up to a number that our kernel can read.

cuDNN also fills up channels, by kernels of its own, of which none starts early.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from plugins.compiling import compiles_half
from plugins.convolution.op import convolution
from plugins.convolution.tiles import ALIGNED, Sizes, fits
from plugins.split_k_convolution import SplitKConv2d


class PaddedConv2d(SplitKConv2d):
    """A 3x3 convolution with stride 1 of fewer than ALIGNED channels that uses our kernel under torch.compile."""

    padded: Tensor

    def pad(self) -> None:
        """Make room for the padded weights, and derive them."""
        weight = self.weight.data
        padded = weight.new_zeros(self.out_channels, ALIGNED, 3, 3).to(memory_format=torch.channels_last)
        self.register_buffer("padded", padded, persistent=False)
        self.derive()

    def derive(self) -> None:
        """Write the weights into the padded ones."""
        self.padded[:, : self.in_channels].copy_(self.weight.data)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        n, channels, h, w = x.shape
        if not (compiles_half(x) and fits(Sizes(n, h, w, ALIGNED, self.out_channels))):
            return super()._conv_forward(x, weight, bias)
        maps = F.pad(x, (0, 0, 0, 0, 0, ALIGNED - channels)).contiguous(memory_format=torch.channels_last)
        return convolution(maps, self.padded, bias)
