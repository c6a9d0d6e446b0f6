"""Feature maps for tests of GroupNorm, and PyTorch's results for them."""

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5
FORMATS = [torch.channels_last, torch.contiguous_format]
# n, c, h, w, groups: sizes that are not powers of two, groups that share a load, one pixel, a group wider than a block,
# many pixels, more in whole lines, and several groups in each load
ODD = [
    (2, 320, 5, 7, 32),
    (1, 60, 9, 11, 6),
    (3, 33, 3, 5, 3),
    (1, 64, 1, 1, 8),
    (1, 8192, 3, 3, 1),
    (1, 8, 700, 300, 2),
    (1, 64, 301, 299, 1),
    (2, 192, 150, 151, 6),
    (2, 32, 32, 48, 16),
    (3, 64, 5, 7, 16),
    (1, 16, 1, 3, 16),
]
# n, c of h, c of skip, h, w, groups: the decoder's sizes, a border inside a group, loads of two values, one pixel, a
# group wider than a warp, several groups in each load, eight pictures
JOINED = [
    (2, 1280, 1280, 4, 6, 32),
    (2, 1280, 640, 8, 12, 32),
    (2, 640, 640, 16, 24, 32),
    (2, 640, 320, 32, 48, 32),
    (3, 64, 32, 5, 7, 16),
    (1, 6, 10, 9, 11, 4),
    (1, 8, 24, 1, 1, 2),
    (2, 100, 92, 30, 20, 3),
    (1, 2048, 1024, 3, 3, 1),
    (2, 32, 32, 32, 48, 16),
    (16, 320, 320, 32, 48, 32),
    (16, 1280, 640, 16, 24, 32),
]
SHIFTED = [(2, 320, 32, 48, 32), (2, 1280, 4, 6, 32), (1, 640, 16, 24, 32), (3, 96, 5, 7, 16), (1, 8, 300, 200, 2)]


def tensors(n: int, c: int, h: int, w: int, memory: torch.memory_format, mean: float = 0.0) -> list[Tensor]:
    """Return x, weight and bias, float16 on the CPU."""
    generator = torch.Generator().manual_seed(n + c + h + w)
    x = (mean + torch.randn(n, c, h, w, generator=generator)).half().contiguous(memory_format=memory)
    weight, bias = (torch.randn(c, generator=generator).half() for _ in range(2))
    return [x, weight + 1, bias]


def parts(n: int, c: int, d: int, h: int, w: int) -> list[Tensor]:
    """Return h, skip, residual, weight and bias, float16 on the CPU. The maps have zeros of both signs."""
    first, weight, bias = tensors(n, c, h, w, torch.channels_last)
    added = [tensors(n + i, d, h, w, torch.channels_last)[0][i:] for i in range(2)]
    first[:, ::2, 0] = -0.0
    added[0][:, 1::2, 0], added[1][:, ::3, 0] = -0.0, -0.0
    return [first, *added, torch.cat([weight, added[0][0, :, 0, 0]]), torch.cat([bias, added[1][0, :, 0, 0]])]


def torchs(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool, shift: Tensor | None = None
) -> Tensor:
    y = F.group_norm(x if shift is None else x + shift[..., None, None], groups, weight, bias, eps)
    return F.silu(y) if silu else y


def error(got: Tensor, true: Tensor) -> float:
    assert got.shape == true.shape
    return float((got.double() - true).norm() / true.norm())
