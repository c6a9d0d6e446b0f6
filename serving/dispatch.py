"""A bounded queue of jobs in front of the replicas: jobs that fit together become one batch."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cldm.canny import Picture
from cldm.request import Request
from weights.loras import Loras

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """What pictures are generated with: a checkpoint, and the LoRAs merged into it as (file, strength)."""

    checkpoint: str
    loras: Loras = ()


@dataclass(frozen=True)
class Drawn:
    """The pictures of a job, what they were generated with, and seconds in the queue and in the replica."""

    pictures: list[Picture]
    weights: Weights
    settings: dict[str, str]
    queued: float
    generated: float
    batch: int  # jobs generated together


@dataclass(eq=False)
class Job:
    """A request that waits. checkpoint: instead of the server's. loras: besides the server's."""

    request: Request
    plan: str | None = None
    checkpoint: str | None = None
    loras: Loras = ()
    since: float = field(default_factory=time.monotonic)
    done: "asyncio.Future[Drawn]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def group(self) -> tuple[Any, ...]:
        """Jobs of equal groups can be generated together."""
        return self.request.size, self.request.ddim_steps, self.plan, self.checkpoint, self.loras


@dataclass(frozen=True)
class Batch:
    """What a replica returns: for each request its pictures, or the error that only this request has."""

    results: list[list[Picture] | Exception]
    settings: dict[str, str]


Draw = Callable[[Sequence[Request], str | None, Weights], Awaitable[Batch]]


class Dispatcher:
    """Takes jobs from the queue and has replicas draw them. weights: the server's; may be replaced at any time.

    draw: sends one batch to a free replica. most: samples in a batch. most_pixels: pixels in a batch.
    """

    def __init__(self, draw: Draw, weights: Weights, most: int, most_pixels: int) -> None:
        self.draw, self.weights, self.most, self.most_pixels = draw, weights, most, most_pixels
        self.waiting: list[Job] = []
        self.filled = asyncio.Event()
        self.last_seconds = 0.0  # of the last batch

    async def submit(self, jobs: Sequence[Job]) -> list[Drawn]:
        """Return the pictures of all jobs. If the caller is cancelled, jobs that still wait are never generated."""
        self.waiting += jobs
        self.filled.set()
        try:
            return await asyncio.gather(*(job.done for job in jobs))
        finally:
            for job in jobs:
                job.done.cancel()
                with suppress(ValueError):
                    self.waiting.remove(job)

    async def work(self) -> None:
        """Generate batch after batch, for ever; as many of these run as there are replicas."""
        while True:
            await self.filled.wait()
            if batch := take(self.waiting, self.most, self.most_pixels):
                await self._generate(batch)
            else:
                self.filled.clear()

    async def _generate(self, jobs: list[Job]) -> None:
        first, begin = jobs[0], time.monotonic()
        weights = Weights(first.checkpoint or self.weights.checkpoint, self.weights.loras + first.loras)
        try:
            batch = await self.draw([job.request for job in jobs], first.plan, weights)
        except Exception as error:
            batch = Batch([error] * len(jobs), {})
        self.last_seconds = seconds = time.monotonic() - begin
        for job, result in zip(jobs, batch.results, strict=True):
            if job.done.done():  # its client has gone, or its time is over
                continue
            if isinstance(result, Exception):
                job.done.set_exception(result)
            else:
                told = (weights, batch.settings, begin - job.since, seconds, len(jobs))
                job.done.set_result(Drawn(result, *told))

    @property
    def retry_after(self) -> int:
        """Seconds after which a refused client may try again: the time of a batch, at least 1."""
        return max(1, math.ceil(self.last_seconds))


def take(waiting: list[Job], most: int, most_pixels: int) -> list[Job]:
    """Remove and return the oldest job, and others of its group while there is room for their pictures.

    The oldest job comes first, so none waits for ever, whatever else arrives.
    """
    if not waiting:
        return []
    batch, first = [waiting[0]], waiting[0]
    room = min(most, most_pixels // math.prod(first.request.size)) - first.request.num_samples
    for job in waiting[1:]:
        if job.group == first.group and job.request.num_samples <= room:
            room -= job.request.num_samples
            batch.append(job)
    waiting[:] = [job for job in waiting if job not in batch]
    return batch
