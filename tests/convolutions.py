"""The arithmetic of the convolution kernel's indices, in PyTorch, and the sizes that tests use."""

import torch
from torch import Tensor

from plugins.convolution.tiles import Sizes, Tile

ODD = [Sizes(1, 5, 7, 128, 64), Sizes(3, 9, 11, 64, 192), Sizes(2, 1, 1, 128, 128), Sizes(1, 17, 40, 64, 64)]


def emulate(tile: Tile, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the convolution of x [n, h, w, c] and weight [o, 3, 3, c], and how often each output was written."""
    n, h, w, c = x.shape
    outs = weight.shape[0]
    sizes = Sizes(n, h, w, c, outs)
    by_row, filters = x.transpose(0, 1), weight.flatten(1)
    result, writes = torch.zeros(n, h, w, outs, dtype=x.dtype), torch.zeros(n, h, w, outs, dtype=torch.int)
    across, down, blocks = -(-w // tile.columns), -(-h // tile.rows), c // 64
    for number in range(tile.programs(sizes) // tile.parts):
        outs_at, block = number % (outs // tile.outs) * tile.outs, number // (outs // tile.outs)
        left, top = block % across * tile.columns, block // across % down * tile.rows
        first_picture = block // across // down * tile.pictures
        total = torch.zeros(tile.outs, tile.pixels, dtype=x.dtype)
        for part in range(tile.parts):
            for step in range(part * 3 * blocks // tile.parts, (part + 1) * 3 * blocks // tile.parts):
                column, channel = step // blocks, step % blocks * 64
                at = top - 1, first_picture, left - 1 + column, channel
                rows = box(by_row, at, (tile.rows + 2, tile.pictures, tile.columns, 64)).flatten(1, 2)
                for row in range(3):
                    of_row = box(filters, (outs_at, (row * 3 + column) * c + channel), (tile.outs, 64))
                    total += of_row @ rows[row : row + tile.rows].flatten(0, 1).T
        pixel = torch.arange(tile.pixels)
        y = pixel // (tile.pictures * tile.columns) + top
        picture, left_of = pixel // tile.columns % tile.pictures + first_picture, pixel % tile.columns + left
        inside = (y < h) & (picture < n) & (left_of < w)
        where = picture[inside], y[inside], left_of[inside], slice(outs_at, outs_at + tile.outs)
        result[where] = total.T[inside]
        writes[where] += 1
    return result, writes


def box(tensor: Tensor, start: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Return a part of the tensor, with zeros beyond its bounds, as TMA loads it."""
    result = torch.zeros(shape, dtype=tensor.dtype)
    ends = [(max(at, 0), min(at + size, length)) for at, size, length in zip(start, shape, tensor.shape, strict=True)]
    if all(first < end for first, end in ends):
        target = tuple(slice(first - at, end - at) for (first, end), at in zip(ends, start, strict=True))
        result[target] = tensor[tuple(slice(*one) for one in ends)]
    return result
