"""A batch and the server on two Ray nodes, one of which is lost. Ray needs some 60 s.

The batch goes on from a run that was killed.
"""

import json
import logging
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from canny2image_TRT import hackathon
from cldm.checkpoint import SMALL_MODEL
from cldm.request import Request
from scoring.pictures import read
from serving import batch
from serving.listening import free_port
from serving.parameters import load
from tests.arguments import waves
from tests.server_client import decoded, drawn, post, same

pytest.importorskip("ray", reason="./preprocess.sh serve installs Ray")

ROOT = Path(batch.__file__).parents[1]
STORE = 100 * 2**20  # bytes
COUNT = 24
BAD = "bad"  # its strength gives a picture that is not finite
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(STORE),
    # Ray notices a lost node after 3 s instead of 15 s.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": STORE}


def said(i: int) -> dict[str, Any]:
    """Return the arguments of a request; one in four has two samples."""
    return {"prompt": f"bird {i}", "seed": i, "num_samples": 2 if i % 4 == 0 else 1}


def outputs(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.png")}


EXPECTED = {f"{i}.png" for i in range(COUNT)} | {f"{i}_1.png" for i in range(0, COUNT, 4)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a list: COUNT requests with pictures of two sizes, and one that fails."""
    folder = tmp_path_factory.mktemp("batch")
    (folder / "in").mkdir()
    for name, width in (("square", 64), ("wide", 128)):
        Image.fromarray(waves(64, width)).save(folder / "in" / f"{name}.png")
    lines = [{"name": str(i), "input_image": f"in/{('square', 'wide')[i % 2]}.png", **said(i)} for i in range(COUNT)]
    lines.append({"name": BAD, "input_image": "in/square.png", "strength": 1e30})
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    options = ("--image-resolution", "64", "--plan", "19,4", "--device", "cpu", "--weights", str(SMALL_MODEL))
    return [str(folder / "list.jsonl"), str(folder / "out"), *options, "--replicas", "2", *more]


@pytest.fixture(scope="module")
def killed(folder: Path) -> dict[str, int]:
    """Start a run with an own Ray, and kill it after its first pictures. Return name -> time of change, in ns."""
    command = [sys.executable, "-m", "serving.batch", *arguments(folder, "--replicas", "1")]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | RAY, stderr=subprocess.DEVNULL)
    try:
        while len(outputs(folder / "out")) < 3 and process.poll() is None:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    return {name: (folder / "out" / name).stat().st_mtime_ns for name in outputs(folder / "out")}


@pytest.fixture(scope="module")
def cluster(killed: dict[str, int]) -> Iterator[Any]:
    """Yield a ray.cluster_utils.Cluster of one node, after the run with an own Ray has ended."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def finished(folder: Path, killed: dict[str, int], cluster: Any) -> tuple[int, dict[str, Any], float]:
    """Run the command again on two nodes, one of which is lost. Return status, summary and when the node was lost."""
    other, lost = cluster.add_node(**NODE), list[float]()

    def lose() -> None:
        while outputs(folder / "out") == killed.keys():
            time.sleep(0.01)
        cluster.remove_node(other, allow_graceful=False)
        lost.append(time.time_ns())

    thread = threading.Thread(target=lose)
    thread.start()
    status = batch.main(arguments(folder, "--address", cluster.address))
    thread.join()
    return status, json.loads((folder / "out" / "summary.json").read_text()), lost[0]


def test_a_killed_run_leaves_whole_pictures_and_no_summary(folder: Path, killed: dict[str, int]) -> None:
    assert 3 <= len(killed) < len(EXPECTED)
    for name in killed:
        assert load((folder / "out" / name).read_bytes())["image_resolution"] == 64


def test_the_next_run_draws_the_rest_only(
    folder: Path, killed: dict[str, int], finished: tuple[int, dict[str, Any], float]
) -> None:
    assert outputs(folder / "out") == EXPECTED
    assert not list((folder / "out").glob(".*")), "temporary files or the lock are left"
    summary = finished[1]
    assert summary["done"] + summary["skipped"] == COUNT
    now = {name: (folder / "out" / name).stat().st_mtime_ns for name in killed}
    complete = {name for name in killed if all(one in killed for one in EXPECTED if belongs(one, name))}
    assert {name: now[name] for name in complete} == {name: killed[name] for name in complete}
    assert summary["skipped"] == len({name.removesuffix(".png").partition("_")[0] for name in complete})


def belongs(one: str, other: str) -> bool:
    """Return whether two files are of the same request."""
    return len({name.removesuffix(".png").partition("_")[0] for name in (one, other)}) == 1


def test_a_failing_request_does_not_stop_the_others(finished: tuple[int, dict[str, Any], float]) -> None:
    status, summary, _ = finished
    assert status == 1
    assert summary["failed"].keys() == {BAD}
    assert "strength 1e+30" in summary["failed"][BAD]


def test_pictures_are_drawn_after_a_node_was_lost(folder: Path, finished: tuple[int, dict[str, Any], float]) -> None:
    assert max((folder / "out" / name).stat().st_mtime_ns for name in EXPECTED) > finished[2]


def test_pictures_equal_those_of_draw(
    folder: Path, finished: tuple[int, dict[str, Any], float], trained: hackathon
) -> None:
    for i in range(0, COUNT, 3):
        picture = read(folder / "in" / f"{('square', 'wide')[i % 2]}.png")
        alone = trained.draw(Request.contest(picture, image_resolution=64, **said(i)))
        for sample, expected in enumerate(alone):
            name = f"{i}_{sample}.png" if sample else f"{i}.png"
            with Image.open(folder / "out" / name) as drawn:
                assert np.abs(np.array(drawn, np.int16) - expected.astype(np.int16)).max() <= 1


def test_pictures_hold_their_parameters(folder: Path, finished: tuple[int, dict[str, Any], float]) -> None:
    values = load((folder / "out" / "5.png").read_bytes())
    assert said(5).items() <= values.items()
    assert values["settings"].items() >= {"Model": "model", "Plan": "19,4", "Precision": "fp32"}.items()


@pytest.fixture
def server(cluster: Any) -> Iterator[tuple[str, Any]]:
    """Yield the address of a server with a replica on each of two nodes, and the node to lose."""
    import ray
    from ray import serve

    from serving.server import NAME, build

    other, port = cluster.add_node(**NODE), free_port("127.0.0.1", 0)
    ray.init(address=cluster.address, include_dashboard=False, logging_level=logging.ERROR)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        options = f"--replicas 2 --plan 19,4 --device cpu --weights {shlex.quote(str(SMALL_MODEL))}"
        serve.run(build({"options": options}), name=NAME)
        yield f"http://127.0.0.1:{port}", other
    finally:
        ray.shutdown()  # the cluster ends next, and serve.shutdown() would wait for it politely


def test_the_server_answers_every_request(
    cluster: Any, finished: object, server: tuple[str, Any], trained: hackathon
) -> None:
    address, lost = server
    assert requests.get(f"{address}/readyz", timeout=30).json()["replicas"] == 2
    expected = {seed: drawn(trained, seed=seed) for seed in range(4)}

    def right(number: int) -> bool:
        if number == 8:
            cluster.remove_node(lost, allow_graceful=False)
        response = post(address, seed=number % 4)
        return response.status_code == 200 and same(decoded(response.json()["pictures"][0]), expected[number % 4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, range(48)))
