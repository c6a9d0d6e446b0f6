"""python -m benchmarks.group_norm: times GroupNorm with SiLU on a GPU, with our kernel and with PyTorch.

The inputs are channels-last float16 maps with the shapes of Stable Diffusion 1.5 at 256x384 with guidance, of one
picture and of eight, and of its VAE. Times are per call: medians over replays of a CUDA graph of 40 calls, divided by
40. GB/s counts each map as read once and written once. The bandwidth of the GPU's memory bounds GB/s only for maps that
do not fit in the cache.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from commands import one_line
from plugins.group_norm.op import group_norm

GROUPS = 32
# n, c, h, w, groups
SHAPES = [
    *((2, c, 4, 6, GROUPS) for c in (1280, 2560)),
    *((2, c, 8, 12, GROUPS) for c in (640, 1280, 1920, 2560)),
    *((2, c, 16, 24, GROUPS) for c in (320, 640, 960, 1280, 1920)),
    *((2, c, 32, 48, GROUPS) for c in (320, 640, 960)),
    *((16, c, h, w, GROUPS) for c, h, w in ((1280, 8, 12), (640, 16, 24), (320, 32, 48))),
    (1, 512, 32, 48, GROUPS),
    (1, 512, 64, 96, GROUPS),
    *((1, c, 128, 192, GROUPS) for c in (512, 256)),
    *((1, c, 256, 384, GROUPS) for c in (256, 128)),
]
CALLS = 40  # per graph
ROTATING = 256 * 2**20  # bytes of inputs to alternate between: several times an H200's cache of 50 MiB
EPS = 1e-5

Norm = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return group_norm(x, weight, bias, GROUPS, EPS, True)


def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, GROUPS, weight, bias, EPS))


def measure(calls: Sequence[Callable[[], object]], replays: int) -> float:
    """Return microseconds per call: the median over replays of a graph of CALLS calls, alternating between `calls`."""
    calls[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in range(CALLS):
            calls[call % len(calls)]()
    times = []
    for _ in range(replays + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(1000 * start.elapsed_time(end) / CALLS)
    return statistics.median(times[1:])


def rotating_inputs(n: int, c: int, h: int, w: int) -> list[Tensor]:
    """Return different maps to alternate between: CALLS maps, or fewer if these reach ROTATING bytes.

    Large maps together exceed the cache. Small maps stay in the cache, as they do within a picture.
    """
    count = min(CALLS, -(-ROTATING // (2 * n * c * h * w)))
    maps = torch.randn(count * n, c, h, w, device="cuda", dtype=torch.float16)
    return list(maps.contiguous(memory_format=torch.channels_last).split(n))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=21, help="number of graph replays for the median (default 21)")
    replays = parser.parse_args().replays
    if not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device, which the kernel needs: run this on a machine with a GPU")
    with one_line():
        print(torch.cuda.get_device_name(), *rows(replays), sep="\n")


def rows(replays: int) -> list[str]:
    """Return the lines of the table."""
    compiled: Norm = torch.compile(eager, dynamic=False)
    torch._dynamo.config.recompile_limit = 2 * len(SHAPES)
    lines = ["| n, pixels, channels | ours us | GB/s | eager us | GB/s | compiled us | GB/s |", "|---" * 7 + "|"]
    for n, c, h, w, _ in tqdm(SHAPES, desc="measuring"):
        inputs = rotating_inputs(n, c, h, w)
        weight, bias = (torch.randn(c, device="cuda", dtype=torch.float16) for _ in range(2))
        times = [measure([partial(norm, x, weight, bias) for x in inputs], replays) for norm in (ours, eager, compiled)]
        cells = (f"{time:.1f} | {4e-3 * n * c * h * w / time:.0f}" for time in times)
        lines.append(f"| {n}, {h * w}, {c} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
