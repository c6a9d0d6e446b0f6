"""A lock that lets one thread at a time make a call, on the device and under PyTorch's default settings."""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch

from runtime.shared_context import SharedContext


class Turns:
    """A reentrant lock. Calling the object returns a context manager that only one thread at a time can enter."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.lock = threading.RLock()
        self.process_id = os.getpid()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the lock, with the device as CUDA's current one and under PyTorch's defaults, until the context ends.

        Raise RuntimeError in a forked child, where the parent's CUDA context and locks do not work.
        """
        if os.getpid() != self.process_id:
            raise RuntimeError(
                "this hackathon object was created before this process was forked: start processes with "
                "multiprocessing's method 'spawn', and create one in each"
            )
        with self.lock, defaults(), current(self.device):
            yield


def current(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which a CUDA device is the current one, which memory pools and libraries use."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def defaults() -> Iterator[None]:
    """Restore PyTorch's defaults inside the context: no autocast; new tensors are float32 and on the CPU.

    Settings that already have their defaults are not touched: setting a default device slows down every operation.
    The default dtype belongs to the process, so other threads see it too; the other settings belong to the thread.
    """
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_float32())
        yield


@contextmanager
def _float32_by_default() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)


_float32 = SharedContext(_float32_by_default)
