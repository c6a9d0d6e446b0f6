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

from cldm.checkpoint import SMALL_MODEL
from tests.test_server import SMALL_PICTURE, alone, decoded, drawn, same  # noqa: F401  (a fixture)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def command() -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The running command and its address."""
    words = ["--weights", str(SMALL_MODEL), "--plan", "19,4", "--device", "cpu", "--replicas", "2", "--port", "0"]
    running = subprocess.Popen(
        [sys.executable, "-m", "serving.server", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
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


def test_a_replica_dies_under_load(command: tuple[Any, str], alone: Any) -> None:  # noqa: F811
    running, server = command
    assert requests.get(f"{server}/readyz", timeout=30).json() == {"status": "ready", "replicas": 2, "expected": 2}
    expected = {seed: drawn(alone, seed=seed) for seed in range(4)}

    def post(number: int) -> bool:
        if number == 8:
            os.kill(replicas(running.pid)[0], signal.SIGKILL)
        seed = number % 4
        response = requests.post(f"{server}/v1/pictures", json=SMALL_PICTURE | {"seed": seed}, timeout=120)
        return response.status_code == 200 and same(decoded(response.json()["pictures"][0]), expected[seed])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(post, range(32)))


def test_weights_of_all_replicas(command: tuple[Any, str]) -> None:
    _, server = command
    url = f"{server}/v1/weights"
    for _ in range(3):  # whichever replica answers
        assert requests.post(url, json={"checkpoint": "model", "loras": []}, timeout=60).json()["checkpoint"] == "model"


def test_a_taken_port(command: tuple[Any, str]) -> None:
    _, server = command
    done = subprocess.run(
        [sys.executable, "-m", "serving.server", "--port", server.rpartition(":")[2], "--device", "cpu"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("cannot be used (Address already in use): choose others")


def test_the_openapi_document(command: tuple[Any, str]) -> None:
    _, server = command
    paths = json.loads(requests.get(f"{server}/openapi.json", timeout=30).text)["paths"]
    assert {"/v1/pictures", "/v1/weights", "/sdapi/v1/txt2img"} <= paths.keys()


def test_request_ids(command: tuple[Any, str]) -> None:
    """Ray's proxy makes them and returns them."""
    _, server = command
    assert len(requests.get(f"{server}/healthz", timeout=30).headers["X-Request-Id"]) > 10
    given = requests.get(f"{server}/healthz", headers={"X-Request-Id": "mine-1"}, timeout=30)
    assert given.headers["X-Request-Id"] == "mine-1"
