"""Matrix products whose kernel also does what follows them: the bias, and a residual or GEGLU.

At these sizes a product takes 4 to 13 us on an H200, and a kernel that only adds or multiplies element by element takes
3 to 13 us more. On Hopper GPUs `plugins/product` computes what fits, in the same ops.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from plugins.product.compile import runs_on
from plugins.product.op import product
from plugins.product.tiles import Sizes, fits


@triton_op("canny2image::linear_add", mutates_args={})
def linear_add(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """Return x weight^T + bias + residual.

    x [rows, depth], weight [columns, depth], bias [columns], residual [rows, columns]: float16, contiguous; depth a
    multiple of 32. Sums are float32.
    """
    (rows, depth), columns = x.shape, weight.shape[0]
    if _suits_hopper(x, Sizes(rows, depth, columns)):
        return product(x, weight, bias, residual)
    result = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    tile = linear_tile(rows, depth)
    grid = (triton.cdiv(columns, tile["COLUMNS"]), triton.cdiv(rows, tile["ROWS"]))
    wrap_triton(_product)[grid](x, weight, bias, residual, result, rows, columns, K=depth, GEGLU=False, **tile)
    return result


@triton_op("canny2image::geglu", mutates_args={})
def geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return value * gelu(gate), the halves of x weight^T + bias: [rows, columns].

    x [rows, depth], weight [2 * columns, depth], bias [2 * columns]: float16, contiguous; depth a multiple of 32.
    Sums are float32.
    """
    (rows, depth), columns = x.shape, weight.shape[0] // 2
    if _suits_hopper(x, Sizes(rows, depth, columns, gated=True)):
        return product(x, weight, bias, gated=True)
    result = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    tile = geglu_tile(rows, depth)
    grid = (triton.cdiv(columns, tile["COLUMNS"]), triton.cdiv(rows, tile["ROWS"]))
    wrap_triton(_product)[grid](x, weight, bias, None, result, rows, columns, K=depth, GEGLU=True, **tile)
    return result


def _suits_hopper(x: Tensor, sizes: Sizes) -> bool:
    return fits(sizes) and runs_on(x.device)


def linear_tile(rows: int, depth: int) -> dict[str, int]:
    """Return one of the best tiles tried on an H200: ROWS and COLUMNS of the result per program, DEPTH per step."""
    if rows > 1024:
        return _tile(128, 64, min(64, _most(depth)), warps=4, stages=3)
    if rows > 256:
        return _tile(64, 64, min(128, _most(depth)), warps=4, stages=4)
    return _tile(64 if rows > 64 else 16, 32, min(256 if depth > 2048 else 128, _most(depth)), warps=4, stages=4)


def geglu_tile(rows: int, depth: int) -> dict[str, int]:
    """Return one of the best tiles tried on an H200. A program computes values and gates of its columns."""
    return _tile(128 if rows > 256 else 64, 64, min(64, _most(depth)), warps=4, stages=3)


def _most(depth: int) -> int:
    """Return the largest power of two that divides the depth."""
    return depth & -depth


def _tile(rows: int, columns: int, depth: int, warps: int, stages: int) -> dict[str, int]:
    return {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth, "num_warps": warps, "num_stages": stages}


@triton.jit
def _product(
    x, weight, bias, residual, result, rows, columns, K: tl.constexpr, GEGLU: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    # A program computes one tile. Rows and columns beyond the end repeat the last one and are not stored.
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    of_row = x + tl.minimum(row, rows - 1)[:, None] * K
    last = tl.minimum(column, columns - 1)
    of_column = weight + last[None, :] * K
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    if GEGLU:
        gate = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, K, DEPTH):
        values = tl.load(of_row + (start + k)[None, :])
        total = tl.dot(values, tl.load(of_column + (start + k)[:, None]), total)
        if GEGLU:
            gate = tl.dot(values, tl.load(of_column + columns * K + (start + k)[:, None]), gate)
    total += tl.load(bias + last).to(tl.float32)[None, :]
    at = row[:, None] * columns + column[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    if GEGLU:
        gate += tl.load(bias + columns + last).to(tl.float32)[None, :]
        total *= 0.5 * gate * (1 + tl.erf(gate * 0.7071067811865476))  # 1 / sqrt(2)
    else:
        total += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(result + at, total.to(result.dtype.element_ty), mask=inside)
