"""The UNet of Stable Diffusion 1.5 (Rombach et al. 2022). Its encoder is a separate class, the base of ControlNet."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ldm.attention import KeysValues, SpatialTransformer
from ldm.blocks import Block, Downsample, Parts, ResBlock, Upsample
from ldm.config import UNetConfig
from ldm.norm import GroupNorm


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Embed timesteps t [n] as sinusoids [n, width], cosines first, in float32 (Vaswani et al. 2017)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Encoder(nn.Module):
    """Time embedding, input blocks and middle block: the layers that UNet and ControlNet both have."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.model_channels
        self.emb_width = 4 * width
        self.time_embed = nn.Sequential(
            nn.Linear(width, self.emb_width), nn.SiLU(), nn.Linear(self.emb_width, self.emb_width)
        )
        self.input_blocks = nn.ModuleList([Block([nn.Conv2d(config.in_channels, width, 3, padding=1)])])
        self.skip_channels = [width]
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.res_blocks):
                self._add_input(self._res_and_transformer(width, mult * config.model_channels, level))
                width = mult * config.model_channels
            if level < len(config.channel_mult) - 1:
                self._add_input([Downsample(width)])
        self.middle_block = Block([self._res(width, width), self._transformer(width), self._res(width, width)])
        self.middle_channels = width

    def time_shifts(self, t: Tensor) -> list[Tensor]:
        """Timesteps [n] -> the shift [n, c] of each ResBlock, in the order of use."""
        waves = timestep_embedding(t, self.config.model_channels)
        emb = self.time_embed(waves.to(next(self.time_embed.parameters()).dtype))
        return [block.shift(emb) for block in self.res_blocks()]

    def keys_values(self, context: Tensor) -> list[KeysValues]:
        """Text [n, 77, context_width] -> keys and values of each cross-attention, in the order of use."""
        return [layer.block.attn2.keys_values(context) for layer in self.transformers()]

    def encode(
        self, x: Tensor, shifts: Iterable[Tensor], texts: Iterable[KeysValues], hint: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Latent [n, 4, h, w] -> the skips, which are the outputs of all input blocks, and the middle block's output.

        hint: [n or 1, model_channels, h, w], added to the output of the first convolution; for ControlNet.
        """
        shifts, texts = iter(shifts), iter(texts)
        h = self.input_blocks[0](x, shifts, texts)
        skips = [h if hint is None else h + hint]
        for block in self.input_blocks[1:]:
            skips.append(block(skips[-1], shifts, texts))
        middle = self.middle_block(skips[-1], shifts, texts)
        return skips, middle

    def res_blocks(self) -> list[ResBlock]:
        """Return all ResBlocks in the order of use, which is the order of registration."""
        return [module for module in self.modules() if isinstance(module, ResBlock)]

    def transformers(self) -> list[SpatialTransformer]:
        """Return all transformers in the order of use."""
        return [module for module in self.modules() if isinstance(module, SpatialTransformer)]

    def _add_input(self, layers: list[nn.Module]) -> None:
        self.input_blocks.append(Block(layers))
        last = layers[0]
        self.skip_channels.append(last.shift_width if isinstance(last, ResBlock) else self.skip_channels[-1])

    def _res_and_transformer(self, channels: int, out_channels: int, level: int) -> list[nn.Module]:
        layers: list[nn.Module] = [self._res(channels, out_channels)]
        if level in self.config.attention_levels:
            layers.append(self._transformer(out_channels))
        return layers

    def _res(self, channels: int, out_channels: int) -> ResBlock:
        return ResBlock(channels, out_channels, self.emb_width, self.config.groups)

    def _transformer(self, channels: int) -> SpatialTransformer:
        return SpatialTransformer(channels, self.config.context_width, self.config.heads, self.config.groups)


class UNet(Encoder):
    """Predicts the noise eps in a latent from timestep, text, and ControlNet's residuals for skips and middle."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        skips = list(self.skip_channels)
        width = self.middle_channels
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.res_blocks + 1):
                layers = self._res_and_transformer(width + skips.pop(), mult * config.model_channels, level)
                width = mult * config.model_channels
                if level > 0 and i == config.res_blocks:
                    layers.append(Upsample(width))
                self.output_blocks.append(Block(layers))
        self.out = nn.Sequential(
            GroupNorm(config.groups, width, silu=True),
            nn.Identity(),
            nn.Conv2d(width, config.in_channels, 3, padding=1),
        )

    def decode(
        self,
        skips: Sequence[Tensor],
        middle: Tensor,
        control: Sequence[Tensor | float],
        shifts: Iterable[Tensor],
        texts: Iterable[KeysValues],
    ) -> Tensor:
        """Outputs of `encode` and ControlNet's residuals (the last for the middle; zeros: no control) -> eps."""
        shifts, texts = iter(shifts), iter(texts)
        h = middle + control[-1]
        for block, skip, residual in zip(self.output_blocks, reversed(skips), reversed(control[:-1]), strict=True):
            h = block(Parts(h, skip, residual), shifts, texts)
        return self.out(h)

    def forward(self, x: Tensor, t: Tensor, context: Tensor, control: Sequence[Tensor | float]) -> Tensor:
        # The network as in the paper. The pipeline's stages call encode and decode with precomputed shifts and texts.
        shifts, texts = iter(self.time_shifts(t)), iter(self.keys_values(context))
        skips, middle = self.encode(x, shifts, texts)
        return self.decode(skips, middle, control, shifts, texts)
