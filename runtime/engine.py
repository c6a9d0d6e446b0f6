"""The protocol that the engines of every backend implement."""

from collections.abc import Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from runtime.spec import EngineSpec

Stream = torch.cuda.Stream | None  # None: the CPU, or the device's current stream


class Engine(Protocol):
    """A network with fixed shapes that reads and writes buffers bound to it in advance."""

    spec: EngineSpec
    scratch_bytes: int = 0  # size of the scratch memory that the engine needs; see use_scratch
    waiting: ClassVar[tuple[str, ...]] = ()  # beginnings of names of kernels that wait; see early_launch.py

    def bind(self, buffers: Mapping[str, Tensor]) -> None:
        """Let all later calls of enqueue use the buffers that the spec names.

        Raise ValueError if a buffer is missing or has the wrong shape or dtype.
        """

    def enqueue(self, stream: Stream) -> None:
        """Queue one run, from the input buffers to the output buffers, on the stream."""

    def use_scratch(self, memory: Tensor) -> None:
        """Use this scratch memory: contiguous uint8 on the engine's device, at least `scratch_bytes`, 256-byte aligned.

        Raise ValueError for other memory. Engines without scratch memory ignore the call.
        """
        return

    def check_capturable(self, stream: torch.cuda.Stream) -> None:
        """Raise CaptureError if it is known that the engine cannot be captured into a CUDA graph."""
        return
