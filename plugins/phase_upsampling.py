"""Phase upsampling: computes nearest upsampling by two and the following 3x3 convolution from the small map.

Along each axis, an output pixel reads three pixels of the upsampled map, which are only two pixels of the small map:
one of them twice, so that two of the kernel's columns can be added before. An output pixel is therefore one of four 2x2
convolutions of the small map, depending on whether its row and column are even or odd: its phase. All phases together
need 4/9 of the operations, but their kernels have 16/9 of the weights.
"""

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.blocks import Upsample
from plugins.choices import Choice, chosen

# Pixels of all small maps together from which saved operations outweigh larger kernels. On an H100, as four separate
# convolutions, the phases of 768 and more pixels are faster (256 to 1280 channels), and those of 192 are slower.
PIXELS = 768


class PhaseUpsample(Upsample):
    """Upsample that uses the phases of large maps. `sums` holds their kernels."""

    sums: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not chosen(self.choice(x)):
            return super().forward(x)
        return upsample(x, self.sums, cast(Tensor, self.conv.bias))

    def choice(self, x: Tensor) -> Choice:
        """Return the choice between the 3x3 convolution, 0, and the phases, 1."""
        n, channels, h, w = x.shape
        question = f"upsampling in phases of {n * h * w} pixels, {channels} to {self.conv.out_channels} channels"
        return Choice(question, (0, 1), int(pays(n * h * w)))

    def derive(self) -> None:
        self.sums.copy_(phase_kernels(self.conv.weight))


def upsample(x: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    """Return the upsampled map's convolution: x [n, c, h, w], kernels [4 * o, c, 2, 2] -> [n, o, 2h, 2w]."""
    # Row i of y has the output rows 2i - 1 and 2i, and its columns likewise: one row and column too many per side.
    y = F.conv2d(x, kernels, padding=1)
    y = rearrange(y, "n (p q c) h w -> n (h p) (w q) c", p=2, q=2)[:, 1:-1, 1:-1]
    return (y + bias).permute(0, 3, 1, 2)


def pays(pixels: int) -> bool:
    """Return whether the phases of small maps with `pixels` pixels together are faster than the 3x3 convolution."""
    return pixels >= PIXELS


def upsample_in_phases(model: nn.Module) -> None:
    """Turn the `Upsample`s of a model into `PhaseUpsample`, in place.

    Weights and names stay the same; results differ only by rounding.
    """
    for module in model.modules():
        if type(module) is Upsample:
            module.__class__ = PhaseUpsample
            module.register_buffer("sums", phase_kernels(module.conv.weight.data), persistent=False)


def phase_kernels(weight: Tensor) -> Tensor:
    """3x3 kernels [o, c, 3, 3] -> the kernels of the phases, [4 * o, c, 2, 2] in channels-last.

    Order: odd rows and columns, odd rows and even columns, even rows and odd columns, even rows and columns.
    """
    # Along an axis, the weights a, b, c become a, a + b, b + c, c. An even phase has the first and third, an odd phase
    # the second and fourth. For half precision, pooling adds in float32 and rounds once.
    sums = F.avg_pool2d(weight, 2, stride=1, padding=1, divisor_override=1)
    kernels = rearrange(sums, "o c (h p) (w q) -> p q o c h w", p=2, q=2).flip(0, 1).flatten(0, 2)
    return kernels.contiguous(memory_format=torch.channels_last)
