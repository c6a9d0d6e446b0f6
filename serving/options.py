"""The options of the server, from a command line or, on a cluster, from serve.yaml."""

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from serving.shelf import check_folders
from weights.loras import parse_lora

KEY = "CANNY2IMAGE_API_KEY"  # environment variable
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MIB = 2**20


@dataclass(frozen=True)
class Options:
    """What the parser below describes. Sizes are in bytes, pixels and seconds."""

    weights: str | None
    vae: str | None
    lora: list[tuple[str, float]]
    embedding: list[str]
    architecture: str | None
    backend: str
    plan: str
    precision: str
    device: str
    prompt_syntax: str
    prompt_chunks: int
    checkpoint_folder: Path | None
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
    _add_runtime(parser)
    _add_server(parser)
    options = Options(**vars(parser.parse_args(arguments)))
    for name in ("batch", "queue", "time_limit", "most_bytes", "most_samples", "most_pixels"):
        if not getattr(options, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')}: got {getattr(options, name)}, expected more than 0")
    if options.replicas is not None and options.replicas < 1:
        raise ValueError(f"--replicas: got {options.replicas}, expected at least 1")
    check_folders([options.checkpoint_folder, options.lora_folder])
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


def _add_runtime(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("pictures").add_argument
    add("--weights", "--checkpoint", help="BASE, BASE:CONTROL (files or folders) or random:SEED; default: see README")
    add("--vae", help="file or folder with another VAE")
    add("--lora", type=parse_lora, action="append", default=[], metavar="FILE[:STRENGTH]",
        help="merge this LoRA; repeat")  # fmt: skip
    add("--embedding", action="append", default=[], metavar="FILE", help="textual-inversion embedding; repeat")
    add("--architecture", help="name of a file in models/*.yaml; default: the one for the weights")
    add("--backend", default="auto", help="auto (the fastest with engine files), eager, inductor or tensorrt")
    add("--plan", default="ten", help="ten, all, step indices, a plan file or its name, or auto (best on this machine)")
    add("--precision", default="auto", help="auto (fp16 on a GPU), fp32 or fp16")
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:N")
    add("--prompt-syntax", default="plain", help="plain or webui")
    add("--prompt-chunks", type=int, default=1, help="with webui: chunks of 75 tokens per prompt, 1 to 8")


def _add_server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("server").add_argument
    add("--checkpoint-folder", type=Path, help="folder of .safetensors files that clients may choose as weights")
    add("--lora-folder", type=Path, help="folder of .safetensors files that clients may choose as LoRAs")
    add("--replicas", type=int, help="copies of the model; they share the GPUs; default: one per GPU, else one")
    add("--batch", type=int, default=4, help="most pictures generated together; default: 4")
    add("--queue", type=int, default=64, help="most requests at a time; further ones get status 503; default: 64")
    add("--time-limit", type=float, default=120, help="seconds for one request; default: 120")
    add("--most-bytes", type=int, default=32 * MIB, help="size of a request's body; default: 32 MiB")
    add("--most-samples", type=int, default=8, help="pictures of one request; default: 8")
    add("--most-pixels", type=int, default=4 * MIB, help="pixels of a request's pictures together; default: 2**22")
    add("--host", default=LOOPBACK[0], help=f"address to listen on; one of other machines needs the variable {KEY}")
    add("--port", type=int, default=8000, help="port to listen on; default: 8000")
