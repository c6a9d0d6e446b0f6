"""What the caller has set globally in PyTorch must not change our pictures."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


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
