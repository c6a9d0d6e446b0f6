"""The server as a command with two replicas in Ray: it starts, survives the death of a replica, and ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="./preprocess.sh dev serve installs it")

import psutil
import requests

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from serving.server import main
from tests.server_client import decoded, drawn, post, same, write_lora

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes to stderr."""
    return tmp_path_factory.mktemp("log") / "stderr"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, log: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The running command and its address."""
    folder = tmp_path_factory.mktemp("loras")
    write_lora(folder / "style.safetensors", 1.0)
    words = ["--plan", "19,4", "--device", "cpu", "--replicas", "2", "--port", "0"]
    words += ["--lora-folder", str(folder), "--weights", str(SMALL_MODEL)]
    with log.open("w") as stderr:
        running = subprocess.Popen(
            [sys.executable, "-m", "serving.server", *words],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True,
        )  # fmt: skip
    assert running.stdout
    try:
        line = next(one for one in running.stdout if one.startswith("serving on "))
        yield running, line.removeprefix("serving on ").strip()
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(60)


def replicas(process: int) -> list[int]:
    """Return the process ids of the replicas."""
    children = psutil.Process(process).children(recursive=True)
    return [child.pid for child in children if "ServeReplica:canny2image:Replica" in " ".join(child.cmdline())]


def test_a_replica_dies_under_load(command: tuple[Any, str], trained: hackathon) -> None:
    running, server = command
    assert requests.get(f"{server}/readyz", timeout=30).json() == {"status": "ready", "replicas": 2, "expected": 2}
    expected = {seed: drawn(trained, seed=seed) for seed in range(4)}

    def right(number: int) -> bool:
        if number == 8:
            os.kill(replicas(running.pid)[0], signal.SIGKILL)
        response = post(server, seed=number % 4)
        return response.status_code == 200 and same(decoded(response.json()["pictures"][0]), expected[number % 4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, range(32)))


def test_all_replicas_change_their_weights_under_load(command: tuple[Any, str], trained: hackathon) -> None:
    _, server = command
    plain = drawn(trained, seed=1)

    def is_plain(number: int) -> bool:
        if number in (6, 14):
            loras = [{"name": "style", "strength": 1}] if number == 6 else []
            change: dict[str, Any] = {"loras": loras}
            changed = requests.post(f"{server}/v1/weights", json=change, timeout=120)
            assert changed.json()["loras"] == loras
        response = post(server, seed=1)
        assert response.status_code == 200, response.text
        return same(decoded(response.json()["pictures"][0]), plain)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(is_plain, range(24)))
    assert False in found[6:14], "the LoRA was never used"
    assert found[:2] == [True, True]
    assert all(is_plain(number) for number in range(100, 108)), "a replica keeps the LoRA"


def test_a_taken_port(command: tuple[Any, str]) -> None:
    _, server = command
    done = subprocess.run(
        [sys.executable, "-m", "serving.server", "--port", server.rpartition(":")[2], "--device", "cpu"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    refused = "cannot be used (Address already in use): choose another port, or 0 for a free one"
    assert done.stderr.splitlines()[-1].endswith(refused)


@pytest.mark.parametrize("port", ["70000", "-1"])
def test_a_port_that_does_not_exist(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray has started"))
    with pytest.raises(SystemExit) as caught:
        main(["--port", port, "--device", "cpu"])
    assert caught.value.code == f"error: --port: got {port}, expected 0 to 65535"


def test_the_openapi_document(command: tuple[Any, str]) -> None:
    _, server = command
    paths = json.loads(requests.get(f"{server}/openapi.json", timeout=30).text)["paths"]
    assert {"/v1/pictures", "/v1/weights", "/sdapi/v1/txt2img"} <= paths.keys()


def test_request_ids(command: tuple[Any, str]) -> None:
    """A request without an id gets one, and the client learns it."""
    _, server = command
    assert len(requests.get(f"{server}/healthz", timeout=30).headers["X-Request-Id"]) > 10
    given = requests.get(f"{server}/healthz", headers={"X-Request-Id": "mine-1"}, timeout=30)
    assert given.headers["X-Request-Id"] == "mine-1"


def test_the_log_keeps_what_was_logged_before(command: tuple[Any, str], log: Path) -> None:
    """A second error of a kind must have its line, and the server must not remember all lines."""
    _, server = command
    for _ in range(2):
        requests.post(f"{server}/v1/weights", json={"loras": []}, timeout=120)
    last = [line for line in log.read_text().splitlines() if line.startswith("the weights are now ")][-2:]
    assert len(last) == 2
    assert last[0] == last[1]
