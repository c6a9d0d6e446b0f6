"""What all routes share: the limits of requests, the queue, and the weights."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from cldm.request import Request
from serving.dispatch import Batch, Dispatcher, Drawn, Job, Weights
from serving.errors import busy
from serving.metrics import Metrics
from serving.offered import Offered
from serving.options import Options
from serving.prompt_loras import refuse_loras, split_loras
from serving.shelf import Shelf
from weights.loras import Loras

log = logging.getLogger(__name__)
T = TypeVar("T")


class Replicas(Protocol):
    """Access to all replicas."""

    async def about(self) -> Weights:
        """Return the weights in use; wait until a replica has initialized."""

    async def draw(self, requests: Sequence[Request], plan: str | None, weights: Weights) -> Batch:
        """Have a free replica generate a batch, and another one if it dies."""

    async def change(self, weights: Weights) -> None:
        """Change all replicas, one after another. Raise ValueError if the weights cannot be used."""

    async def running(self) -> int:
        """Return how many replicas have initialized and live."""


@dataclass(frozen=True)
class Asked:
    """A request as the client gave it, with LoRAs in its prompts. checkpoint: a name, or None for the server's."""

    request: Request
    plan: str | None = None
    checkpoint: str | None = None


@dataclass(frozen=True)
class Made:
    """asked: with its seed. settings: for the parameters in PNG files."""

    asked: Request
    drawn: Drawn
    settings: dict[str, str]


class Service:
    """One server. Until `start` is through, requests are refused as too early."""

    def __init__(self, options: Options, replicas: Replicas) -> None:
        self.options, self.replicas, self.metrics = options, replicas, Metrics()
        self.now = 0  # requests read, waiting or generated
        self.dispatcher: Dispatcher | None = None
        self.known: Offered | None = None
        self.changing = asyncio.Lock()

    async def start(self, workers: int) -> None:
        """Wait for the replicas, then give them batches until this is cancelled. workers: number of replicas."""
        weights, options = await self.replicas.about(), self.options
        start = Weights(options.weights or weights.checkpoint, tuple(options.loras))
        self.known = Offered(Shelf(options.weights_folder, "checkpoint"), Shelf(options.lora_folder, "LoRA"), start)
        self.dispatcher = Dispatcher(self.replicas.draw, weights, options.batch, options.most_pixels)
        await asyncio.gather(*(self.dispatcher.work() for _ in range(workers)))

    @property
    def queue(self) -> Dispatcher:
        if self.dispatcher is None:
            raise busy("the replicas have not initialized yet: ask again when /readyz answers with status 200", 5)
        return self.dispatcher

    @property
    def offered(self) -> Offered:
        assert self.queue is not None, "raises before the start"
        assert self.known is not None, "set before the queue"
        return self.known

    async def limited(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `work`. Raise Refused if too many requests are here, TimeoutError after the limit."""
        if self.now >= self.options.queue:
            raise busy(f"the queue is full ({self.now} requests): send it again later", self.queue.retry_after)
        self.now += 1
        try:
            return await asyncio.wait_for(work(), self.options.time_limit)
        finally:
            self.now -= 1

    async def draw(self, asked: Sequence[Asked]) -> list[Made]:
        """Return the pictures. Raise ValueError for requests beyond the limits, and what the replicas raise."""
        self._check_limits([one.request for one in asked])
        parts = await asyncio.to_thread(lambda: [self._job(one) for one in asked])
        drawn = await self.queue.submit([Job(*part) for part in parts])
        self.metrics.drawn(drawn)
        return [Made(one.request, result, self._settings(result)) for one, result in zip(asked, drawn, strict=True)]

    async def change(self, checkpoint: str | None, loras: Sequence[tuple[str, float]] | None) -> None:
        """Change the weights of all replicas, by name; None keeps what there is. Raise ValueError for unusable ones.

        A change that has begun is finished even if its client goes: otherwise some replicas would have changed.
        """
        change = asyncio.ensure_future(self._change(checkpoint, loras))
        change.add_done_callback(lambda done: done.cancelled() or done.exception())  # its client may have gone
        await asyncio.shield(change)

    async def _change(self, checkpoint: str | None, loras: Sequence[tuple[str, float]] | None) -> None:
        async with self.changing:
            weights = self.queue.weights
            if checkpoint is not None:
                weights = replace(weights, checkpoint=self.offered.find_checkpoint(checkpoint))
            if loras is not None:
                weights = replace(weights, loras=self.offered.find_loras(loras))
            await self.replicas.change(weights)
            self.queue.weights = weights
            log.info("the weights are now %s", weights)

    def _check_limits(self, requests: Sequence[Request]) -> None:
        samples = sum(request.num_samples for request in requests)
        pixels = sum(request.num_samples * math.prod(request.size) for request in requests)
        if samples > self.options.most_samples:
            raise ValueError(f"num_samples: got {samples}, expected at most {self.options.most_samples} on this server")
        if pixels > self.options.most_pixels:
            raise ValueError(
                f"image_resolution: got {pixels} pixels in all pictures together, expected at most "
                f"{self.options.most_pixels} on this server: use a smaller image_resolution, or fewer pictures"
            )

    def _job(self, asked: Asked) -> tuple[Request, str | None, str | None, Loras]:
        prompt, loras = split_loras(asked.request.prompt)
        more, more_loras = split_loras(asked.request.a_prompt, "a_prompt")
        refuse_loras(asked.request.n_prompt, "n_prompt")
        files = self.offered.find_loras([*loras, *more_loras])
        request = replace(asked.request, prompt=prompt, a_prompt=more) if files else asked.request
        checkpoint = None if asked.checkpoint is None else self.offered.find_checkpoint(asked.checkpoint)
        return request, asked.plan, checkpoint, files

    def _settings(self, drawn: Drawn) -> dict[str, str]:
        used = drawn.settings
        settings = {"Model": self.offered.checkpoint_name(drawn.weights.checkpoint)}
        for name in ("plan", "precision", "backend"):
            with suppress(KeyError):
                settings[name.capitalize()] = Path(used[name]).name  # a plan may be the path of a file
        if base := self.queue.weights.loras:
            settings["LoRAs"] = ", ".join(f"{self.offered.lora_name(file)}: {strength:g}" for file, strength in base)
        return settings
