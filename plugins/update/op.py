"""The update of the latent after an evaluation: guidance, and the weighted sum of latent, noise and eps.

With PyTorch's kernels it took 20 us on an H200, in which nothing else can run; as one kernel it takes 6.
"""

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plugins.nvrtc import KernelError, call, cubin

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernel.cu")
THREADS = 256


def update(x: Tensor, noise: Tensor, eps: Tensor, scale: Tensor, weights: Tensor, guides: Tensor) -> None:
    """Do the same as `plain_update`, on a GPU with one kernel, which the first call compiles."""
    if not (x.is_cuda and load_kernel(x.device)):
        return plain_update(x, noise, eps, scale, weights, guides)
    from cuda.bindings import driver

    samples, values = len(x), x[0].numel()
    tensors = [one.data_ptr() for one in (x, noise, eps, scale, weights, guides[-1])]
    arguments = (*tensors, values, _taps(weights, guides)), (*[ctypes.c_void_p] * 6, ctypes.c_int, ctypes.c_int)
    grid = -(-values // THREADS), samples, 1
    stream = torch.cuda.current_stream(x.device).cuda_stream
    call(driver.cuLaunchKernel, load_kernel(x.device), *grid, THREADS, 1, 1, 0, stream, arguments, 0)


def plain_update(x: Tensor, noise: Tensor, eps: Tensor, scale: Tensor, weights: Tensor, guides: Tensor) -> None:
    """Write eps after guidance into the last of `guides`, and the next latent into x.

    x, noise [n, c, h, w]; eps [2n, c, h, w], with the prompt, then without; scale [n], of the guidance; guides
    [evaluations so far, n, c, h, w]; weights [2 + taps, n], on x, noise and guides, newest first; weights without a
    guide are ignored. All are float32 and contiguous.
    """
    with_prompt, without = eps.chunk(2)
    guides[-1] = without + scale[:, None, None, None] * (with_prompt - without)
    taps = _taps(weights, guides)
    terms = torch.cat([x[None], noise[None], guides[len(guides) - taps :].flip(0)])
    torch.sum(weights[: 2 + taps, :, None, None, None] * terms, dim=0, out=x)


def _taps(weights: Tensor, guides: Tensor) -> int:
    return min(len(weights) - 2, len(guides))


@cache
def load_kernel(device: torch.device) -> Any:
    """Load the kernel on a GPU, permanently, compiled unless engine files hold it; without a compiler, return None."""
    major, minor = torch.cuda.get_device_capability(device)
    try:
        code = cubin(SOURCE, (), 10 * major + minor)
        from cuda.bindings import driver

        with torch.cuda.device(device):
            return call(driver.cuModuleGetFunction, call(driver.cuModuleLoadData, code), b"canny2image_update")
    except KernelError as error:
        log.warning("the latent's update uses PyTorch, which is slower: %s", error)
        return None
