"""Inputs in page-locked host memory: the host writes them there, and a recorded graph copies them to the device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class PinnedInputs:
    """A copy in host memory of each of some buffers."""

    def __init__(self, buffers: Mapping[str, Tensor]) -> None:
        self.buffers = buffers
        self.written = {name: pinned(buffer) for name, buffer in buffers.items()}

    def write(self, values: Mapping[str, Any]) -> None:
        """Values of all buffers, as NumPy takes them. No `upload` may be running."""
        for name, written in self.written.items():
            written.numpy()[...] = values[
                name
            ]  # by NumPy: PyTorch would wake all its threads, which takes milliseconds

    def upload(self) -> None:
        """Queue the copies to the buffers on the current stream."""
        for name, buffer in self.buffers.items():
            buffer.copy_(self.written[name], non_blocking=True)


def pinned(buffer: Tensor) -> Tensor:
    """Zeros in host memory, page-locked for a buffer on a GPU: the processor does not wait for copies of it."""
    return torch.zeros(buffer.shape, dtype=buffer.dtype, pin_memory=buffer.is_cuda)
