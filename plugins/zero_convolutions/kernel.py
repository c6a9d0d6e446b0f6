"""The kernel, in Triton: several products of float16, each tile of a result by one program.

Product i is y_i[row] = factors[picture of row, i] * (x_i[row % rows of x_i] w_i^T + b_i). All results have PICTURES
pictures, and rows are their pixels. STARTS has the first tile of each product, in increasing order. KINDS has the index
of its sizes in CHANNELS, ROWS, COLUMNS and STAGES: channels, rows and columns of a tile, and steps that are loaded
ahead. Each kind has its own code, so that addresses and loops are known to the compiler.
"""

import triton
import triton.language as tl


@triton.jit
def canny2image_zero_convolutions(
    xs, weights, biases, results, factors, STARTS: tl.constexpr, PIXELS: tl.constexpr, MAPS: tl.constexpr,
    KINDS: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr,
    PICTURES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    # Waits for the previous kernel: see runtime/early_launch.py.
    tl.inline_asm_elementwise(
        "griddepcontrol.wait; mov.u32 $0, 0;", "=r,r", [tl.program_id(0)], dtype=tl.int32, is_pure=False, pack=1
    )
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the last products first: they have the longest sums
    product, kind, start, pixels, x_rows = 0, KINDS[0], 0, PIXELS[0], PIXELS[0] * MAPS[0]
    x, weight, bias, result = xs[0], weights[0], biases[0], results[0]
    for i in tl.static_range(1, len(STARTS)):
        if tile >= STARTS[i]:
            product, kind, start, pixels, x_rows = i, KINDS[i], STARTS[i], PIXELS[i], PIXELS[i] * MAPS[i]
            x, weight, bias, result = xs[i], weights[i], biases[i], results[i]
    factor = factors + product
    for k in tl.static_range(len(CHANNELS)):
        if kind == k:
            _tile(x, weight, bias, result, factor, len(STARTS), tile - start, PICTURES * pixels, pixels, x_rows,
                  CHANNELS[k], ROWS[k], COLUMNS[k], STAGES[k], DEPTH)  # fmt: skip


@triton.jit
def _tile(
    x, weight, bias, result, factors, PRODUCTS: tl.constexpr, tile, all_rows, pixels, x_rows, CHANNELS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    ACROSS: tl.constexpr = (CHANNELS + COLUMNS - 1) // COLUMNS
    row = tile // ACROSS * ROWS + tl.arange(0, ROWS)
    column = tile % ACROSS * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    # Beyond the end, the last row and column are computed again and not stored.
    loaded, known = tl.minimum(row, all_rows - 1), tl.minimum(column, CHANNELS - 1)
    x_at = x + (loaded % x_rows)[:, None] * CHANNELS + depth[None, :]
    weight_at = weight + known[None, :] * CHANNELS + depth[:, None]
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in tl.range(0, CHANNELS, DEPTH, num_stages=STAGES):
        if CHANNELS % DEPTH == 0:
            sums = tl.dot(tl.load(x_at), tl.load(weight_at), sums)
        else:
            inside = depth < CHANNELS - start
            values = tl.load(x_at, mask=inside[None, :], other=0.0)
            sums = tl.dot(values, tl.load(weight_at, mask=inside[:, None], other=0.0), sums)
        x_at += DEPTH
        weight_at += DEPTH
    sums += tl.load(bias + known).to(tl.float32)[None, :]
    sums *= tl.load(factors + loaded // pixels * PRODUCTS).to(tl.float32)[:, None]
    inside = (row < all_rows)[:, None] & (column < CHANNELS)[None, :]
    tl.store(result + row[:, None] * CHANNELS + column[None, :], sums.to(tl.float16), mask=inside)
