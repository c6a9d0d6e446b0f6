"""What stands before every route: request ids, the API key, the limit of bodies, metrics and one log line."""

import asyncio
import base64
import binascii
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.body import Body, too_large
from serving.errors import Refused, answer, cancelled, refused
from serving.listening import LOOPBACK
from serving.metrics import Metrics

log = logging.getLogger("serving.requests")
OPEN = ("/healthz", "/readyz")  # without a key
LONGEST = 100  # characters of an id or a path in the log


class Front:
    """ASGI middleware around the app. key: the API key; if empty, only this machine's own clients get in."""

    def __init__(self, app: ASGIApp, metrics: Metrics, key: str, most_bytes: int, answer_ids: bool) -> None:
        self.app, self.metrics, self.key, self.most_bytes, self.answer_ids = app, metrics, key, most_bytes, answer_ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, begin = Headers(scope=scope), time.monotonic()
        told = {"id": _id(headers), "method": scope["method"], "path": scope["path"][:LONGEST]}
        method = "GET" if scope["method"] == "HEAD" else scope["method"]  # the server leaves out the content
        scope = {**scope, "told": told, "method": method}
        body, sending = Body(receive, self.most_bytes), _Sending(send, told, self.answer_ids)
        try:
            self._check(scope["path"], headers)
            await self.app(scope, body, sending)
        except (Exception, asyncio.CancelledError) as error:  # of any kind: the client gets an answer, the log a line
            failure = error if isinstance(error, Exception) else cancelled(body.gone)
            told["error"] = refused(failure).kind
            if sending.begun:  # the connection must break: an answer that is cut off would look whole
                raise
            await answer(failure)(scope, receive, sending)
        finally:
            body.close()
            self._record(scope, told, time.monotonic() - begin)

    def _check(self, path: str, headers: Headers) -> None:
        """Raise Refused for a client without the key, or for a body that is announced to be too large."""
        if path not in OPEN:
            check_key(headers, self.key)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self.most_bytes:
            raise too_large(self.most_bytes)

    def _record(self, scope: Scope, told: MutableMapping[str, Any], seconds: float) -> None:
        path = getattr(scope.get("route"), "path", "other")  # the route's, for the number of series must be bounded
        self.metrics.requests.labels(path, told.get("status", "none")).inc()
        if "error" in told:
            self.metrics.failures.labels(told["error"]).inc()
        if "batch" in told:
            self.metrics.seconds.labels("total").observe(seconds)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        log.info("%s", json.dumps({"time": now, **told, "seconds": round(seconds, 4)}))


class _Sending:
    """Notes the status of the answer, and adds the request's id to it."""

    def __init__(self, send: Send, told: MutableMapping[str, Any], answer_id: bool) -> None:
        self.send, self.told, self.answer_id, self.begun = send, told, answer_id, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun, self.told["status"] = True, message["status"]
            if self.answer_id:
                MutableHeaders(scope=message)["X-Request-Id"] = self.told["id"]
        await self.send(message)


def check_key(headers: Headers, key: str) -> None:
    """Raise Refused unless the headers carry the key, as Bearer or as the password of Basic.

    Without a key, the host must be this machine, so that no web page can reach the server under another name.
    """
    if not key:
        if _host(headers.get("host", "")) not in LOOPBACK:
            raise Refused(403, "forbidden", "without an API key this server answers to 127.0.0.1 and localhost only")
        return
    if not hmac.compare_digest(_given(headers.get("authorization", "")).encode(), key.encode()):
        ask = {"WWW-Authenticate": 'Basic realm="canny2image"'}
        raise Refused(
            401, "unauthorized", "the API key is missing or wrong: send the header 'Authorization: Bearer KEY'", ask
        )


def _given(header: str) -> str:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    try:
        decoded = base64.b64decode(value, validate=True).decode() if scheme.lower() == "basic" else ""
    except (binascii.Error, ValueError):
        return ""
    return decoded.partition(":")[2]


def _host(header: str) -> str:
    return re.sub(r":\d*$", "", header).strip("[]").lower()


def _id(headers: Headers) -> str:
    """Return the request's id. Ray Serve's proxies add one if the client sent none."""
    return (headers.get("x-request-id") or uuid.uuid4().hex)[:LONGEST]
