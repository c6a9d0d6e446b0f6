"""The HTTP server of the command: uvicorn, with limits for connections, and an end that answers all requests."""

import logging
import math
import socket
from asyncio import BaseTransport
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)
IDLE = 30.0  # seconds until a connection is closed whose next request has not begun


class Connection(H11Protocol):
    """A connection that may wait for a request for `IDLE` seconds, however slowly its bytes come.

    h11 limits the size of headers, which uvicorn's other parser does not.
    """

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast(Any, transport))
        self._limit()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._limit()

    def _limit(self) -> None:
        self.loop.call_later(IDLE, self._close_unless_begun, self.cycle)

    def _close_unless_begun(self, last: object) -> None:
        if self.cycle is last:
            self.transport.close()


class Server(uvicorn.Server):
    """At a signal, waits until the requests that are here have their answers; at a second one, refuses them."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if requests := len(self.server_state.tasks):
            log.info("stopping after the answers to %d requests; a second signal refuses them", requests)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            super().handle_exit(sig, frame)
            return
        for task in [*self.server_state.tasks]:
            task.cancel()


def make_server(app: ASGIApp, host: str, port: int, seconds: float) -> Server:
    """Return a server. seconds: for the requests that are here when it stops."""
    return Server(
        uvicorn.Config(
            app, host, port, http=Connection, log_level="warning", access_log=False,
            timeout_graceful_shutdown=math.ceil(seconds),
        )
    )  # fmt: skip
