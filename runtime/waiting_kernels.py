"""Lets the kernels that Inductor generates begin with the wait that programmatic edges need: see `early_launch.py`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from runtime.early_launch import OLDEST

NAMES = ("triton_poi_", "triton_red_", "triton_per_")  # pointwise kernels and reductions; templates do not wait


@contextmanager
def waiting_kernels() -> Iterator[None]:
    """Let kernels that are compiled in this block wait, if the current GPU has programmatic edges."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < OLDEST:
        yield
        return
    from torch._inductor.codegen.triton import TritonKernel
    from torch._inductor.utils import IndentedBuffer

    finish = TritonKernel._filter_pdl  # Inductor's last step for the body of a kernel

    def begin_with_wait(kernel: TritonKernel, body: IndentedBuffer) -> None:
        finish(kernel, body)
        body._lines.insert(0, kernel.GDC_WAIT)

    TritonKernel._filter_pdl = begin_with_wait
    try:
        yield
    finally:
        TritonKernel._filter_pdl = finish
