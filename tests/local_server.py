"""A server in this process, over HTTP: all of serving/ but Ray, with replicas as plain objects."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cldm.checkpoint import SMALL_MODEL
from cldm.request import Request
from serving.app import make_app
from serving.dispatch import Batch, Weights
from serving.http import Server, make_server
from serving.options import parse
from serving.replica import Replica

SMALL = ("--plan", "19,4", "--device", "cpu")


class LocalReplicas:
    """See serving.service.Replicas. Batches go to the replicas in turn."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas, self.turn = replicas, 0

    async def about(self) -> Weights:
        return await self.replicas[0].about()

    async def draw(self, requests: Sequence[Request], plan: str | None, weights: Weights) -> Batch:
        self.turn += 1
        return await self.replicas[self.turn % len(self.replicas)].draw(requests, plan, weights)

    async def change(self, weights: Weights) -> None:
        for replica in self.replicas:
            await replica.change(weights)

    async def running(self) -> int:
        return len(self.replicas)


class Waiting:
    """Replicas whose pictures are never ready."""

    async def about(self) -> Weights:
        return Weights(str(SMALL_MODEL))

    async def draw(self, requests: Any, plan: Any, weights: Any) -> Batch:
        await asyncio.sleep(60)
        raise AssertionError("too late")

    async def change(self, weights: Weights) -> None:
        pass

    async def running(self) -> int:
        return 1


@contextmanager
def serving(*words: str, replicas: Any = None, count: int = 2) -> Iterator[str]:
    """Serve with these options until the block ends, and yield the address."""
    options = parse([*SMALL, *words])
    replicas = replicas or LocalReplicas([Replica(options) for _ in range(count)])
    with running(make_server(make_app(options, replicas, count), options.host, 0, options.time_limit)) as address:
        yield address


@contextmanager
def running(server: Server) -> Iterator[str]:
    """Run the server in a thread until the block ends, and yield the address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
