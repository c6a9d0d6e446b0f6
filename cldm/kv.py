"""Keys and values of the text for every cross-attention, side by side in one tensor.

They depend on the prompts alone, so one call of the text stage makes them for all steps of a picture.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.attention import KeysValues


def pack(texts: Sequence[KeysValues]) -> Tensor:
    """Keys and values of each layer, [n, 77, width] each -> [n, 77, twice the sum of the widths]."""
    return torch.cat([tensor for keys_values in texts for tensor in keys_values], dim=-1)


def unpack(bank: Tensor, widths: Sequence[int]) -> list[KeysValues]:
    """Views on the layers of `bank`, the inverse of `pack`."""
    parts = bank.split([width for width in widths for _ in range(2)], dim=-1)
    return list(zip(parts[::2], parts[1::2], strict=True))
