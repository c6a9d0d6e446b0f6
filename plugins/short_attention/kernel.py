"""The kernel, in Triton: the softmax over one part of the keys after another (Milakov and Gimelshein 2018)."""

import triton
import triton.language as tl


@triton.jit
def canny2image_attention(
    q, k, v, result, ROWS: tl.constexpr, KEYS: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr,
    PADDED: tl.constexpr, Q_TEXT: tl.constexpr, Q_ROW: tl.constexpr, K_TEXT: tl.constexpr, K_TOKEN: tl.constexpr,
    SCALE: tl.constexpr, CAUSAL: tl.constexpr, TILE: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    # Waits for the previous kernel: see runtime/early_launch.py.
    tl.inline_asm_elementwise(
        "griddepcontrol.wait; mov.u32 $0, 0;", "=r,r", [tl.program_id(0)], dtype=tl.int32, is_pure=False, pack=1
    )
    # A program computes TILE rows of one head. SCALE includes log2(e), because exp2 is faster than exp.
    TILES: tl.constexpr = (ROWS + TILE - 1) // TILE
    WIDTH: tl.constexpr = HEADS * HEAD
    program = tl.program_id(0)
    n = program // (TILES * HEADS)
    row = program % TILES * TILE + tl.arange(0, TILE)
    column = tl.arange(0, PADDED)
    real = (column < HEAD)[None, :]
    channel = program // TILES % HEADS * HEAD + column[None, :]
    queries = tl.load(q + n * Q_TEXT + tl.minimum(row, ROWS - 1)[:, None] * Q_ROW + channel, mask=real, other=0.0)
    highest = tl.full((TILE,), -float("inf"), dtype=tl.float32)
    weights = tl.zeros((TILE,), dtype=tl.float32)
    total = tl.zeros((TILE, PADDED), dtype=tl.float32)
    for start in range(0, KEYS, PART):
        token = start + tl.arange(0, PART)
        at = n * K_TEXT + token[:, None] * K_TOKEN + channel
        inside = real & (token < KEYS)[:, None]
        scores = tl.dot(queries, tl.trans(tl.load(k + at, mask=inside, other=0.0))) * SCALE
        scores = tl.where((token < KEYS)[None, :], scores, -float("inf"))
        if CAUSAL:  # in the first part every row has a token, so that `higher` is finite
            scores = tl.where(token[None, :] <= row[:, None], scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        shrink, part = tl.exp2(highest - higher), tl.exp2(scores - higher[:, None])
        weights = weights * shrink + tl.sum(part, axis=1)
        values = tl.load(v + at, mask=inside, other=0.0)
        total = tl.dot(part.to(values.dtype), values, total * shrink[:, None])
        highest = higher
    at = (n * ROWS + row)[:, None] * WIDTH + channel
    tl.store(result + at, (total / weights[:, None]).to(result.dtype.element_ty), mask=(row < ROWS)[:, None] & real)
