"""The command line of benchmarks of our kernels for Hopper GPUs, for one to eight pictures."""

import argparse
from collections.abc import Callable, Sequence

import torch

from commands import one_line
from plugins.hopper.compile import HOPPER

PICTURES = (1, 2, 4, 8)


def main(description: str | None, rows: Callable[[Sequence[int], int], list[str]]) -> None:
    """Print the lines that `rows` returns for numbers of pictures and of graph replays."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=PICTURES, help="default: 1 2 4 8")
    parser.add_argument("--replays", type=int, default=21, help="number of graph replays for the median (default 21)")
    options = parser.parse_args()
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != HOPPER:
        parser.error("PyTorch finds no Hopper GPU, which the kernels need: run this on a machine with an H100 or H200")
    with one_line():
        print(torch.cuda.get_device_name(), *rows(options.pictures, options.replays), sep="\n")
