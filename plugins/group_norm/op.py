"""torch.ops.canny2image.group_norm: GroupNorm (Wu and He 2018), optionally followed by SiLU, as one kernel, or two.

On a GPU, the first call for each size of maps compiles and loads the kernel. Only later calls can be captured into a
CUDA graph.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from plugins.device import device_and_stream, on_device
from plugins.group_norm.large import is_large, large_launches
from plugins.group_norm.launch import FP8_FACTOR, Launch, choose_launch
from plugins.nvrtc import call, cubin
from plugins.ops import torch_op

FP8 = torch.float8_e4m3fn


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
    shift: Tensor | None = None,
    fp8: bool = False,
) -> Tensor:
    """Compute the op in float32 (float64 if x is float64); the result has the type and layout of x.

    fp8: as for `group_norm`.
    """
    n, channels, h, w = x.shape
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    values = (exact if shift is None else exact + shift[..., None, None]).reshape(n, groups, -1)
    variance, mean = torch.var_mean(values, dim=-1, correction=0, keepdim=True)
    normal = ((values - mean) * torch.rsqrt(variance + eps)).reshape(n, channels, h, w)
    y = normal * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)
    y = F.silu(y) if silu else y
    return _empty(x, fp8).copy_(to_fp8(y) if fp8 else y)


def to_fp8(y: Tensor) -> Tensor:
    """Return FP8_FACTOR times y as e4m3; values beyond its largest become the largest."""
    return (FP8_FACTOR * y).clamp(torch.finfo(FP8).min, torch.finfo(FP8).max).to(FP8)


def _empty(x: Tensor, fp8: bool) -> Tensor:
    return torch.empty_like(x, dtype=FP8 if fp8 else x.dtype)


@torch_op()
def group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
    shift: Tensor | None = None,
    fp8: bool = False,
) -> Tensor:
    """Compute GroupNorm of x + shift over the channels of a group and all pixels, then SiLU if `silu`.

    fp8: return FP8_FACTOR times that as float8_e4m3fn, saturated, by one kernel for large maps, too.

    x: [n, c, h, w], channels-last or contiguous, and the result has the same layout; weight, bias: [c]; shift: [1, c],
    only with channels-last x. On a GPU all must be float16, and one kernel, or two for large maps, computes in float32;
    a CPU uses `reference`.
    On a GPU, raises ValueError for arguments that the kernel does not support, KernelError if it cannot be compiled or
    launched.
    """
    channels_last = _check(x, weight, bias, shift)
    n, channels, h, w = x.shape
    sizes = n, channels, h * w, groups, eps, silu, channels_last
    y = _empty(x, fp8)
    if shift is None and not fp8 and is_large(n, channels, h * w, groups, channels_last):
        ranges, stats, normalize = large_launches(n, channels, h * w, groups, eps, silu)
        parts = torch.empty(n, groups, ranges, 4, device=x.device)
        run(stats, [x], h * w, [parts])
        run(normalize, [x, weight, bias, parts], h * w, [y])
        return y
    launch = choose_launch(*sizes, clusters=has_clusters(x.device), shift=shift is not None, fp8=fp8)
    run(launch, [tensor for tensor in (x, weight, bias, shift) if tensor is not None], h * w, [y])
    return y


group_norm.on_cpu(reference)


@group_norm.without_values
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
    shift: Tensor | None = None,
    fp8: bool = False,
) -> Tensor:
    return _empty(x, fp8)


def _check(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None) -> bool:
    """Return True if x is channels-last, False if it is contiguous. Raises ValueError for unsupported arguments."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    if not (channels_last or x.is_contiguous()):
        raise ValueError(
            f"group_norm got x of shape {list(x.shape)} with strides {list(x.stride())}, expected channels-last or "
            "contiguous maps: call .contiguous() first"
        )
    channels = x.shape[1:2]
    tensors = [("x", x, x.shape), ("weight", weight, channels), ("bias", bias, channels)]
    if shift is not None:
        tensors.append(("shift", shift, torch.Size([1, *channels])))
    for name, tensor, shape in tensors:
        dense = tensor is x or tensor.is_contiguous()
        if tensor.dtype != torch.float16 or tensor.shape != shape or tensor.device != x.device or not dense:
            raise ValueError(
                f"group_norm got {name} as {tensor.dtype} {list(tensor.shape)} on {tensor.device}, expected contiguous "
                f"torch.float16 {list(shape)} on {x.device}: convert it first"
            )
        if tensor.data_ptr() % 16:
            raise ValueError(
                f"group_norm got {name} at an address that is not a multiple of 16 bytes, expected an aligned tensor: "
                "call .clone() first"
            )
    return channels_last


def has_clusters(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (9, 0)


def run(launch: Launch, inputs: Sequence[Tensor], pixels: int, outputs: Sequence[Tensor]) -> None:
    """Launch the kernel, whose parameters are these, on the current stream of the tensors' device."""
    from cuda.bindings import driver

    with on_device(outputs[0].device):
        index, stream = device_and_stream()
        major, minor = torch.cuda.get_device_capability(index)
        kernel = _load(launch, 10 * major + minor, index)
        values = *(one.data_ptr() for one in inputs), pixels, *(one.data_ptr() for one in outputs)
        types = *(ctypes.c_void_p for _ in inputs), ctypes.c_int, *(ctypes.c_void_p for _ in outputs)
        call(driver.cuLaunchKernel, kernel, *launch.grid, launch.threads, 1, 1, 0, stream, (values, types), 0)


@cache
def _load(launch: Launch, architecture: int, device: int) -> Any:
    """Load the kernel on the current device, permanently. `device` is the current device, as part of the cache key."""
    from cuda.bindings import driver

    module = call(driver.cuModuleLoadData, cubin(launch.source, launch.defines, architecture))
    return call(driver.cuModuleGetFunction, module, launch.name.encode())
