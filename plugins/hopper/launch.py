"""Loads and launches compiled kernels with the CUDA driver, as Triton's own launcher does, which needs a C compiler."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from plugins.hopper.compile import FLOAT16, SWIZZLE_128, Kernel, cubin
from plugins.nvrtc import KernelError, call

MAP_BYTES, MAP_ALIGNMENT = 128, 64  # of a CUtensorMap
L2_PROMOTION = 2  # CUtensorMapL2promotion: 128 bytes


@dataclass(frozen=True)
class Source:
    """A float16 tensor that TMA loads from: a view with this shape and strides.

    every: which elements a load takes along the axes; 2 means every other.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    every: tuple[int, ...] | None = None


def launch(
    kernel: Kernel, sources: Sequence[Source], others: Sequence[Tensor | None], programs: int, device: torch.device
) -> None:
    """Launch a kernel on the device's current stream.

    others: those of the kernel's POINTERS.
    Raises KernelError if the kernel cannot be compiled, loaded or launched.
    """
    from cuda.bindings import driver

    values = [
        *(value for one, box in zip(sources, kernel.boxes, strict=True) for value in _map_parameters(one, box)),
        *(ctypes.c_void_p(0 if tensor is None else tensor.data_ptr()) for tensor in others),
        *[ctypes.c_void_p(0)] * 2,  # scratch memory, which the kernels do not need
    ]
    addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    with torch.cuda.device(device):
        function = _load(kernel, torch.cuda.current_device())
        stream = torch.cuda.current_stream().cuda_stream
        call(
            driver.cuLaunchKernel, function, programs, 1, 1, 32 * kernel.tile.warps, 1, 1, kernel.tile.shared, stream,
            ctypes.addressof(addresses), 0,
        )  # fmt: skip


@cache
def _load(kernel: Kernel, device: int) -> Any:
    """Load the kernel on the current device, permanently. `device` is the current device, as part of the cache key."""
    from cuda.bindings import driver

    module = call(driver.cuModuleLoadData, cubin(kernel))
    function = call(driver.cuModuleGetFunction, module, kernel.NAME.encode())
    shared = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    call(driver.cuFuncSetAttribute, function, shared, kernel.tile.shared)
    return function


def _map_parameters(source: Source, box: Sequence[int]) -> list[Any]:
    """Return the parameters that describe a tensor: the map, and its shape and strides."""
    encoded = tensor_map(source.tensor.data_ptr(), source.shape, source.strides, box, source.every)
    return [encoded, *map(ctypes.c_int32, source.shape), *map(ctypes.c_int64, source.strides)]


def tensor_map(
    address: int, shape: Sequence[int], strides: Sequence[int], box: Sequence[int], every: Sequence[int] | None = None
) -> Any:
    """Return the CUtensorMap with which TMA loads boxes of a float16 tensor. Raises KernelError if that fails.

    By ctypes, because cuda-python puts CUtensorMap at addresses that the driver refuses: not multiples of 64.
    """
    memory = ctypes.create_string_buffer(MAP_BYTES + MAP_ALIGNMENT)
    encoded = (ctypes.c_byte * MAP_BYTES).from_buffer(memory, -ctypes.addressof(memory) % MAP_ALIGNMENT)
    rank = len(box)
    every = every or [1] * rank
    status = _driver().cuTensorMapEncodeTiled(
        encoded,
        FLOAT16,
        rank,
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * rank)(*reversed(shape)),  # the driver's order: the innermost axis first
        (ctypes.c_uint64 * (rank - 1))(*(2 * stride for stride in reversed(strides[:-1]))),
        (ctypes.c_uint32 * rank)(*(size * step for size, step in zip(reversed(box), reversed(every), strict=True))),
        (ctypes.c_uint32 * rank)(*reversed(every)),
        0,
        SWIZZLE_128,
        L2_PROMOTION,
        0,
    )
    if status != 0:
        raise KernelError(f"cuTensorMapEncodeTiled failed with status {status} for shape {list(shape)} and box {box}")
    return encoded


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
