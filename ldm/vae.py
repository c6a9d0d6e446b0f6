"""Stable Diffusion's autoencoder: converts pictures [n, 3, 8h, 8w] in -1..1 to latents [n, 4, h, w] and back."""

from itertools import pairwise

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.attention import Attend, attend
from ldm.blocks import AddedConv2d, Upsample
from ldm.config import VAEConfig
from ldm.norm import GroupNorm

EPS = 1e-6  # of every GroupNorm in this file


class ResnetBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, channels, EPS, silu=True)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(groups, out_channels, EPS, silu=True)
        self.conv2 = AddedConv2d(out_channels)
        if channels != out_channels:
            self.nin_shortcut = nn.Conv2d(channels, out_channels, 1)
        self.widens = channels != out_channels

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv1(self.norm1(x)))
        return self.conv2.add_to_skip(self.nin_shortcut, x, h) if self.widens else self.conv2.add_to(x, h)


class AttnBlock(nn.Module):
    """Self-attention over all pixels with one head; the projections are 1x1 convolutions.

    attend: the function, which may be replaced.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attend: Attend = attend
        self.norm = GroupNorm(groups, channels, EPS)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (rearrange(conv(h), "n c h w -> n (h w) c") for conv in (self.q, self.k, self.v))
        h = rearrange(self.attend(q, k, v, 1), "n (h w) c -> n c h w", h=x.shape[2])
        return x + self.proj_out(h)


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # the original pads only right and bottom


class Level(nn.Module):
    """Residual blocks at one resolution, then the module of `change`, if any, which is registered under its keyword."""

    def __init__(self, channels: int, out_channels: int, blocks: int, groups: int, **change: nn.Module) -> None:
        super().__init__()
        widths = [channels] + [out_channels] * blocks
        self.block = nn.ModuleList(ResnetBlock(a, b, groups) for a, b in pairwise(widths))
        self.changes = [*change]
        for key, module in change.items():
            self.add_module(key, module)

    def forward(self, h: Tensor) -> Tensor:
        for block in self.block:
            h = block(h)
        for key in self.changes:
            h = getattr(self, key)(h)
        return h


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, h: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(h)))


class VAEEncoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.channels * mult for mult in (1, *config.channel_mult)]
        lowest = len(config.channel_mult) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for i, (width, wider) in enumerate(pairwise(widths)):
            change = {"downsample": Downsample(wider)} if i < lowest else {}
            self.down.append(Level(width, wider, config.res_blocks, config.groups, **change))
        self.mid = Middle(widths[-1], config.groups)
        self.norm_out = GroupNorm(config.groups, widths[-1], EPS, silu=True)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        h = self.conv_in(picture)
        for level in self.down:
            h = level(h)
        return self.conv_out(self.norm_out(self.mid(h)))


class VAEDecoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.channels * mult for mult in (*config.channel_mult, config.channel_mult[-1])]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.groups)
        # up[i] works at 1 / 2**i of the picture's resolution. `forward` starts with the last, the coarsest level.
        self.up = nn.ModuleList()
        for i, (width, wider) in enumerate(pairwise(widths)):
            change = {"upsample": Upsample(width)} if i > 0 else {}
            self.up.append(Level(wider, width, config.res_blocks + 1, config.groups, **change))
        self.norm_out = GroupNorm(config.groups, widths[0], EPS, silu=True)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(self.norm_out(h))


class VAE(nn.Module):
    """KL autoencoder (Rombach et al. 2022). Latents are multiplied by `scale_factor`, as the diffusion expects."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.scale_factor = config.scale_factor
        self.encoder = VAEEncoder(config)
        self.decoder = VAEDecoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def moments(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Picture [n, 3, 8h, 8w] in -1..1 -> mean and log variance of the unscaled latent, each [n, 4, h, w]."""
        mean, log_variance = self.quant_conv(self.encoder(picture)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def encode(self, picture: Tensor) -> Tensor:
        """Picture [n, 3, 8h, 8w] in -1..1 -> the mean latent [n, 4, h, w], scaled."""
        return self.scale_factor * self.moments(picture)[0]

    def decode(self, x: Tensor) -> Tensor:
        """Scaled latent [n, 4, h, w] -> picture [n, 3, 8h, 8w], about -1..1."""
        return self.decoder(self.post_quant_conv(x / self.scale_factor))
