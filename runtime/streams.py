"""Two streams side by side, joined by events."""

from typing import Literal

import torch

from runtime.engine import Stream

StreamName = Literal["main", "side"]


class Streams:
    """Work on `side` runs beside work on `main`, between a fork and a join. On the CPU both are None: all in order.

    Take two streams for all work that never runs at the same time: libraries keep memory for each stream they saw.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.main, self.side = (torch.cuda.Stream(device) if device.type == "cuda" else None for _ in range(2))

    def begin(self) -> None:
        """What the caller's stream has queued, such as weights on their way to the device, comes before."""
        if self.main:
            self.main.wait_stream(torch.cuda.current_stream(self.main.device))

    def __getitem__(self, name: StreamName) -> Stream:
        return self.main if name == "main" else self.side

    def fork(self) -> None:
        """What `side` is given next waits for all that `main` was given until now."""
        _after(self.side, self.main)

    def join(self) -> None:
        """What `main` is given next waits for all that `side` was given until now."""
        _after(self.main, self.side)

    def synchronize(self) -> None:
        if self.main:
            self.main.synchronize()


def _after(waiting: Stream, other: Stream) -> None:
    if waiting and other:
        waiting.wait_stream(other)
