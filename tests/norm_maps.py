"""Feature maps for tests of GroupNorm, and PyTorch's results for them."""

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5
FORMATS = [torch.channels_last, torch.contiguous_format]
# n, c, h, w, groups: sizes that are not powers of two, groups that share a load, one pixel, a group wider than a block,
# many pixels
ODD = [
    (2, 320, 5, 7, 32),
    (1, 60, 9, 11, 6),
    (3, 33, 3, 5, 3),
    (1, 64, 1, 1, 8),
    (1, 8192, 3, 3, 1),
    (1, 8, 700, 300, 2),
]
SHIFTED = [(2, 320, 32, 48, 32), (2, 1280, 4, 6, 32), (1, 640, 16, 24, 32), (3, 96, 5, 7, 16), (1, 8, 300, 200, 2)]


def tensors(n: int, c: int, h: int, w: int, memory: torch.memory_format, mean: float = 0.0) -> list[Tensor]:
    """Return x, weight and bias, float16 on the CPU."""
    generator = torch.Generator().manual_seed(n + c + h + w)
    x = (mean + torch.randn(n, c, h, w, generator=generator)).half().contiguous(memory_format=memory)
    weight, bias = (torch.randn(c, generator=generator).half() for _ in range(2))
    return [x, weight + 1, bias]


def torchs(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool, shift: Tensor | None = None
) -> Tensor:
    y = F.group_norm(x if shift is None else x + shift[..., None, None], groups, weight, bias, eps)
    return F.silu(y) if silu else y


def error(got: Tensor, true: Tensor) -> float:
    assert got.shape == true.shape
    return float((got.double() - true).norm() / true.norm())
