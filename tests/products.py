"""The arithmetic of the product kernel's indices, in PyTorch, and the sizes that tests use."""

import torch
import torch.nn.functional as F
from torch import Tensor

from plugins.product.tiles import STEP, Sizes, Tile
from tests.convolutions import box

ODD = [Sizes(1, 64, 64), Sizes(70, 192, 128), Sizes(200, 448, 256), Sizes(130, 128, 128, gated=True)]


def emulate(tile: Tile, sizes: Sizes, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the product, with GEGLU if the sizes have gates, and how often each output was written."""
    halves = sizes.width // sizes.columns
    columns, deep = tile.width // halves, STEP * tile.blocks
    result, writes = torch.zeros(sizes.rows, sizes.columns, dtype=x.dtype), torch.zeros(sizes.rows, sizes.columns)
    steps, across = -(-sizes.depth // deep), sizes.columns // columns // (tile.share if tile.share_rows else 1)
    for first in range(0, tile.programs(sizes), tile.cluster):
        for member in range(tile.share):
            block, other = first // tile.cluster % across, first // tile.cluster // across
            if tile.share_rows:
                column, row = (block * tile.share + member) * columns, other * tile.rows
            else:
                column, row = block * columns, (other * tile.share + member) * tile.rows
            total = torch.zeros(tile.rows, tile.width, dtype=x.dtype)
            for part in range(tile.parts):
                for step in range(part * steps // tile.parts, (part + 1) * steps // tile.parts):
                    at = step * deep
                    rows = box(x, (row, at), (tile.rows, deep))
                    weights = [box(weight, (half * sizes.columns + column, at), (columns, deep)) for half in range(halves)]
                    total += rows @ torch.cat(weights).T
            value, *gates = total.chunk(halves, dim=1)
            here = slice(row, min(row + tile.rows, sizes.rows)), slice(column, column + columns)
            result[here] = (value * F.gelu(gates[0]) if gates else value)[: max(0, sizes.rows - row)]
            writes[here] += 1
    return result, writes
