"""Measures when pieces of work start and end on their streams."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch

from runtime.engine import Stream


class Span(NamedTuple):
    """Start and end of one piece of work, in milliseconds since the start of the timeline's first span."""

    name: str
    stream: str
    start_ms: float
    end_ms: float


class Timeline:
    """Times the work queued inside `span`: by events on a GPU, by the host's clock on the CPU.

    During capture the events become nodes of the graph; after each launch they hold the times of that launch.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.marks: list[tuple[str, str, torch.cuda.Event | float, torch.cuda.Event | float]] = []

    @contextmanager
    def span(self, name: str, stream_name: str, stream: Stream) -> Iterator[None]:
        start = self._now(stream)
        yield
        self.marks.append((name, stream_name, start, self._now(stream)))

    def spans(self) -> list[Span]:
        """Return all spans, in the order in which their contexts ended. Synchronize first: all work must be done."""
        if not self.marks:
            return []
        begin = self.marks[0][2]
        return [
            Span(name, stream, _between(begin, start), _between(begin, end)) for name, stream, start, end in self.marks
        ]

    def _now(self, stream: Stream) -> torch.cuda.Event | float:
        if not self.on_gpu:
            return 1000 * time.perf_counter()
        event = torch.cuda.Event(enable_timing=True, external=True)
        event.record(stream)
        return event


def median_ms(work: Callable[[], object], runs: int, warmups: int = 0) -> float:
    """Return the median time of `runs` calls of `work`, after `warmups` calls, in milliseconds of the host's clock.

    `work` must return only when its results are complete.
    """
    times = []
    for _ in range(warmups + runs):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[warmups:])


def _between(start: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
    if isinstance(start, torch.cuda.Event):
        return start.elapsed_time(cast(torch.cuda.Event, end))
    return cast(float, end) - start
