"""When our kernels replace PyTorch's: only in code that Inductor makes for a GPU, in float16."""

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode


def compiles_half(x: Tensor) -> bool:
    """Return whether x is float16 on a GPU, and a trace is being made (by make_fx or torch.compile)."""
    tracing = torch.compiler.is_compiling() or get_proxy_mode() is not None
    return tracing and x.is_cuda and x.dtype == torch.float16
