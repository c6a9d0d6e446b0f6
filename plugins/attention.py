"""Attention over few tokens as one Triton kernel.

The libraries' attention is made for long sequences: for 24 to 384 tokens cuDNN takes 7 to 10 us on an H200, and clears
memory first. This kernel takes 3 to 7 us. For longer sequences cuDNN is as fast, so PyTorch's attention remains, except
for narrow heads. `plugins/long_attention` is faster, but engines do not use it yet.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from ldm.attention import attend
from plugins.compiling import compiles_half
from plugins.hopper.compile import HOPPER

MOST_TOKENS = 512  # keys; at 1536 cuDNN is as fast, except for narrow heads
# Width of a head up to which it is padded to 16. At 1536 tokens and a width of 8, this kernel takes 21 us on an H200
# and cuDNN 32, as long as at 40. Widths of 9 to 16 were not measured.
NARROW = 16
LIBRARIES_WIDTH = 256  # of a head; for wider ones PyTorch has only its slowest kernel: 127 us in the VAE on an H200
MOST_SCORES = 4096**2  # per picture; they take 64 MiB
PROGRAMS = 96  # enough to occupy most of an H200's 132 multiprocessors
LOG2_E = 1.4426950408889634


def fused_attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Compute the same as `ldm.attention.attend`."""
    if not compiles_half(q):
        return attend(q, k, v, heads)
    if q.shape[2] > heads * LIBRARIES_WIDTH:
        few = heads == 1 and q.shape[1] * k.shape[1] <= MOST_SCORES
        return products_attention(q, k, v) if few else attend(q, k, v, heads)
    few = k.shape[1] <= MOST_TOKENS or q.shape[2] <= heads * NARROW
    return attention(q, k, v, heads) if few else attend(q, k, v, heads)


def products_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute the attention of one head as two products with the softmax between them. Scores are float32."""
    scores = torch.bmm(q, k.transpose(1, 2), out_dtype=torch.float32) * q.shape[2] ** -0.5
    return torch.bmm(scores.softmax(dim=-1).to(v.dtype), v)


@triton_op("canny2image::attention", mutates_args={})
def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """Return the attention of q [n, rows, width] to k and v [n, tokens, width], with the heads side by side.

    All float16, contiguous along the width; k and v have equal strides. Sums and softmax are float32.
    causal: row i attends only to the tokens up to i.
    """
    (n, rows, width), tokens = q.shape, k.shape[1]
    head = width // heads
    padded = max(16, triton.next_power_of_2(head))
    tile = rows_for(n * heads, rows, padded)
    if tokens > MOST_TOKENS:
        tile = min(tile, 64)
    part = tokens_for(rows, tokens, padded)
    result = torch.empty((n, rows, width), dtype=q.dtype, device=q.device)
    wrap_triton(canny2image_attention)[(triton.cdiv(rows, tile), heads, n)](
        q, k, v, result, rows, q.stride(0), q.stride(1), k.stride(0), k.stride(1), WIDTH=width, HEAD=head,
        PADDED=padded, KEYS=tokens, SCALE=head**-0.5 * LOG2_E, ROWS=tile, TOKENS=part, CAUSAL=causal,
        WAITS=torch.cuda.get_device_capability(q.device) >= HOPPER, num_warps=4, num_stages=2,
    )  # fmt: skip
    return result


def rows_for(heads: int, rows: int, padded: int) -> int:
    """Return the rows of q per program. heads: of all pictures; padded: width of a head, as a power of two."""
    tile = min(128, 8192 // padded)
    while tile > 16 and triton.cdiv(rows, tile) * heads < PROGRAMS:
        tile //= 2
    return tile


def tokens_for(rows: int, tokens: int, padded: int) -> int:
    """Return the keys that a program reads at once."""
    if tokens > MOST_TOKENS or (tokens != rows and padded * 128 <= 2**15):
        return 128  # all of a text, or of many
    return 64 if padded <= 128 else 32


@triton.jit
def canny2image_attention(
    q, k, v, result, rows, q_text, q_row, k_text, k_token, WIDTH: tl.constexpr, HEAD: tl.constexpr,
    PADDED: tl.constexpr, KEYS: tl.constexpr, SCALE: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    CAUSAL: tl.constexpr, WAITS: tl.constexpr,
):  # fmt: skip
    if WAITS:  # for the previous kernel: see runtime/early_launch.py
        tl.extra.cuda.gdc_wait()
    # A program computes some rows of one head, with the softmax over one part of the keys after another (Milakov and
    # Gimelshein 2018). SCALE includes log2(e), because exp2 is faster than exp.
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)
    real = (column < HEAD)[None, :]
    channel = tl.program_id(1) * HEAD + column[None, :]
    n = tl.program_id(2)
    queries = tl.load(q + n * q_text + tl.minimum(row, rows - 1)[:, None] * q_row + channel, mask=real, other=0.0)
    highest = tl.full((ROWS,), -float("inf"), dtype=tl.float32)
    weights = tl.zeros((ROWS,), dtype=tl.float32)
    total = tl.zeros((ROWS, PADDED), dtype=tl.float32)
    for start in range(0, KEYS, TOKENS):
        token = start + tl.arange(0, TOKENS)
        at = n * k_text + token[:, None] * k_token + channel
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
    at = (n * rows + row)[:, None] * WIDTH + channel
    tl.store(result + at, (total / weights[:, None]).to(result.dtype.element_ty), mask=(row < rows)[:, None] & real)
