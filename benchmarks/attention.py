"""python -m benchmarks.attention: times the attention of the UNet's transformers on a Hopper GPU.

Ours is the kernel that the engines choose; beside it are our other kernel, where it supports the size, and PyTorch's
attention, which is cuDNN's. Sizes are those of Stable Diffusion 1.5 at 256x384 with guidance, for one to eight
pictures. Times are per call: medians over replays of a CUDA graph of 40 calls, divided by 40. The calls alternate
between inputs.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.group_norm import measure
from benchmarks.hopper_table import main
from ldm.attention import attend
from plugins.long_attention.op import is_faster, long_attention
from plugins.long_attention.tiles import HEADS as WIDTHS
from plugins.ops import Op
from plugins.short_attention.compile import MOST_TOKENS
from plugins.short_attention.op import attention

TEXT, HEADS = 77, 8
LEVELS = ((1536, 320), (384, 640), (96, 1280), (24, 1280))  # tokens of a map, and the transformer's width
INPUTS = 6  # to alternate between


def rows(pictures: Sequence[int], replays: int) -> list[str]:
    """Return the lines of the table."""
    lines = [
        "| maps, queries, keys, width of a head | chosen | us | our other kernel us | PyTorch us |",
        "|---" * 5 + "|",
    ]
    for count in tqdm(pictures, desc="measuring"):
        for queries, width in LEVELS:
            for keys in (queries, TEXT):
                inputs = [arguments(2 * count, queries, keys, width, "cuda") for _ in range(INPUTS)]
                chosen, other = kernels(*inputs[0][:2])
                times = [
                    "" if one is None else f"{measure([partial(one, *each, HEADS) for each in inputs], replays):.1f}"
                    for one in (chosen, other, attend)
                ]
                size = f"{2 * count}, {queries}, {keys}, {width // HEADS}"
                lines.append(f"| {size} | {chosen.function.__name__} | {' | '.join(times)} |")
    return lines


def kernels(q: Tensor, k: Tensor) -> tuple[Op, Op | None]:
    """Return the kernel that engines choose, and our other kernel if it supports the size."""
    long = long_attention if q.shape[2] // HEADS in WIDTHS else None
    short = attention if k.shape[1] <= MOST_TOKENS else None
    chosen, other = (long, short) if is_faster(q, k, HEADS) or not short else (short, long)
    assert chosen, "each size has a kernel"
    return chosen, other


def arguments(n: int, queries: int, keys: int, width: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v, of one product if there are as many queries as keys."""
    if queries == keys:
        q, k, v = torch.randn(n, queries, 3 * width, device=device).half().chunk(3, dim=-1)
        return q, k, v
    q, k, v = (torch.randn(n, rows, width, device=device).half() for rows in (queries, keys, keys))
    return q, k, v


if __name__ == "__main__":
    main(__doc__, rows)
