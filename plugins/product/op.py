"""torch.ops.canny2image.product: a matrix product with bias and residual, or GEGLU, as one kernel, for Hopper GPUs.

The first call for each size compiles and loads the kernel. Only later calls can be captured into a CUDA graph.
"""

import torch
from torch import Tensor

from plugins.hopper.launch import Source, launch
from plugins.product.compile import ProductKernel
from plugins.product.tiles import STEP, Sizes, choose


@torch.library.custom_op("canny2image::product", mutates_args=(), device_types="cuda")
def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, gated: bool = False
) -> Tensor:
    """Return x weight^T + bias + residual, or with `gated` value * gelu(gate) of the halves of x weight^T + bias.

    x [rows, depth], weight [columns, depth] or, with gates, [2 * columns, depth], bias [weight's rows],
    residual [rows, columns] (not with gates): float16, contiguous; depth and columns multiples of STEP. Sums are
    float32, always in the same order.
    Raises ValueError for arguments that the kernel does not support, KernelError if it cannot be compiled or launched.
    """
    _check(x, weight, bias, residual, gated)
    sizes = Sizes(x.shape[0], x.shape[1], weight.shape[0] // (2 if gated else 1), gated)
    result = _empty(x, weight, gated)
    run(ProductKernel(sizes, choose(sizes), bias is not None, residual is not None), x, weight, bias, residual, result)
    return result


@product.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None, gated: bool = False
) -> Tensor:
    return _empty(x, weight, gated)


def run(
    kernel: ProductKernel, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, result: Tensor
) -> None:
    """Write the product into `result`, with this kernel. The tensors are as `product` checks them."""
    depth = x.shape[1]
    sources = [Source(one, (one.shape[0], depth), (depth, 1)) for one in (x, weight)]
    launch(kernel, sources, (bias, residual, result), kernel.tile.programs(kernel.sizes), x.device)


def _empty(x: Tensor, weight: Tensor, gated: bool) -> Tensor:
    """Return an uninitialized result."""
    return torch.empty((x.shape[0], weight.shape[0] // (2 if gated else 1)), dtype=x.dtype, device=x.device)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, gated: bool) -> None:
    """Raise ValueError for unsupported arguments."""
    (rows, depth), width = x.shape, weight.shape[0]
    if depth % STEP or width % (2 * STEP if gated else STEP):
        raise ValueError(
            f"product got weight {list(weight.shape)}{' with gates' * gated}, expected depth and columns that are "
            f"multiples of {STEP}: use torch.nn.functional.linear"
        )
    if gated and residual is not None:
        raise ValueError("product got a residual with gates, expected one of the two: add the residual afterwards")
    tensors = [
        ("x", x, (rows, depth)),
        ("weight", weight, (width, depth)),
        ("bias", bias, (width,)),
        ("residual", residual, (rows, width)),
    ]
    for name, tensor, shape in tensors:
        if tensor is None:
            continue
        if (
            tensor.dtype != torch.float16
            or tensor.shape != shape
            or tensor.device != x.device
            or not tensor.is_contiguous()
        ):
            raise ValueError(
                f"product got {name} as {tensor.dtype} {list(tensor.shape)} on {tensor.device} with strides "
                f"{list(tensor.stride())}, expected contiguous torch.float16 {list(shape)} on {x.device}: convert it"
            )
        if tensor.data_ptr() % 16:
            raise ValueError(
                f"product got {name} at an address that is not a multiple of 16 bytes, expected an aligned tensor: "
                "call .clone() first"
            )
