"""Errors of requests: each becomes a status and {"error": {"type", "message"}}."""

import asyncio
import logging
import re
from typing import Any

import torch
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

log = logging.getLogger(__name__)

FOLDER = re.compile(r"(?<!\S)/(?:[^\s/:,]+/)+")  # of an absolute path, without the file's name
STATUSES = {
    400: "the body is damaged",
    401: "the API key is missing or wrong",
    403: "the server has no API key, and this client is none of this machine",
    413: "the body is too large",
    415: "the body is of another type",
    422: "an argument is wrong, or cannot be honoured",
    503: "the queue is full, or the replicas are not there: send it again after Retry-After seconds",
    504: "the time limit is over",
}


class Refused(Exception):
    """A request is answered with a status, a type of error for programs and one sentence."""

    def __init__(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.headers = status, kind, headers


class Unavailable(RuntimeError):
    """No replica could generate a batch."""


def busy(message: str, seconds: int) -> Refused:
    """Return the refusal of a request that may be sent again after some seconds."""
    return Refused(503, "unavailable", message, {"Retry-After": str(seconds)})


def cancelled(gone: bool) -> Refused:
    """Return the refusal of a request that was cancelled. gone: because its client has gone, else the server stops."""
    if gone:
        return Refused(499, "gone", "the client has closed the connection")
    return busy("the server is stopping: send it again later", 5)


def refused(error: Exception) -> Refused:
    """Return the refusal for any exception. The sentences of ValueError and TypeError are meant for clients."""
    match error:
        case Refused():
            return error
        case ValueError() | TypeError():
            return Refused(422, "invalid", one_sentence(error))
        case torch.OutOfMemoryError():
            return busy("the pictures need more memory than there is: make them smaller, or send fewer at a time", 5)
        case Unavailable():
            return busy(one_sentence(error), 5)
        case asyncio.TimeoutError():
            return Refused(504, "timeout", "the pictures were not ready in time: send fewer or smaller ones, or later")
        case HTTPException():
            kinds = {400: "invalid", 404: "not_found", 405: "method"}
            headers = dict(error.headers or {})
            return Refused(error.status_code, kinds.get(error.status_code, "http"), str(error.detail), headers)
    log.error("a request failed", exc_info=error)
    return Refused(500, "internal", "the server failed: its log has the details, under the X-Request-Id of this answer")


def one_sentence(error: Exception) -> str:
    """Return the message on one line, with files named without their folders, which clients must not learn.

    Half of a surrogate pair, which JSON cannot carry, becomes a question mark.
    """
    return FOLDER.sub("", " ".join(str(error).split())).encode(errors="replace").decode()


def answer(error: Exception) -> JSONResponse:
    """Return the response for any exception."""
    refusal = refused(error)
    content: dict[str, Any] = {"error": {"type": refusal.kind, "message": str(refusal)}}
    return JSONResponse(content, refusal.status, refusal.headers)
