"""A lock that lets one thread at a time make a call, and restores PyTorch's default settings during the call."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


class Turns:
    """A reentrant lock. Calling the object returns a context manager that only one thread at a time can enter."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.process_id = os.getpid()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the lock, under PyTorch's defaults, until the context ends.

        Raise RuntimeError in a forked child, where the parent's CUDA context and locks do not work.
        """
        if os.getpid() != self.process_id:
            raise RuntimeError(
                "this hackathon object was created before this process was forked: create one in each process, or "
                "start processes with multiprocessing's method 'spawn'"
            )
        with self.lock, defaults():
            yield


@contextmanager
def defaults() -> Iterator[None]:
    """Restore PyTorch's defaults inside the context: no autocast; new tensors are float32 and on the CPU.

    Settings that already have their defaults are not touched: setting a default device slows down every operation.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        yield
