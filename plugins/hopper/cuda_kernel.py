"""Kernels for Hopper GPUs in CUDA, which use instructions that Triton does not offer."""

import ctypes
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from plugins.device import device_and_stream, on_device
from plugins.hopper.compile import HOPPER
from plugins.nvrtc import Defines, KernelError, call, cubin

log = logging.getLogger(__name__)

ARCHITECTURE = "90a"  # with Hopper's own instructions
ALIGNMENT = 1024  # bytes, of what TMA loads into shared memory


@dataclass(frozen=True)
class CudaKernel:
    """A function of a CUDA file, compiled with constants. threads: of a block; shared: its bytes of dynamic memory."""

    source: Path
    name: str
    threads: int
    shared: int
    constants: Defines = ()

    def cubin(self) -> bytes:
        """Return the machine code, compiled unless engine files hold it. Raises KernelError."""
        return cubin(self.source, self.constants, ARCHITECTURE)

    def launch(self, device: torch.device, grid: tuple[int, int, int], values: Sequence[Any]) -> None:
        """Launch the kernel on the device's current stream. values: the parameters, as ctypes has them.

        Raises KernelError if it cannot be compiled, loaded or launched.
        """
        from cuda.bindings import driver

        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        with on_device(device):
            index, stream = device_and_stream()
            parameters = ctypes.addressof(addresses)
            function = _load(self, index)
            call(driver.cuLaunchKernel, function, *grid, self.threads, 1, 1, self.shared, stream, parameters, 0)


def programs(device: torch.device, most: int | None = None) -> tuple[int, int, int]:
    """Return the grid of a kernel with one program per multiprocessor, but at most `most`."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return processors if most is None else min(processors, most), 1, 1


def runs(kernel: CudaKernel, device: torch.device, otherwise: str) -> bool:
    """Return whether the device is a Hopper GPU and the kernel compiles. If it does not, log `otherwise` and why."""
    if torch.cuda.get_device_capability(device) != HOPPER:
        return False
    try:
        kernel.cubin()
    except KernelError as error:
        log.warning("%s: %s", otherwise, error)
        return False
    return True


@cache
def _load(kernel: CudaKernel, device: int) -> Any:
    """Load the kernel on the current device, permanently. `device` is the current device, as part of the cache key."""
    from cuda.bindings import driver

    module = call(driver.cuModuleLoadData, kernel.cubin())
    function = call(driver.cuModuleGetFunction, module, kernel.name.encode())
    shared = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    call(driver.cuFuncSetAttribute, function, shared, kernel.shared)
    return function
