"""Layers of the UNet: residual blocks, downsampling and upsampling, and the blocks that contain them."""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.attention import KeysValues, SpatialTransformer
from ldm.norm import GroupNorm


class Parts(NamedTuple):
    """A map in parts, as `GroupNorm.join` takes them: the channels of h, then those of skip + residual."""

    h: Tensor
    skip: Tensor
    residual: Tensor | float


class AddedConv2d(nn.Conv2d):
    """A 3x3 convolution whose result is a change of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def add_to(self, x: Tensor, h: Tensor) -> Tensor:
        """Return x plus the convolution of h, both [n, channels, h, w]."""
        return x + self(h)

    def add_to_skip(self, skip: nn.Module, x: Tensor, h: Tensor) -> Tensor:
        """Return skip(x) plus the convolution of h."""
        return self.add_to(skip(x), h)


class ResBlock(nn.Module):
    """Two convolutions with a skip connection; the time shift is added between them.

    The shift depends only on the timestep, so the caller computes it and passes it in. A pipeline computes the shifts
    once, the reference in every pass.
    """

    def __init__(self, channels: int, out_channels: int, emb_width: int, groups: int) -> None:
        super().__init__()
        # Identity replaces the original's SiLU and dropout, so that the keys match.
        self.in_layers = nn.Sequential(
            GroupNorm(groups, channels, silu=True), nn.Identity(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_width, out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm(groups, out_channels, silu=True),
            nn.Identity(),
            nn.Identity(),
            AddedConv2d(out_channels),
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        self.shift_width = out_channels

    def shift(self, emb: Tensor) -> Tensor:
        """Time embeddings [n, emb_width] -> the shift added between the convolutions, [n, out_channels]."""
        return self.emb_layers(emb)

    def normalized(self, x: Tensor | Parts) -> tuple[Tensor, Tensor]:
        """Return x as one map, and its norm."""
        norm = cast(GroupNorm, self.in_layers[0])
        return norm.join(*x) if isinstance(x, Parts) else (x, norm(x))

    def forward(self, x: Tensor | Parts, shift: Tensor) -> Tensor:
        # x: [n, channels, h, w], shift: [n or 1, out_channels]
        x, h = self.normalized(x)
        h = self.out_layers[0](self.in_layers[2](h), shift)
        return self.last_convolution.add_to_skip(self.skip_connection, x, h)

    @property
    def last_convolution(self) -> AddedConv2d:
        return cast(AddedConv2d, self.out_layers[3])


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Block(nn.ModuleList):
    """Layers in sequence. Each ResBlock uses the next item of `shifts`, each SpatialTransformer the next of `texts`."""

    def forward(self, h: Tensor | Parts, shifts: Iterator[Tensor], texts: Iterator[KeysValues]) -> Tensor:
        # h: parts only if the first layer is a ResBlock
        for layer in self:
            if isinstance(layer, ResBlock):
                h = layer(h, next(shifts))
            elif isinstance(layer, SpatialTransformer):
                h = layer(h, next(texts))
            else:
                h = layer(h)
        return cast(Tensor, h)
