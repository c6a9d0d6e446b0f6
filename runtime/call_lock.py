"""One call at a time, in the process that made the object, whatever the caller has set globally in PyTorch."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


class Turns:
    """Called, a context that one thread has at a time, and the thread that has it again."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.process_id = os.getpid()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Raises RuntimeError in a forked child, where CUDA and locks of the parent do not work."""
        if os.getpid() != self.process_id:
            raise RuntimeError(
                "this hackathon was made in another process, which was forked: make one in each process, or start "
                "processes with multiprocessing's method 'spawn'"
            )
        with self.lock, defaults():
            yield


@contextmanager
def defaults() -> Iterator[None]:
    """PyTorch's defaults meanwhile: no autocast, tensors in float32 and on the CPU unless we say otherwise.

    Nothing is entered where nothing was changed: a default device costs time in every operation.
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
