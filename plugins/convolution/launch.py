"""Loads and launches compiled kernels with the CUDA driver, as Triton's own launcher does, which needs a C compiler."""

import ctypes
from collections.abc import Sequence
from dataclasses import astuple
from functools import cache
from typing import Any

from torch import Tensor

from plugins.convolution.compile import FLOAT16, NAME, SWIZZLE_128, Kernel, cubin
from plugins.group_norm.compile import KernelError, call

MAP_BYTES, MAP_ALIGNMENT = 128, 64  # of a CUtensorMap
L2_PROMOTION_128 = 2  # CUtensorMapL2promotion


def launch(kernel: Kernel, tensors: Sequence[Tensor | None], device: int, stream: int) -> None:
    """Launch a kernel on the current device, which has number `device`.

    tensors: x [n, h, w, c], weight [o, 3, 3, c], bias [o], residual and result [n, h, w, o], contiguous.
    Raises KernelError if the kernel cannot be compiled, loaded or launched.
    """
    from cuda.bindings import driver

    x, weight, *others = (0 if tensor is None else tensor.data_ptr() for tensor in tensors)
    n, h, w, channels, outs = astuple(kernel.sizes)
    # TMA's axes are rows, pictures, columns and channels, so that a tile's rows are contiguous in shared memory.
    axes, strides = (h, n, w, channels), (w * channels, h * w * channels, channels, 1)
    of_weight, of_pixels, of_below = kernel.boxes
    values = [
        *_map_parameters(weight, (outs, 9 * channels), (9 * channels, 1), of_weight),
        *_map_parameters(x, axes, strides, of_pixels),
        *_map_parameters(x, axes, strides, of_below),
        *map(ctypes.c_void_p, others),
        *[ctypes.c_void_p(0)] * 2,  # scratch memory, which the kernel does not need
    ]
    addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    tile, grid = kernel.tile, kernel.tile.programs(kernel.sizes)
    call(
        driver.cuLaunchKernel, _load(kernel, device), grid, 1, 1, 32 * tile.warps, 1, 1, tile.shared, stream,
        ctypes.addressof(addresses), 0,
    )  # fmt: skip


@cache
def _load(kernel: Kernel, device: int) -> Any:
    """Load the kernel on the current device, permanently. `device` is the current device, as part of the cache key."""
    from cuda.bindings import driver

    module = call(driver.cuModuleLoadData, cubin(kernel))
    function = call(driver.cuModuleGetFunction, module, NAME.encode())
    shared = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    call(driver.cuFuncSetAttribute, function, shared, kernel.tile.shared)
    return function


def _map_parameters(address: int, shape: Sequence[int], strides: Sequence[int], box: Sequence[int]) -> list[Any]:
    """Return the parameters that describe a tensor: the map, and its shape and strides."""
    tensor_map = _tensor_map(address, shape, strides, box)
    return [tensor_map, *map(ctypes.c_int32, shape), *map(ctypes.c_int64, strides)]


def _tensor_map(address: int, shape: Sequence[int], strides: Sequence[int], box: Sequence[int]) -> Any:
    """Return the CUtensorMap with which TMA loads boxes of a float16 tensor. Raises KernelError if that fails.

    By ctypes, because cuda-python puts CUtensorMap at addresses that the driver refuses: not multiples of 64.
    """
    memory = ctypes.create_string_buffer(MAP_BYTES + MAP_ALIGNMENT)
    encoded = (ctypes.c_byte * MAP_BYTES).from_buffer(memory, -ctypes.addressof(memory) % MAP_ALIGNMENT)
    rank = len(box)
    status = _driver().cuTensorMapEncodeTiled(
        encoded,
        FLOAT16,
        rank,
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * rank)(*reversed(shape)),  # the driver's order: the innermost axis first
        (ctypes.c_uint64 * (rank - 1))(*(2 * stride for stride in reversed(strides[:-1]))),
        (ctypes.c_uint32 * rank)(*reversed(box)),
        (ctypes.c_uint32 * rank)(*[1] * rank),
        0,
        SWIZZLE_128,
        L2_PROMOTION_128,
        0,
    )
    if status != 0:
        raise KernelError(f"cuTensorMapEncodeTiled failed with status {status} for shape {list(shape)} and box {box}")
    return encoded


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
