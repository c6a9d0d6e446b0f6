"""The arithmetic of the convolution kernel's indices, in PyTorch, and the sizes that tests use."""

import torch
from torch import Tensor

from plugins.convolution.tiles import Sizes, Tile, up

ODD = [Sizes(1, 5, 7, 128, 64), Sizes(3, 9, 11, 64, 192), Sizes(2, 1, 1, 128, 128), Sizes(1, 17, 40, 64, 64)]
# Channels with parts of a step, or of a tile.
UNEVEN = [
    Sizes(1, 5, 7, 8, 24),
    Sizes(2, 4, 6, 96, 96),
    Sizes(3, 9, 11, 24, 104),
    Sizes(2, 13, 5, 104, 8),
    Sizes(2, 8, 12, 40, 72),
    Sizes(1, 17, 21, 72, 40),
    Sizes(2, 9, 23, 136, 4),
    Sizes(1, 19, 30, 24, 3),
    Sizes(2, 3, 5, 64, 130),
]


def emulate(
    tile: Tile, x: Tensor, weight: Tensor, extra: Tensor | None = None, extra_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the convolution of x [n, h, w, c] and weight [o, 3, 3, c], and how often each output was written.

    extra [n, h, w, d], extra_weight [o, d]: of the 1x1 convolution. A tile with 2 taps takes weight [4 * o, 2, 2, c].
    """
    n, h, w, c = x.shape
    phases, taps, stride = (4, 2, 1) if tile.taps == 2 else (1, 3, tile.stride)
    h, w = up(h, stride), up(w, stride)
    outs, scale = weight.shape[0] // phases, 2 if phases == 4 else 1
    depth = 0 if extra is None else extra.shape[3]
    sizes = Sizes(n, h, w, c, outs, depth, taps, stride)
    by_row, filters = x.transpose(0, 1), weight.flatten(1)
    size = n, scale * h, scale * w, outs
    result, writes = torch.zeros(size, dtype=x.dtype), torch.zeros(size, dtype=torch.int)
    across, down, blocks = up(w, tile.columns), up(h, tile.rows), up(c, tile.step)
    out_tiles, extra_blocks = up(outs, tile.outs), up(depth, 64)
    for number in range(tile.programs(sizes) // tile.parts):
        outs_at, block = number % out_tiles * tile.outs, number // out_tiles // phases
        phase = number // out_tiles % phases
        before_row, before_column = divmod(phase, 2) if phases == 4 else (1, 1)
        left, top = block % across * tile.columns, block // across % down * tile.rows
        first_picture = block // across // down * tile.pictures
        total = torch.zeros(tile.outs, tile.pixels, dtype=x.dtype)
        for part in range(tile.parts):
            for step in range(part * taps * blocks // tile.parts, (part + 1) * taps * blocks // tile.parts):
                column, channel = step // blocks, step % blocks * tile.step
                at = stride * top - before_row, first_picture, stride * left - before_column + column, channel
                lengths = stride * tile.rows + taps - 1, tile.pictures, stride * tile.columns, tile.step
                rows = box(by_row, at, lengths)[:, :, ::stride].flatten(1, 2)
                for row in range(taps):
                    filter_at = phase * outs + outs_at, (row * taps + column) * c + channel
                    of_row = box(filters, filter_at, (tile.outs, tile.step))
                    total += of_row @ rows[row : row + stride * tile.rows : stride].flatten(0, 1).T
            for step in range(part * extra_blocks // tile.parts, (part + 1) * extra_blocks // tile.parts):
                assert extra is not None
                assert extra_weight is not None
                at = top, first_picture, left, step * 64
                rows = box(extra.transpose(0, 1), at, (tile.rows, tile.pictures, tile.columns, 64))
                total += box(extra_weight, (outs_at, step * 64), (tile.outs, 64)) @ rows.flatten(0, 2).T
        pixel = torch.arange(tile.pixels)
        y = pixel // (tile.pictures * tile.columns) + top
        picture, left_of = pixel // tile.columns % tile.pictures + first_picture, pixel % tile.columns + left
        inside = (y < h) & (picture < n) & (left_of < w)
        if phases == 4:
            y, left_of = 2 * y + 1 - before_row, 2 * left_of + 1 - before_column
        last = min(outs_at + tile.outs, outs)
        where = picture[inside], y[inside], left_of[inside], slice(outs_at, last)
        result[where] = total.T[inside][:, : last - outs_at]
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
