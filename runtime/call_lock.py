"""A lock that lets one thread at a time make a call, on the device and under PyTorch's default settings."""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from runtime.shared_context import SharedContext

# All are enabled by default; PyTorch chooses for each call.
ATTENTION = [
    SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH,
]  # fmt: skip


class Turns:
    """A lock. Calling the object returns a context manager that only one thread at a time can enter."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.lock = threading.RLock()  # lets a signal handler in, which would wait forever for its own thread
        self.running = False
        self.process_id = os.getpid()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the lock, with the device as CUDA's current one and under PyTorch's defaults, until the context ends.

        Raise RuntimeError in a forked child, where the parent's CUDA context and locks do not work, and in a call that
        interrupts another one of the same thread, as a signal handler's call does.
        """
        if os.getpid() != self.process_id:
            raise RuntimeError(
                "this hackathon object was created before this process was forked: start processes with "
                "multiprocessing's method 'spawn', and create one in each"
            )
        with self.lock:
            if self.running:
                raise RuntimeError(
                    "a call of this hackathon object is already running in this thread: make no calls from a signal "
                    "handler or callback that interrupts one"
                )
            try:
                self.running = True
                with defaults(), current(self.device):
                    yield
            finally:
                self.running = False


def current(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which a CUDA device is the current one, which memory pools and libraries use."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def defaults() -> Iterator[None]:
    """Restore PyTorch's defaults inside the context: no autocast, float32, the CPU, and every kind of attention.

    Settings that already have their defaults are not touched: setting a default device slows down every operation.
    The default dtype and the kinds of attention belong to the process, so other threads see them too; the other
    settings belong to the thread.
    """
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_of_process())
        yield


@contextmanager
def _process_wide_defaults() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with sdpa_kernel(ATTENTION):
            yield
    finally:
        torch.set_default_dtype(dtype)


_of_process = SharedContext(_process_wide_defaults)
