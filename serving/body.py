"""What a client sends after the headers: a body of limited size, and the end of its connection."""

import asyncio
from typing import Any

from starlette.types import Message, Receive

from serving.errors import Refused, cancelled


class Body:
    """ASGI's `receive` for the app. A client may announce a smaller body than it sends, or nothing.

    When a client whose body is here closes its connection, the task that created this is cancelled, and `gone` is set.
    """

    def __init__(self, receive: Receive, most_bytes: int) -> None:
        self.receive, self.most_bytes, self.got, self.gone = receive, most_bytes, 0, False
        self.task = asyncio.current_task()
        self.watching: asyncio.Task[Any] | None = None

    async def __call__(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise cancelled(gone=True)
        self.got += len(message.get("body", b""))
        if self.got > self.most_bytes:
            raise too_large(self.most_bytes)
        if not message.get("more_body"):
            self.watching = asyncio.create_task(self._watch())
        return message

    def close(self) -> None:
        """End the watch."""
        if self.watching:
            self.watching.cancel()

    async def _watch(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        if self.task:
            self.task.cancel()


def too_large(most_bytes: int) -> Refused:
    return Refused(413, "too_large", f"got a body of more than {most_bytes} bytes: send smaller pictures")
