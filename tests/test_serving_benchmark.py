"""The benchmark of the server: its command, and clients whose requests fail."""

import http.server
import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("ray", reason="./preprocess.sh dev serve installs it")

from benchmarks import serving
from benchmarks.clients import Load, spread


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


def test_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "WARM_S", 0.0)
    main = ["--architecture", "small", "--device", "cpu", "--plan", "19", "--batch", "1", "--runs", "1"]
    serving.main([*main, "--seconds", "4"])
    process, _, row = capsys.readouterr().out.splitlines()
    assert process.startswith("process(): ")
    replicas, batch, _, _, clients, rate, median, most, mean, scaling, failures = row.split()
    assert (replicas, batch, clients, mean, scaling, failures) == ("1", "1", "2", "1.00", "1.00", "0")
    assert float(rate) > 0
    assert float(median) <= float(most)


def test_a_server_that_does_not_start(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "process_ms", lambda options: 1.0)
    with pytest.raises(SystemExit, match="the server ended with status 1 before it served"):
        serving.main(["--architecture", "small", "--device", "cpu", "--backend", "none"])
    assert "error: backend" in capsys.readouterr().err
