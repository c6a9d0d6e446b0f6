"""When our kernels replace PyTorch's: only in code that torch.compile makes for a GPU, in float16."""

import torch
from torch import Tensor


def compiles_half(x: Tensor) -> bool:
    """Return whether torch.compile is compiling code for a GPU, and x is float16."""
    return torch.compiler.is_compiling() and x.is_cuda and x.dtype == torch.float16
