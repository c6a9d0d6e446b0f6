"""Split-K convolutions: for 3x3 convolutions over few pixels and many channels, split each sum into parallel parts.

At 8x12 pixels and 1280 channels there are few outputs, and each is a sum of 11,520 products. A kernel that assigns each
tile of outputs to one multiprocessor leaves most of the GPU idle: on an H200 cuDNN takes 24 us, although reading the
weights takes only 7 us. This kernel computes parts of the sums in parallel and takes 17 us. torch.compile adds the
parts, always in the same order, in the kernel that adds the bias.
"""

from functools import reduce

import torch
from torch import Tensor, nn

from ldm.blocks import AddedConv2d
from plugins.choices import Choice, chosen
from plugins.compiling import compiles_half
from plugins.split_k_tiles import parts_choice


class SplitKConv2d(AddedConv2d):
    """Any 3x3 convolution. Under torch.compile, on a GPU in float16, its sums are split if that is faster."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        parts = chosen(self.choice(x)) if compiles_half(x) else 0
        if not parts:
            return super()._conv_forward(x, weight, bias)
        from plugins.split_k_kernel import convolution_parts  # imported here, because Triton takes seconds to import

        weight = weight.permute(0, 2, 3, 1).contiguous()
        split = convolution_parts(x.permute(0, 2, 3, 1).contiguous(), weight, self.stride[0], parts)
        total = reduce(torch.add, split.unbind(0))
        return (total if bias is None else total + bias).to(x.dtype).permute(0, 3, 1, 2)

    def choice(self, x: Tensor) -> Choice:
        """Return the choice of the number of parts for a map on a GPU."""
        stride, (n, channels, h, w) = self.stride[0], x.shape
        pixels = n * -(-h // stride) * -(-w // stride)
        processors = torch.cuda.get_device_properties(x.device).multi_processor_count
        return parts_choice(pixels, channels, self.out_channels, processors)


def split_convolutions(model: nn.Module) -> None:
    """Turn the 3x3 convolutions of a model on a GPU into `SplitKConv2d`, in place.

    Weights and names stay the same; results differ only by rounding.
    """
    if torch.cuda.get_device_capability(next(model.parameters()).device) < (8, 0):
        return  # the kernel needs more shared memory than older GPUs have
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and type(module) in (nn.Conv2d, AddedConv2d) and _is_3x3(module):
            module.__class__ = SplitKConv2d


def _is_3x3(layer: nn.Conv2d) -> bool:
    return (layer.kernel_size, layer.padding) == ((3, 3), (1, 1))
