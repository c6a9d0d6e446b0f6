"""A replica: one runtime with its weights, which generates batches in turn."""

import asyncio
import logging
import time
from collections.abc import Sequence

import numpy as np

from canny2image_TRT import hackathon
from cldm.batch_sizes import BATCHES
from cldm.options import runtime_arguments
from cldm.request import Request
from serving.dispatch import Batch, Weights
from serving.options import Options
from serving.together import draw_together

log = logging.getLogger(__name__)


class Replica:
    """Generates pictures; calls are made one at a time, in threads, so that health checks are answered meanwhile."""

    def __init__(self, options: Options) -> None:
        self.vae, self.runtime = options.vae, make_runtime(options)
        self.runtime.initialize()
        self._warm(options.batch)
        self.weights = Weights(self.runtime.checkpoint.name, tuple(options.loras))
        self.lock = asyncio.Lock()
        self.broken = ""  # why it can generate no more pictures

    async def about(self) -> Weights:
        """Return the weights in use."""
        return self.weights

    async def draw(self, requests: Sequence[Request], plan: str | None, weights: Weights) -> Batch:
        """Return the pictures of requests of one size and ddim_steps, generated with these weights.

        Raises RuntimeError if the device fails; wrong requests and weights give results that are errors.
        """
        async with self.lock:
            return await asyncio.to_thread(self._draw, requests, plan, weights)

    async def change(self, weights: Weights) -> None:
        """Change the weights after the batch that is running. Raises ValueError before anything has changed."""
        async with self.lock:
            await asyncio.to_thread(self._use, weights)

    def check_health(self) -> None:
        """Ray Serve calls this and, if it raises, starts a new replica."""
        if self.broken:
            raise RuntimeError(self.broken)

    def _warm(self, most: int) -> None:
        """Generate a batch of each size, because each has a graph and engines of its own, which take long to load."""
        request = Request.contest(np.zeros((256, 384, 3), np.uint8))
        for size in BATCHES:
            if self.runtime.graph and 1 < size <= most:
                self.runtime.process_many([request] * size)

    def _draw(self, requests: Sequence[Request], plan: str | None, weights: Weights) -> Batch:
        try:
            self._use(weights)
            return Batch(draw_together(self.runtime, requests, plan), self.runtime.settings)
        except (ValueError, TypeError) as error:
            return Batch([error] * len(requests), {})
        except RuntimeError as error:
            self.broken = str(error)
            raise

    def _use(self, weights: Weights) -> None:
        if weights == self.weights:
            return
        begin = time.monotonic()
        if weights.checkpoint == self.weights.checkpoint:
            self.runtime.set_loras(weights.loras)
        else:
            self.runtime.load_weights(weights.checkpoint, vae=self.vae, loras=weights.loras)
        self.weights = weights
        log.info("changed to %s in %.1f s", weights, time.monotonic() - begin)


def make_runtime(options: Options) -> hackathon:
    """Return a runtime, not initialized. Raises ValueError for bad options."""
    return hackathon(**runtime_arguments(options))
