"""Draws the requests of a batch with Ray Data: on all GPUs of a cluster, or with several workers on CPUs."""

import itertools
import logging
import os
import pickle
import re
import signal
import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from reading import shown
from serving.batch_job import Job, Row, read_group
from serving.batch_worker import Worker

MOST_TOGETHER = 4  # pictures in one batch of a worker
NO_CLUSTER = "--address: found no Ray cluster at %s: start one with ray start --head, or leave out --address"
RETRIES = 5  # of a group whose worker or machine was lost; some pass before Ray notices the loss
READERS = 2  # processes that read pictures


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Connect to the Ray cluster at `address`, or start Ray within this machine and stop it at the end.

    Raises ValueError if there is no cluster. Import no Ray before: it reads its environment when it is imported.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux too: listen on 127.0.0.1 only
    elif address != "auto":
        check_address(address)  # Ray would wait for minutes
    import ray

    try:
        ray.init(address=address or "local", include_dashboard=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ValueError(NO_CLUSTER % address) from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C; Ray's handler aborts the process
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Raise ValueError if this is not HOST:PORT, or nothing listens there."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError(f"--address: got {shown(address)}, expected auto or HOST:PORT, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ValueError(NO_CLUSTER % address) from error


def count_workers(replicas: int | None, device: str) -> tuple[int, dict[str, Any]]:
    """Return the number of workers, and what each of them needs: one GPU, or its share of the CPUs.

    By default one for each GPU, or a single one without GPUs. Raises ValueError if there are too few GPUs or CPUs.
    """
    import ray

    gpus, cpus = (int(ray.cluster_resources().get(name, 0)) for name in ("GPU", "CPU"))
    if device == "cuda" and not gpus:
        raise ValueError("--device: got cuda, but Ray finds no GPU here: use --device cpu")
    if device != "cpu" and gpus:
        if (replicas or 1) > gpus:
            raise ValueError(f"--replicas: got {replicas}, expected at most {gpus}, the number of GPUs")
        return replicas or gpus, {"num_gpus": 1, "num_cpus": 0}
    if (replicas or 1) > cpus:
        raise ValueError(f"--replicas: got {replicas}, expected at most {cpus}, the number of CPUs")
    smallest = min(int(node["Resources"].get("CPU", 0)) or cpus for node in ray.nodes() if node["Alive"])
    return replicas or 1, {"num_cpus": max(1, min(cpus // (replicas or 1), smallest))}


def groups(jobs: Sequence[Job], most: int) -> Iterator[list[Job]]:
    """Yield jobs of equal shape together, at most `most` pictures unless one job has more."""
    for _, same in itertools.groupby(sorted(jobs, key=lambda job: job.shape), lambda job: job.shape):
        group: list[Job] = []
        for job in same:
            if group and sum(one.samples for one in group) + job.samples > most:
                yield group
                group = []
            group.append(job)
        yield group


def draw_all(jobs: Sequence[Job], options: dict[str, Any], replicas: int | None) -> Iterator[Row]:
    """Yield the rows of `Worker` as they are finished, one for each job, after a second try for those without one.

    Raises ValueError if no worker can start.
    """
    import ray

    workers, needs = count_workers(replicas, options["device"])
    left = {job.name: job for job in jobs}
    try:
        for most in (max(1, min(MOST_TOGETHER, len(jobs) // workers)), 1):
            for row in _rows(list(groups(list(left.values()), most)), options, workers, needs):
                left.pop(row["name"])
                yield row
            if not left:
                return
    except ray.exceptions.RayError as error:
        raise ValueError(f"Ray: {str(error).strip().splitlines()[-1]}") from error
    for name in left:
        yield {"name": name, "pictures": [], "error": "its worker was lost whenever it was drawn: see the log of Ray"}


def _rows(chunks: Sequence[Sequence[Job]], options: dict[str, Any], workers: int, needs: dict[str, Any]) -> Any:
    """Return the rows of all workers. Pictures are read on this machine: others may not have them."""
    import ray
    import ray.data

    # The only way to set max_task_retries; without it a group that kills its worker would be tried for ever.
    warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.max_errored_blocks = False, -1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the tracebacks of errored blocks
    items = [{"group": pickle.dumps(list(chunk))} for chunk in chunks]
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    read = ray.data.from_items(items, override_num_blocks=len(items)).map(
        read_group, compute=ray.data.TaskPoolStrategy(size=READERS), num_cpus=0, label_selector=here
    )
    drawn = read.flat_map(
        Worker,
        fn_constructor_args=(options,),
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
        ray_remote_args_fn=lambda: {"max_task_retries": RETRIES},
        **needs,
    )
    return drawn.iter_rows()
