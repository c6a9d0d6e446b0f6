"""The model's own layers on our kernels: the same weights under another forward.

It is taken where torch.compile compiles for a GPU in half precision; anywhere else these layers are the plain ones.
Maps go between kernels as [n, h, w, c], which is how channels-last maps [n, c, h, w] lie in memory.
"""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.attention import KeysValues, SpatialTransformer, tiled
from ldm.blocks import Downsample, ResBlock, Upsample
from ldm.vae import ResnetBlock
from plugins.convolution import convolution_parts, parts_for
from plugins.normalization import group_norm


def use_kernels(model: nn.Module) -> None:
    """Let all layers of the model that have a faster form take it. Weights, names and results stay, but for rounding.

    The weights of convolutions have to be in channels-last format.
    """
    for module in model.modules():
        if type(module) in FASTER:
            module.__class__ = FASTER[type(module)]


def is_for_kernels(x: Tensor) -> bool:
    return torch.compiler.is_compiling() and x.is_cuda and x.dtype == torch.float16


class FastResBlock(ResBlock):
    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        if not is_for_kernels(x):
            return super().forward(x, shift)
        norm1, conv1 = _ends(self.in_layers)
        norm2, conv2 = _ends(self.out_layers)
        h = convolve(normalize(last(x)[None], norm1, silu=True), conv1)
        h = convolve(normalize(h, norm2, silu=True, lacking=conv1.bias, shift=shift), conv2)
        return self.skip_connection(x) + first(added(h, conv2, x.dtype))


class FastSpatialTransformer(SpatialTransformer):
    def forward(self, x: Tensor, text: KeysValues) -> Tensor:
        if not is_for_kernels(x):
            return super().forward(x, text)
        tokens = normalize(last(x)[None], self.norm, silu=False).flatten(1, 2)
        tokens = F.linear(tokens, self.proj_in.weight.flatten(1), self.proj_in.bias)
        tokens = self.transformer_blocks[0](tokens, text)
        tokens = F.linear(tokens, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return tiled(x, len(tokens)) + first(tokens.unflatten(1, x.shape[2:]))


class FastDownsample(Downsample):
    def forward(self, x: Tensor) -> Tensor:
        return _convolution(x, self.op) if is_for_kernels(x) else super().forward(x)


class FastUpsample(Upsample):
    def forward(self, x: Tensor) -> Tensor:
        if not is_for_kernels(x):
            return super().forward(x)
        return _convolution(F.interpolate(x, scale_factor=2.0, mode="nearest"), self.conv)


class FastResnetBlock(ResnetBlock):
    def forward(self, x: Tensor) -> Tensor:
        if not is_for_kernels(x):
            return super().forward(x)
        h = convolve(normalize(last(x)[None], self.norm1, silu=True), self.conv1)
        h = convolve(normalize(h, self.norm2, silu=True, lacking=self.conv1.bias), self.conv2)
        return (self.nin_shortcut(x) if self.widens else x) + first(added(h, self.conv2, x.dtype))


FASTER: dict[type[nn.Module], type[nn.Module]] = {
    ResBlock: FastResBlock,
    SpatialTransformer: FastSpatialTransformer,
    Downsample: FastDownsample,
    Upsample: FastUpsample,
    ResnetBlock: FastResnetBlock,
}


def last(x: Tensor) -> Tensor:
    """[n, c, h, w] -> [n, h, w, c]."""
    return x.permute(0, 2, 3, 1).contiguous()


def first(x: Tensor) -> Tensor:
    """[n, h, w, c] -> [n, c, h, w]."""
    return x.permute(0, 3, 1, 2)


def normalize(
    x: Tensor, norm: nn.GroupNorm, silu: bool, lacking: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """Parts [parts, n, h, w, c] -> the norm of their sum and of what it lacks, [n, h, w, c]."""
    flat = group_norm(x.flatten(2, 3), lacking, shift, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)
    return flat.unflatten(1, x.shape[2:4])


def convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """[n, h, w, c] -> parts of the 3x3 convolution, the bias not added, [parts, n, h', w', o]."""
    stride = conv.stride[0]
    n, h, w, channels = x.shape
    parts = parts_for(n * -(-h // stride) * -(-w // stride), channels, conv.out_channels)
    if parts:
        return convolution_parts(x, conv.weight.permute(0, 2, 3, 1), stride, parts)
    return last(F.conv2d(first(x), conv.weight, None, conv.stride, conv.padding))[None]


def added(parts: Tensor, conv: nn.Conv2d, dtype: torch.dtype) -> Tensor:
    """The convolution from its parts, with its bias."""
    assert conv.bias is not None
    return (reduce(torch.add, parts.float().unbind(0)) + conv.bias).to(dtype)


def _convolution(x: Tensor, conv: nn.Conv2d) -> Tensor:
    return first(added(convolve(last(x), conv), conv, x.dtype))


def _ends(layers: nn.Sequential) -> tuple[nn.GroupNorm, nn.Conv2d]:
    """The norm and the convolution with SiLU between them."""
    norm, conv = layers[0], layers[-1]
    assert isinstance(norm, nn.GroupNorm)
    assert isinstance(conv, nn.Conv2d)
    return norm, conv
