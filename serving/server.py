"""Serves pictures over HTTP, with replicas in Ray Serve: the API /v1, and a part of the WebUI's.

python -m serving.server starts Ray and serves from this process until Ctrl-C: requests reach it without Ray's proxy,
which would add about 10 ms to each. On a cluster, whose proxies serve: see serve.yaml.
"""

import commands

# isort: split

import logging
import os
import signal
import sys
import threading
import time
import urllib.request
from dataclasses import replace

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent to anyone; before Ray is imported
os.environ["RAY_DEDUP_LOGS"] = "0"  # each request has its line
os.environ.setdefault("RAY_SERVE_USE_GRPC_BY_DEFAULT", "1")  # to replicas: some ms faster, as pictures are large
os.environ.setdefault("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "0")  # each of the two threads would take 0.5 ms
os.environ.setdefault("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "0")  # of each request
if __name__ == "__main__":  # not on a cluster, whose machines must reach each other
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's own ports listen on 127.0.0.1 only, on Linux too

import ray
from ray import serve

from serving.app import make_app
from serving.http import make_server
from serving.listening import free_port
from serving.options import Options, check_host, parse, parse_text
from serving.ray_replicas import RayReplicas, application, replicas
from serving.replica import make_runtime

NAME = "canny2image"


def build(arguments: dict[str, str]) -> serve.Application:
    """Return the application for serve.yaml, whose field args has the command line's options as text."""
    return application(parse_text(arguments.get("options", "")))


def main(arguments: list[str] | None = None) -> int:
    """Run the command until Ctrl-C or SIGTERM, and return its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # also what was logged before: errors of requests
    with commands.one_line(stopped="the server has ended"):
        options = parse(sys.argv[1:] if arguments is None else arguments)
        check_host(options)
        make_runtime(options).checkpoint.check()  # raises for bad options and files, before Ray starts
        run(replace(options, port=free_port(options.host, options.port)))
    return 0


def run(options: Options) -> None:
    """Serve until a signal. Raise ValueError if the replicas cannot initialize."""
    ray.init("local", include_dashboard=False, logging_level=logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    try:
        listen(options, start(options))
    finally:
        serve.shutdown()
        ray.shutdown()


def start(options: Options) -> RayReplicas:
    """Start the replicas in the Ray that runs, and return them. Raise ValueError if they cannot initialize."""
    serve.start(proxy_location="Disabled")
    deployment, count = replicas(options)
    try:
        return RayReplicas(serve.run(deployment.bind(options), name=NAME, route_prefix=None), NAME, count)
    except RuntimeError as error:
        raise ValueError(f"the replicas cannot start: {str(error).strip().splitlines()[-1]}") from error


def listen(options: Options, replicas: RayReplicas) -> None:
    """Serve HTTP until a signal, and then until the requests that are here have their answers."""
    app = make_app(options, replicas, replicas.count, answer_ids=True)
    threading.Thread(target=announce, args=[options], daemon=True).start()
    make_server(app, options.host, options.port, options.time_limit).run()


def announce(options: Options) -> None:
    """Print the address as soon as a replica can generate pictures."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)
    address = f"http://{f'[{host}]' if ':' in host else host}:{options.port}/readyz"
    while True:
        try:
            with urllib.request.urlopen(address, timeout=30):
                # In one write, or a log line could come before the end of this one.
                print(f"serving on http://{options.host}:{options.port}\n", end="", flush=True)
                return
        except OSError:  # HTTPError too: status 503
            time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
