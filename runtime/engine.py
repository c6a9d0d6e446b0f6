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

    def bind(self, buffers: Mapping[str, Tensor]) -> None:
        """Take from `buffers` what the spec names, for all later calls of enqueue."""

    def enqueue(self, stream: Stream) -> None:
        """Queue one run on the stream."""
