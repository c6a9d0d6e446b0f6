"""python -m benchmarks.loras: how long it takes to replace LoRAs under a captured graph.

Random weights of the real size by default, random LoRAs of rank 16, eager engines unless engine files exist. The first
set_loras() reads the checkpoint into host memory; the times are those of later calls. Every picture is compared with
that of a fresh start.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers import contest_request, settle_architecture
from canny2image_TRT import hackathon
from commands import one_line
from ldm.config import load_architecture
from ldm.weights import save_tensors
from runtime.backends import choose_device
from weights.lora_names import weight_shapes

RANK = 16
KINDS = {"attention": ".attn", "all layers": ""}  # part of the names of the weights that a LoRA changes


def write_lora(path: Path, architecture: str, part: str) -> str:
    """Write a LoRA in PEFT's layout, under LDM's names, for all weights whose name contains `part`."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in weight_shapes(load_architecture(architecture)).items():
        if name.startswith("model.diffusion_model.") and part in name:
            rows, columns, *kernel = shape
            layer = name.removesuffix(".weight").removeprefix("model.diffusion_model.")
            factors = {"lora_A": (RANK, columns, *kernel), "lora_B": (rows, RANK, *(1 for _ in kernel))}
            for factor, size in factors.items():
                tensors[f"unet.{layer}.{factor}.weight"] = 0.02 * torch.randn(size, generator=generator)
    save_tensors({name: tensor.half() for name, tensor in tensors.items()}, path)
    return str(path)


def measure(runtime: hackathon, loras: list[tuple[str, float]], runs: int) -> tuple[float, float]:
    """Return the median seconds of merging the LoRAs and of taking them out."""
    times: list[list[float]] = [[], []]
    for _ in range(runs):
        for choice, seconds in zip((loras, []), times, strict=True):
            start = time.perf_counter()
            runtime.set_loras(choice)
            if runtime.device.type == "cuda":
                torch.cuda.synchronize(runtime.device)
            seconds.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", default="random:0", help="checkpoint; default: random:0")
    add("--architecture", help="NAME of a file models/NAME.yaml; default: sd15, but none on the CPU")
    add("--backend", default="auto", help="default: auto")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--runs", type=int, default=3, help="replacements per LoRA; default: 3")
    options = parser.parse_args(arguments)
    with one_line():
        options.architecture = settle_architecture(options.architecture, choose_device(options.device))
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Print a line for each of KINDS."""
    kinds = {"architecture": options.architecture, "backend": options.backend, "device": options.device}
    runtime = hackathon(options.weights, **kinds)
    runtime.initialize()
    request = contest_request()
    plain = runtime.draw(request)[0]
    runtime.set_loras([])
    print(f"{runtime.settings['backend']}, {runtime.settings['graph']}")
    print("LoRA                 MiB   weights    in, s   out, s   in equals a fresh start, out the original")
    with tempfile.TemporaryDirectory() as folder:
        for kind, part in KINDS.items():
            path = Path(folder) / "lora.safetensors"
            loras = [(write_lora(path, options.architecture, part), 0.8)]
            merged_s, removed_s = measure(runtime, loras, options.runs)
            runtime.set_loras(loras)
            changed, count = runtime.draw(request)[0], len(runtime.checkpoint.patches())
            fresh = hackathon(options.weights, loras=loras, **kinds)
            fresh.initialize()
            same_in = np.array_equal(changed, fresh.draw(request)[0])
            del fresh
            runtime.set_loras([])
            same_out = np.array_equal(plain, runtime.draw(request)[0])
            size = path.stat().st_size / 2**20
            print(f"{kind:16} {size:7.1f} {count:9} {merged_s:8.3f} {removed_s:8.3f}   {same_in}, {same_out}")


if __name__ == "__main__":
    main()
