"""Inputs in page-locked host memory: the host writes them there, and a captured graph copies them to the device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from runtime.failed_device import of_device


class PinnedInputs:
    """Host memory for inputs, zero until `write`, and the device buffers that `upload` copies it to; both by name."""

    def __init__(self, buffers: Mapping[str, Tensor]) -> None:
        self.buffers = buffers
        self.written = {name: pinned(buffer) for name, buffer in buffers.items()}

    def write(self, values: Mapping[str, Any]) -> None:
        """Write a value for every buffer, in any form that NumPy can assign. No queued upload may be running."""
        for name, written in self.written.items():
            # NumPy, because PyTorch would wake all its threads, which takes milliseconds.
            written.numpy()[...] = values[name]

    def upload(self) -> None:
        """Queue the copies to the buffers on the current stream."""
        for name, buffer in self.buffers.items():
            buffer.copy_(self.written[name], non_blocking=True)


def pinned(buffer: Tensor) -> Tensor:
    """Return zeros like `buffer` in host memory, page-locked if it is on a GPU so that copies do not block the host."""
    return of_device(torch.zeros(buffer.shape, dtype=buffer.dtype, pin_memory=buffer.is_cuda))
