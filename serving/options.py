"""The options of the server, from a command line or, on a cluster, from serve.yaml."""

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cldm.options import OPTIONS, add_options
from serving.listening import KEY, LOOPBACK
from serving.shelf import check_folders

MIB = 2**20
# Not strict (a server falls back and logs it) and not max_pd (plan auto takes the best score).
RUNTIME = [name for name in OPTIONS if name not in ("max_pd", "strict")]


@dataclass(frozen=True)
class Options:
    """What the parser below describes. Sizes are in bytes, pixels and seconds."""

    weights: str | None
    vae: str | None
    loras: list[tuple[str, float]]
    embeddings: list[str]
    architecture: str | None
    backend: str
    plan: str
    precision: str
    device: str
    prompt_syntax: str
    prompt_chunks: int
    weights_folder: Path | None
    lora_folder: Path | None
    replicas: int | None
    batch: int
    queue: int
    time_limit: float
    most_bytes: int
    most_samples: int
    most_pixels: int
    host: str
    port: int


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (--help lists the options)")


def parse(arguments: Sequence[str]) -> Options:
    """Return the options. Raise ValueError for bad ones."""
    parser = _Parser(prog="python -m serving.server", description="Serves pictures over HTTP with Ray Serve.")
    add_options(parser.add_argument_group("pictures"), *RUNTIME)
    _add_server(parser)
    options = Options(**vars(parser.parse_args(arguments)))
    for name in ("batch", "queue", "time_limit", "most_bytes", "most_samples", "most_pixels"):
        if not getattr(options, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')}: got {getattr(options, name)}, expected more than 0")
    if options.replicas is not None and options.replicas < 1:
        raise ValueError(f"--replicas: got {options.replicas}, expected at least 1")
    check_folders([options.weights_folder, options.lora_folder])
    return options


def parse_text(text: str) -> Options:
    """Return the options in one line of text, as a shell would split it. Raise ValueError for bad ones."""
    return parse(shlex.split(text))


def check_host(options: Options) -> None:
    """Raise ValueError if the server would listen to other machines without a key."""
    if options.host not in LOOPBACK and not os.environ.get(KEY):
        raise ValueError(
            f"--host: got {options.host}, expected 127.0.0.1 without an API key: set the environment variable {KEY} "
            "to let other machines in"
        )


def _add_server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("server").add_argument
    add("--weights-folder", type=Path, help="folder of .safetensors files that clients may choose as weights")
    add("--lora-folder", type=Path, help="folder of .safetensors files that clients may choose as LoRAs")
    add("--replicas", type=int, help="copies of the model; they share the GPUs; default: one per GPU, else one")
    add("--batch", type=int, default=4, help="most pictures generated together; default: 4")
    add(
        "--queue",
        type=int,
        default=64,
        help="most requests at a time, also those still being sent; further ones get status 503; default: 64",
    )
    add("--time-limit", type=float, default=120, help="seconds for one request, with sending it; default: 120")
    add("--most-bytes", type=int, default=32 * MIB, help="size of a request's body; default: 32 MiB")
    add("--most-samples", type=int, default=8, help="pictures of one request; default: 8")
    add("--most-pixels", type=int, default=4 * MIB, help="pixels of a request's pictures together; default: 2**22")
    add("--host", default=LOOPBACK[0], help=f"address to listen on; one of other machines needs the variable {KEY}")
    add("--port", type=int, default=8000, help="port to listen on, or 0 for any free one; default: 8000")
