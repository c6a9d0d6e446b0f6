"""The kernel, in Triton: several products of float16, each tile of a result by one program.

Product i is y_i[row] = factors[picture of row, i] * (x_i[row % rows of x_i] w_i^T + b_i). All results have PICTURES
pictures, and rows are their pixels. STARTS has the first program of each product, in increasing order.
"""

import triton
import triton.language as tl


@triton.jit
def canny2image_zero_convolutions(
    xs, weights, biases, results, factors, STARTS: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
    X_ROWS: tl.constexpr, PICTURES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    tl.inline_asm_elementwise(
        "griddepcontrol.wait; mov.u32 $0, 0;", "=r,r", [tl.program_id(0)], dtype=tl.int32, is_pure=False, pack=1
    )
    COUNT: tl.constexpr = len(STARTS)
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the last products first: they have the longest sums
    product = 0
    start, channels, pixels, x_rows = STARTS[0], CHANNELS[0], PIXELS[0], X_ROWS[0]
    x, weight, bias, result = xs[0], weights[0], biases[0], results[0]
    for i in tl.static_range(1, COUNT):
        if tile >= STARTS[i]:
            product = i
            start, channels, pixels, x_rows = STARTS[i], CHANNELS[i], PIXELS[i], X_ROWS[i]
            x, weight, bias, result = xs[i], weights[i], biases[i], results[i]
    across = (channels + COLUMNS - 1) // COLUMNS
    row = (tile - start) // across * ROWS + tl.arange(0, ROWS)
    column = (tile - start) % across * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    last = PICTURES * pixels - 1
    x_at = x + (tl.minimum(row, last) % x_rows)[:, None] * channels + depth[None, :]
    weight_at = weight + tl.minimum(column, channels - 1)[None, :] * channels + depth[:, None]
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for _ in range(0, channels, DEPTH):
        sums = tl.dot(tl.load(x_at), tl.load(weight_at), sums)
        x_at += DEPTH
        weight_at += DEPTH
    inside = (row <= last)[:, None] & (column < channels)[None, :]
    factor = tl.load(factors + tl.minimum(row, last) // pixels * COUNT + product).to(tl.float32)
    sums += tl.load(bias + tl.minimum(column, channels - 1)).to(tl.float32)[None, :]
    at = row[:, None] * channels + column[None, :]
    tl.store(result + at, (sums * factor[:, None]).to(tl.float16), mask=inside)
