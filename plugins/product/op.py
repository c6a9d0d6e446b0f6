"""Matrix products for Hopper GPUs as torch ops, each one kernel, with what follows and, in two ops, the norm before.

The first call for each size compiles and loads the kernel. Only later calls can be captured into a CUDA graph. All
matrices are float16 and contiguous; depth and columns are multiples of ALIGNED. Sums are float32, always in the same
order. The ops raise ValueError for arguments that the kernel does not support, KernelError if it cannot be compiled or
launched.

Statistics of rows are float32 [rows, groups, 2]: mean and sum of the squared deviations from it, of each STEP columns
and the rest or, where `large_tiles` is used, of each WIDE columns. For the two ops with a norm, weights contain those
of the norm: `plugins/folded_norms.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from plugins.hopper.arguments import Expected, check_tensors
from plugins.hopper.launch import launch
from plugins.hopper.parameters import Source
from plugins.ops import torch_op
from plugins.product import large_tiles, many_rows
from plugins.product.compile import ProductKernel
from plugins.product.statistics import statistics
from plugins.product.tiles import ALIGNED, STEP, Sizes, choose, fits, group_width, groups


@dataclass(frozen=True)
class Norm:
    """The norm before a product: statistics of rows, sums of weights, shifts, and what is added to variances."""

    stats: Tensor
    sums: Tensor
    shifts: Tensor
    eps: float

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.stats, self.sums, self.shifts


@torch_op()
def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, gated: bool = False
) -> Tensor:
    """Return x weight^T + bias + residual [rows, columns], or value * gelu(gate) of the halves of x weight^T + bias.

    x [rows, depth], weight [columns, depth] or, gated, [2 * columns, depth], bias [weight's rows], residual
    [rows, columns].
    """
    if gated and residual is not None:
        raise ValueError("a product got a residual with gates, expected one of the two: add the residual afterwards")
    sizes, result = _prepare(x, weight, gated)
    _check(x, (("bias", bias, (sizes.width,)), ("residual", residual, tuple(result.shape))), torch.float16)
    return _compute(sizes, x, weight, result, bias, residual)


@torch_op()
def product_stats(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return x weight^T + bias + residual, and its statistics."""
    sizes, result = _prepare(x, weight, gated=False)
    _check(x, (("bias", bias, (sizes.width,)), ("residual", residual, tuple(result.shape))), torch.float16)
    stats = _empty_stats(sizes, result)
    if large_tiles.tile_width(sizes) and not large_tiles.runs_on(x.device):
        _compute(sizes, x, weight, result, bias, residual)
        # The other kernel's have another shape, which tracing did not expect.
        stats.copy_(statistics(result, large_tiles.stats_width(sizes)))
    else:
        _compute(sizes, x, weight, result, bias, residual, stats)
    return result, stats


@torch_op()
def norm_product(x: Tensor, stats: Tensor, weight: Tensor, sums: Tensor, shifts: Tensor, eps: float) -> Tensor:
    """Return (x weight^T - mean * sums) / sqrt(variance + eps) + shifts, with mean and variance of the rows of x.

    stats: of x; sums, shifts [columns]: float32.
    """
    return _normed(x, stats, weight, sums, shifts, eps, gated=False)


@torch_op()
def norm_geglu(x: Tensor, stats: Tensor, weight: Tensor, sums: Tensor, shifts: Tensor, eps: float) -> Tensor:
    """Return value * gelu(gate), the halves of what `norm_product` returns."""
    return _normed(x, stats, weight, sums, shifts, eps, gated=True)


@product.without_values
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, gated: bool = False
) -> Tensor:
    return _empty(x, weight, gated)


