"""Two streams that run concurrently, synchronized by events."""

from typing import Literal

import torch

from runtime.engine import Stream

StreamName = Literal["main", "side"]


class Streams:
    """Two streams, `main` and `side`. Between fork and join they run concurrently. On the CPU both are None.

    Work that never runs at the same time should share one pair: libraries keep memory for each stream that they use.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.main, self.side = (torch.cuda.Stream(device) if device.type == "cuda" else None for _ in range(2))

    def begin(self) -> None:
        """Make `main` wait for the caller's stream, which may still be copying weights to the device."""
        if self.main:
            self.main.wait_stream(torch.cuda.current_stream(self.main.device))

    def __getitem__(self, name: StreamName) -> Stream:
        return self.main if name == "main" else self.side

    def fork(self) -> None:
        """Make later work on `side` wait for all work queued on `main` so far."""
        _after(self.side, self.main)

    def join(self) -> None:
        """Make later work on `main` wait for all work queued on `side` so far."""
        _after(self.main, self.side)

    def synchronize(self) -> None:
        """Block until all work queued on `main`, and the work on `side` that it joined, is finished."""
        if self.main:
            self.main.synchronize()


def _after(waiting: Stream, other: Stream) -> None:
    if waiting and other:
        waiting.wait_stream(other)
