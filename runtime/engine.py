"""The one protocol behind which every backend runs."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from runtime.spec import EngineSpec

Stream = torch.cuda.Stream | None  # None: the CPU, or the device's current stream


class Engine(Protocol):
    """A network with fixed shapes that reads and writes buffers bound to it beforehand."""

    spec: EngineSpec
    scratch_bytes: int = 0  # of memory that it wants to be given to work in

    def bind(self, buffers: Mapping[str, Tensor]) -> None:
        """Take from `buffers` what the spec names, for all later calls of enqueue."""

    def enqueue(self, stream: Stream) -> None:
        """Queue one run on the stream."""

    def use_scratch(self, memory: Tensor) -> None:
        """Work in this memory: uint8, contiguous, on the engine's device, `scratch_bytes` or more, 256-byte aligned.

        Raises ValueError if it is anything else.
        """
        return

    def check_capturable(self, stream: torch.cuda.Stream) -> None:
        """Raises CaptureError if it is known that a CUDA graph cannot hold the engine."""
        return
