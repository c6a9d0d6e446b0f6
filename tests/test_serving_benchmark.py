"""The benchmark of the server: its rows, and clients whose requests fail."""

import argparse
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray", reason="./preprocess.sh dev serve installs it")

from benchmarks import serving
from benchmarks.clients import Load, spread
from cldm.request import Request
from serving.dispatch import Batch, Weights
from tests.local_server import serving as local_server

SMALL = ["--architecture", "small", "--device", "cpu"]


class Odd(http.server.BaseHTTPRequestHandler):
    """Refuses the requests of clients of odd numbers."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        refused = b'"bird 1"' in self.rfile.read(int(self.headers["Content-Length"]))
        content = b"the queue is full" if refused else b"{}"
        self.send_response(503 if refused else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def odd() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


def test_failures_are_no_pictures(odd: int) -> None:
    begin = time.monotonic()
    answers = spread(Load(odd, "", begin, begin + 2, [1, 2]))
    assert len(answers.seconds) > 10
    assert set(answers.errors) == {"status 503: the queue is full"}
    assert serving._row(2, answers, 9.0, 1.0, 1.0).endswith("such as status 503: the queue is full")
    closed = http.server.HTTPServer(("127.0.0.1", 0), Odd)
    closed.server_close()
    with pytest.raises(ValueError, match="refused 4 of 4 requests: ConnectionRefusedError"):
        serving.one_client_ms(closed.server_port, "", 1)


class Instant:
    """Replicas that return a black picture at once."""

    async def about(self) -> Weights:
        return Weights("instant")

    async def running(self) -> int:
        return 1

    async def change(self, weights: Weights) -> None:
        raise AssertionError("the benchmark changes no weights")

    async def draw(self, requests: Sequence[Request], plan: str | None, weights: Weights) -> Batch:
        return Batch([[np.zeros((*request.size, 3), np.uint8)] for request in requests], {})


@contextmanager
def instant_server(options: argparse.Namespace, replicas: int, batch: int) -> Iterator[int]:
    with local_server("--batch", str(batch), replicas=Instant()) as address:
        yield int(address.rpartition(":")[2])


def test_rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "WARM_S", 0.0)
    monkeypatch.setattr(serving, "process_ms", lambda options: 1.0)
    monkeypatch.setattr(serving, "server", instant_server)
    serving.main([*SMALL, "--batch", "1", "--replicas", "1", "2", "--seconds", "2"])
    process, _, one, two = (line.split() for line in capsys.readouterr().out.splitlines())
    assert process == ["process():", "1.0", "ms"]
    assert [(row[0], row[1], row[4], row[8], row[10]) for row in (one, two)] == [
        ("1", "1", "2", "1.00", "0"), ("2", "1", "4", "1.00", "0"),
    ]  # fmt: skip
    assert float(two[9]) == pytest.approx(float(two[5]) / (2 * float(one[5])), abs=0.01)
    assert float(one[6]) <= float(one[7])


def test_the_port_of_a_server(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import time; print('starting\\nserving on http://127.0.0.1:4321', flush=True); time.sleep(60)"
    with log.open("w") as out, subprocess.Popen([sys.executable, "-c", code], stdout=out) as running:
        assert serving._port(running, log) == 4321
        running.kill()


def test_a_server_that_does_not_start(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "process_ms", lambda options: 1.0)
    with pytest.raises(SystemExit, match="the server ended with status 1 before it served"):
        serving.main([*SMALL, "--backend", "none"])
    assert "error: backend" in capsys.readouterr().err