@product_stats.without_values
def _(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    result = _empty(x, weight, gated=False)
    return result, _empty_stats(Sizes(x.shape[0], x.shape[1], len(weight)), result)


@norm_product.without_values
def _(x: Tensor, stats: Tensor, weight: Tensor, sums: Tensor, shifts: Tensor, eps: float) -> Tensor:
    return _empty(x, weight, gated=False)


@norm_geglu.without_values
def _(x: Tensor, stats: Tensor, weight: Tensor, sums: Tensor, shifts: Tensor, eps: float) -> Tensor:
    return _empty(x, weight, gated=True)


def run_few(kernel: ProductKernel, x: Tensor, weight: Tensor, others: tuple[Tensor | None, ...]) -> None:
    """Launch the kernel for few rows.

    others: bias, residual, result, statistics, sums and shifts, as the ops check them.
    """
    sources = [Source(one, tuple(one.shape), (one.shape[1], 1)) for one in (x, weight)]
    launch(kernel, sources, others, kernel.tile.programs(kernel.sizes), x.device)


def _normed(x: Tensor, stats: Tensor, weight: Tensor, sums: Tensor, shifts: Tensor, eps: float, gated: bool) -> Tensor:
    sizes, result = _prepare(x, weight, gated)
    of_columns = (("sums", sums, (sizes.width,)), ("shifts", shifts, (sizes.width,)))
    count = stats.shape[1] if stats.dim() == 3 else groups(sizes.depth)
    _check(x, (("stats", stats, (sizes.rows, count, 2)), *of_columns), torch.float32)
    return _compute(sizes, x, weight, result, norm=Norm(stats, sums, shifts, eps))


def _compute(
    sizes: Sizes,
    x: Tensor,
    weight: Tensor,
    result: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    stats: Tensor | None = None,
    norm: Norm | None = None,
) -> Tensor:
    """Launch the kernel that suits the sizes, and return the result."""
    eps, group = (norm.eps, group_width(sizes.depth, norm.stats.shape[1])) if norm else (None, STEP)
    large = norm or (bias is not None and not sizes.gated)
    width = large_tiles.tile_width(sizes, norm is not None) if large else None
    if norm and many_rows.fits(sizes) and many_rows.runs_on(x.device):
        many = many_rows.make_kernel(sizes, norm.eps, group)
        many_rows.run(many, sizes, x, weight, (*norm.tensors, result))
    elif width and large_tiles.runs_on(x.device):
        added = norm.tensors if norm else (None, None, bias)
        kernel = large_tiles.make_kernel(sizes, width, residual is not None, stats is not None, eps, group)
        large_tiles.run(kernel, sizes, width, x, weight, (*added, residual, result, stats))
    else:
        tile = choose(sizes, stats is not None)
        few = ProductKernel(sizes, tile, bias is not None, residual is not None, stats is not None, eps, group)
        run_few(few, x, weight, (bias, residual, result, *(norm.tensors if norm else (stats, None, None))))
    return result


def _empty(x: Tensor, weight: Tensor, gated: bool) -> Tensor:
    return torch.empty((x.shape[0], weight.shape[0] // (2 if gated else 1)), dtype=x.dtype, device=x.device)


def _empty_stats(sizes: Sizes, result: Tensor) -> Tensor:
    count = groups(sizes.columns, large_tiles.stats_width(sizes))
    return torch.empty((sizes.rows, count, 2), dtype=torch.float32, device=result.device)


def _prepare(x: Tensor, weight: Tensor, gated: bool) -> tuple[Sizes, Tensor]:
    """Check the factors, and return the sizes and an uninitialized result."""
    (rows, depth), width = x.shape, weight.shape[0]
    if depth % ALIGNED or width % (2 * ALIGNED if gated else ALIGNED):
        raise ValueError(
            f"a product got weight {list(weight.shape)}{' with gates' * gated}, expected depth and columns that are "
            f"multiples of {ALIGNED}: use torch.nn.functional.linear"
        )
    _check(x, (("x", x, (rows, depth)), ("weight", weight, (width, depth))), torch.float16)
    sizes = Sizes(rows, depth, width // (2 if gated else 1), gated)
    if not fits(sizes):
        raise ValueError(
            f"a product got x {list(x.shape)} and weight {list(weight.shape)}, expected fewer than 2^31 values in x "
            "and in the result: use torch.nn.functional.linear"
        )
    return sizes, _empty(x, weight, gated)


def _check(x: Tensor, tensors: Iterable[Expected], dtype: torch.dtype) -> None:
    check_tensors("a product", tensors, x.device, dtype)
