"""Clients that are slow, send too much or go away, and the end of the server while requests wait."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("ray", reason="./preprocess.sh dev serve installs it")

import requests

from serving import http
from serving.app import make_app
from serving.http import make_server
from serving.options import parse
from tests.local_server import SMALL, Waiting, running, serving
from tests.server_client import SMALL_PICTURE, post

HEADERS = "Host: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving("--time-limit", "1", replicas=Waiting(), count=1) as address:
        yield address


def connect(server: str) -> socket.socket:
    host, _, port = server.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


READERS = (
    "v1/pictures",
    "v1/weights",
    "sdapi/v1/txt2img",
    "sdapi/v1/options",
    "sdapi/v1/png-info",
    "controlnet/detect",
)


@pytest.mark.parametrize("path", READERS)
def test_a_body_that_never_ends(server: str, path: str) -> None:
    with connect(server) as client:
        client.sendall(f"POST /{path} HTTP/1.1\r\n{HEADERS}Content-Length: 1000\r\n\r\n{{".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 504 ")


def test_headers_that_never_end(server: str) -> None:
    with connect(server) as client:
        client.sendall(f"GET /healthz HTTP/1.1\r\n{HEADERS}".encode() + b"X: " + 100_000 * b"a")
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("before", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"], ids=["first", "next"])
def test_headers_byte_by_byte(server: str, before: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE", 0.3)
    with connect(server) as client:
        client.sendall(before + b"GET /healthz HTTP/1.1\r\nX: ")

        def trickle() -> None:
            for _ in range(200):  # 10 s
                client.sendall(b"a")
                time.sleep(0.05)

        with pytest.raises(OSError, match=r"pipe|reset"):
            trickle()


def test_a_request_may_take_longer_than_a_pause(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE", 0.1)
    assert post(server).status_code == 504


def test_a_client_that_goes_away_leaves_the_queue(caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps(SMALL_PICTURE).encode()
    head = f"POST /v1/pictures HTTP/1.1\r\n{HEADERS}Content-Length: {len(body)}\r\n\r\n".encode()
    with serving(replicas=Waiting(), count=1) as server, caplog.at_level("INFO"):
        for sent in (head + body, head + body, head + body[:100]):
            with connect(server) as client:
                client.sendall(sent)
                wait_for(server, 1)
            wait_for(server, 0)
        waiting = requests.get(f"{server}/metrics", timeout=9).text.split("\ncanny2image_queue_length ")[1]
        assert float(waiting.split()[0]) == 0
    gone = [record for record in caplog.records if '"status": 499' in record.message]
    assert len(gone) == 3
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def wait_for(server: str, count: int) -> None:
    """Wait until so many requests are there."""
    for _ in range(200):
        if requests.get(f"{server}/sdapi/v1/progress", timeout=9).json()["state"]["job_count"] == count:
            return
        time.sleep(0.05)
    pytest.fail(f"there never were {count} requests")


@pytest.mark.parametrize(("signals", "limit", "status"), [(1, "2", 504), (2, "60", 503)])
def test_requests_have_answers_when_the_server_stops(signals: int, limit: str, status: int) -> None:
    """At the first signal the server waits for them; at the second it refuses them."""
    options = parse([*SMALL, "--time-limit", limit])
    server = make_server(make_app(options, Waiting(), 1), options.host, 0, options.time_limit)
    with running(server) as address, ThreadPoolExecutor(2) as pool:
        pending = [pool.submit(post, address) for _ in range(2)]
        wait_for(address, 2)
        for _ in range(signals):
            server.handle_exit(signal.SIGTERM, None)
        assert [one.result().status_code for one in pending] == [status] * 2
