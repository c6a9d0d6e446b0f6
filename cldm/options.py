"""The command-line options of a runtime, which several commands share."""

import argparse
import os
from argparse import ArgumentTypeError
from typing import Any

from reading import shown


def parse_lora(text: str) -> tuple[str, float]:
    """Split FILE:STRENGTH at its last colon; the strength is 1 if there is none. Raises ArgumentTypeError."""
    file, _, strength = text.rpartition(":")
    try:
        return file or text, float(strength) if file else 1.0
    except ValueError:  # a colon of the path
        if not os.path.exists(text) and os.path.exists(file):
            raise ArgumentTypeError(f"got the strength {shown(strength)}, expected a number such as 0.8") from None
        return text, 1.0


FLAGS = {"weights": ("--weights", "--checkpoint"), "loras": ("--lora",), "embeddings": ("--embedding",)}
# Arguments of `hackathon` (weights: its checkpoint) -> arguments of add_argument.
OPTIONS: dict[str, dict[str, Any]] = {
    "weights": {"help": "BASE, BASE:CONTROL (files or folders) or random:SEED; default: see README"},
    "vae": {"help": "file or folder with another VAE"},
    "loras": {"type": parse_lora, "action": "append", "default": [], "metavar": "FILE[:STRENGTH]",
        "help": "merge this LoRA; repeat"},
    "embeddings": {"action": "append", "default": [], "metavar": "FILE", "help": "textual-inversion embedding; repeat"},
    "architecture": {"help": "name of a file in models/*.yaml; default: the one for the weights"},
    "backend": {"default": "auto", "help": "auto (the fastest with engine files), eager, inductor or tensorrt"},
    "plan": {"default": "ten",
        "help": "ten, all, step indices, a plan file or its name, or auto (best on this machine)"},
    "max_pd": {"type": float, "help": "with --plan auto: use the fastest plan file whose mean PD is at most this"},
    "precision": {"default": "auto", "help": "auto (fp16 on a GPU), fp32, fp16, or fp8 (for H100 and H200)"},
    "device": {"default": "auto", "help": "auto (a GPU if there is one), cpu, cuda or cuda:N"},
    "strict": {"action": "store_true", "help": "fail instead of warning and falling back"},
    "prompt_syntax": {"default": "plain", "help": "plain or webui"},
    "prompt_chunks": {"type": int, "default": 1, "help": "with webui: chunks of 75 tokens per prompt, 1 to 8"},
}  # fmt: skip


def add_options(parser: "argparse.ArgumentParser | argparse._ArgumentGroup", *names: str) -> None:
    """Add the options of these names; all of OPTIONS without names."""
    for name in names or OPTIONS:
        flags = FLAGS.get(name, (f"--{name.replace('_', '-')}",))
        parser.add_argument(*flags, dest=name, **OPTIONS[name])


def runtime_arguments(options: object) -> dict[str, Any]:
    """Return the keyword arguments of `hackathon` for those of OPTIONS that the command has."""
    given = {name: value for name, value in vars(options).items() if name in OPTIONS}
    return {"checkpoint": given.pop("weights"), **given}
