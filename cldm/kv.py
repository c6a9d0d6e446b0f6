"""What all layers need of text and time, side by side in two tensors.

`kv` [n, 77, K] holds keys and values of the text for every cross-attention. They depend on the prompts alone, so one
call of the text stage makes them for all steps of a picture. `shift` [1, S] holds what the timestep adds in every
ResBlock. Both go through ControlNet, the UNet's encoder and its decoder, layer by layer in the order of use.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cldm.model import ControlLDM
from ldm.attention import KeysValues
from ldm.unet import Encoder


def pack(texts: Sequence[KeysValues]) -> Tensor:
    """Keys and values of each layer, [n, 77, width] each -> [n, 77, twice the sum of the widths]."""
    return torch.cat([tensor for keys_values in texts for tensor in keys_values], dim=-1)


def unpack(kv: Tensor, widths: Sequence[int]) -> list[KeysValues]:
    """Views on the layers of `kv`, the inverse of `pack`."""
    parts = kv.split([width for width in widths for _ in range(2)], dim=-1)
    return list(zip(parts[::2], parts[1::2], strict=True))


@dataclass(frozen=True)
class Slice:
    """The part of `shift` and `kv` that belongs to one stage's layers."""

    shift_start: int
    shift_widths: tuple[int, ...]
    kv_start: int
    kv_widths: tuple[int, ...]

    def shifts(self, shift: Tensor) -> list[Tensor]:
        return list(shift[:, self.shift_start : self.shift_end].split(self.shift_widths, dim=1))

    def texts(self, kv: Tensor) -> list[KeysValues]:
        return unpack(kv[..., self.kv_start : self.kv_end], self.kv_widths)

    @property
    def shift_end(self) -> int:
        return self.shift_start + sum(self.shift_widths)

    @property
    def kv_end(self) -> int:
        return self.kv_start + 2 * sum(self.kv_widths)


def model_slices(model: ControlLDM) -> tuple[Slice, Slice, Slice]:
    """The slices of ControlNet, the UNet's encoder and its decoder; each starts where the one before ends."""
    shifts, texts = _widths(model.unet)
    half_shifts, half_texts = _widths(model.control)  # as many as the UNet's encoder has
    control = Slice(0, half_shifts, 0, half_texts)
    encoder = Slice(control.shift_end, shifts[: len(half_shifts)], control.kv_end, texts[: len(half_texts)])
    decoder = Slice(encoder.shift_end, shifts[len(half_shifts) :], encoder.kv_end, texts[len(half_texts) :])
    return control, encoder, decoder


def _widths(half: Encoder) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (
        tuple(block.shift_width for block in half.res_blocks()),
        tuple(layer.proj_in.out_channels for layer in half.transformers()),
    )
