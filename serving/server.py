"""Serves pictures over HTTP with Ray Serve: the API /v1, and a part of the WebUI's.

python -m serving.server starts Ray in this process and serves until Ctrl-C. On a cluster, see serve.yaml.
"""

import commands

# isort: split

import logging
import os
import signal
import sys
import time
import urllib.request
from dataclasses import replace
from types import FrameType

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent to anyone; before Ray is imported
os.environ["RAY_DEDUP_LOGS"] = "0"  # each request has its line
if __name__ == "__main__":  # not on a cluster, whose machines must reach each other
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's own ports listen on 127.0.0.1 only, on Linux too

import ray
from ray import serve

from serving.listening import free_port
from serving.options import Options, check_host, parse, parse_text
from serving.ray_replicas import application
from serving.replica import make_runtime

NAME = "canny2image"


def build(arguments: dict[str, str]) -> serve.Application:
    """Return the application for serve.yaml, whose field args has the command line's options as text."""
    return application(parse_text(arguments.get("options", "")))


def main(arguments: list[str] | None = None) -> int:
    """Run the command until Ctrl-C or SIGTERM, and return its exit status."""
    commands.start_logging()
    with commands.one_line(stopped="the server has ended"):
        options = parse(sys.argv[1:] if arguments is None else arguments)
        check_host(options)
        make_runtime(options).checkpoint.check()  # raises for bad options and files, before Ray starts
        run(replace(options, port=free_port(options.host, options.port)))
    return 0


def run(options: Options) -> None:
    """Serve until a signal. Raise ValueError if the replicas cannot initialize."""
    ray.init("local", include_dashboard=False, logging_level=logging.WARNING)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        start(options)
        wait_until_ready(options)
        print(f"serving on http://{options.host}:{options.port}", flush=True)
        while True:
            signal.pause()
    finally:
        serve.shutdown()
        ray.shutdown()


def start(options: Options) -> None:
    """Start the server in the Ray that runs, and wait for the replicas. Raise ValueError if they cannot initialize."""
    serve.start(http_options={"host": options.host, "port": options.port})
    try:
        serve.run(application(options), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise ValueError(f"the replicas cannot start: {str(error).strip().splitlines()[-1]}") from error


def wait_until_ready(options: Options) -> None:
    """Wait until a replica can generate pictures."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)
    address = f"http://{f'[{host}]' if ':' in host else host}:{options.port}/readyz"
    while True:
        try:
            with urllib.request.urlopen(address, timeout=30):
                return
        except OSError:  # HTTPError too: status 503
            time.sleep(0.2)


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
