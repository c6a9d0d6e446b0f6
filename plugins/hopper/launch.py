"""Loads and launches compiled kernels with the CUDA driver, as Triton's own launcher does, which needs a C compiler."""

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from plugins.device import device_and_stream, on_device
from plugins.hopper.compile import Kernel, cubin
from plugins.hopper.parameters import Parameters, Source
from plugins.nvrtc import call

PARAMETERS: dict[tuple[Any, ...], Parameters] = {}  # by kernel and layouts of its sources
FILLING = threading.RLock()  # held while parameters are filled in, until the driver has copied them


def launch(
    kernel: Kernel, sources: Sequence[Source], others: Sequence[Tensor | None], programs: int, device: torch.device
) -> None:
    """Launch a kernel on the device's current stream.

    others: those of the kernel's POINTERS.
    Raises KernelError if the kernel cannot be compiled, loaded or launched.
    """
    from cuda.bindings import driver

    with on_device(device):
        index, stream = device_and_stream()
        function = _load(kernel, index)
        with FILLING:
            parameters = _parameters(kernel, sources, len(others))
            addresses = parameters.fill([one.tensor for one in sources], others)
            call(
                driver.cuLaunchKernel, function, programs, 1, 1, 32 * kernel.tile.warps, 1, 1, kernel.tile.shared,
                stream, addresses, 0,
            )  # fmt: skip


def _parameters(kernel: Kernel, sources: Sequence[Source], pointers: int) -> Parameters:
    key = (kernel, *((one.shape, one.strides, one.every) for one in sources))
    if key not in PARAMETERS:
        PARAMETERS[key] = Parameters(sources, kernel.boxes, pointers)
    return PARAMETERS[key]


@cache
def _load(kernel: Kernel, device: int) -> Any:
    """Load the kernel on the current device, permanently. `device` is the current device, as part of the cache key."""
    from cuda.bindings import driver

    module = call(driver.cuModuleLoadData, cubin(kernel))
    function = call(driver.cuModuleGetFunction, module, kernel.NAME.encode())
    shared = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    call(driver.cuFuncSetAttribute, function, shared, kernel.tile.shared)
    return function
