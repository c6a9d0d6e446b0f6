"""python -m benchmarks.serving: pictures per second and latency of the server over HTTP, beside those of process().

Random weights of the real size and all evaluations by default. For each number of replicas and size of batches, a
server is started, measured with one client, then with twice as many clients as it generates pictures together, and
stopped. Each figure is printed as soon as it is known.
"""

import argparse
import base64
import io
import multiprocessing
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.clients import Answers, Client, Load, spread
from benchmarks.peers import contest_request, positive, settle_architecture
from benchmarks.timing import WARMUPS, time_picture
from canny2image_TRT import hackathon
from cldm.canny import Picture
from cldm.options import add_options, runtime_arguments
from commands import one_line
from runtime.backends import choose_device
from serving.listening import KEY

RUNTIME = ("weights", "architecture", "backend", "plan", "device")
WARM_S = 3.0  # of clients, for each size of a batch, because each has a graph of its own
START_S = 1.0  # until all processes of clients have started
TITLES = (
    "replicas  batch   one client, ms  above process(), ms   clients  pictures/s  median, ms  95 %, ms  mean batch  "
    "to one replica   failures"
)


def process_ms(options: argparse.Namespace) -> float:
    """Return the median of process() in a process of its own, whose GPU memory is free again afterwards."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_process_ms, options).result()


def _process_ms(options: argparse.Namespace) -> float:
    runtime, request = hackathon(**runtime_arguments(options)), contest_request()
    runtime.initialize()

    def make() -> Picture:
        return runtime.draw(replace(request))[0]  # replace() checks the arguments, as process() does

    return statistics.median(time_picture(make, runtime.device, WARMUPS, options.runs)[1])


@contextmanager
def server(options: argparse.Namespace, replicas: int, batch: int) -> Iterator[int]:
    """Run a server until the block ends, and yield its port. Raise ValueError if it ends before it serves."""
    words = [word for name in RUNTIME if (value := getattr(options, name)) for word in (f"--{name}", value)]
    words += ["--replicas", str(replicas), "--batch", str(batch), "--queue", str(2 * replicas * batch + 1)]
    environment = {name: value for name, value in os.environ.items() if name != KEY}  # the clients send none
    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "serving.server", "--port", "0", *words],
            stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            yield _port(running, Path(log.name))
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait()


def _port(running: "subprocess.Popen[bytes]", log: Path) -> int:
    """Return the port once the server serves."""
    while running.poll() is None:
        if found := re.search(r"^serving on http://.*:(\d+)$", log.read_text(errors="replace"), re.MULTILINE):
            return int(found[1])
        time.sleep(0.2)
    print(*log.read_text(errors="replace").splitlines()[-20:], sep="\n", file=sys.stderr)
    raise ValueError(f"the server ended with status {running.returncode} before it served: its last lines are above")


def one_client_ms(port: int, picture: str, runs: int) -> float:
    """Return the median of requests over one connection. Raise ValueError if one fails."""
    client = Client(port, picture, 0)
    answers = [client.timed() for _ in range(WARMUPS + runs)]
    if errors := [error for _, error in answers if error]:
        raise ValueError(f"the server refused {len(errors)} of {len(answers)} requests: {errors[0]}")
    return 1e3 * statistics.median(seconds for seconds, _ in answers[WARMUPS:])


def many_clients(port: int, picture: str, clients: int, warm_s: float, seconds: float) -> tuple[Answers, float]:
    """Return the answers within `seconds` after a warm-up, and the mean size of batches, with the warm-up."""
    begin = time.monotonic() + START_S + warm_s
    before = _batches(port)
    answers = spread(Load(port, picture, begin, begin + seconds, list(range(1, clients + 1))))
    pictures, requests = (now - then for now, then in zip(_batches(port), before, strict=True))
    return answers, pictures / max(1, requests)


def _batches(port: int) -> tuple[float, float]:
    """Return the sum of the sizes of batches over all requests, and the number of these."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        lines = [line.split() for line in response.read().decode().splitlines() if not line.startswith("#")]
    values = {name: float(value) for name, *_, value in lines}
    return values["canny2image_batch_size_sum"], values["canny2image_batch_size_count"]


def encoded(picture: Picture) -> str:
    """Return the PNG file of a picture in base64."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def measure(options: argparse.Namespace) -> None:
    """Print the figure of process(), and a row for each kind of server."""
    base = process_ms(options)
    print(f"process(): {base:.1f} ms", TITLES, sep="\n", flush=True)
    source = contest_request().input_image
    assert source is not None, "the contest's request has a picture"
    picture, single = encoded(source), dict[int, float]()
    for replicas, batch in product(options.replicas, options.batch):
        with server(options, replicas, batch) as port:
            alone = one_client_ms(port, picture, options.runs)
            print(f"{replicas:8} {batch:6} {alone:16.1f} {alone - base:20.1f}", end="", flush=True)
            for power in range(batch.bit_length()):  # graphs are for batches of 1, 2, 4 and 8
                many_clients(port, picture, replicas * 2**power, WARM_S, 0)
            clients = 2 * replicas * batch
            answers, mean = many_clients(port, picture, clients, WARM_S, options.seconds)
        rate = len(answers.seconds) / options.seconds
        if replicas == 1:
            single[batch] = rate
        print(_row(clients, answers, rate, mean, rate / (replicas * single.get(batch, np.nan))), flush=True)


def _row(clients: int, answers: Answers, rate: float, mean: float, scaling: float) -> str:
    middle, most = 1e3 * np.percentile(answers.seconds or [np.nan], [50, 95])
    errors = f"{len(answers.errors)}, such as {answers.errors[0]}" if answers.errors else "0"
    return f"{clients:10} {rate:11.2f} {middle:11.0f} {most:9.0f} {mean:11.2f} {scaling:15.2f}   {errors}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser.add_argument_group("pictures"), *RUNTIME)
    add = parser.add_argument
    add("--replicas", type=positive, nargs="+", default=[1], help="numbers of replicas to measure; default: 1")
    add("--batch", type=positive, nargs="+", default=[1, 8], help="sizes of batches to measure; default: 1 8")
    add(
        "--runs",
        type=positive,
        default=20,
        help="timed calls of process(), and timed requests of one client; default: 20",
    )
    add("--seconds", type=positive, default=15, help="time with many clients; default: 15")
    parser.set_defaults(weights="random:0", plan="all")
    options = parser.parse_args(arguments)
    with one_line(stopped="the server has ended"):
        options.architecture = settle_architecture(options.architecture, choose_device(options.device))
        measure(options)


if __name__ == "__main__":
    main()
