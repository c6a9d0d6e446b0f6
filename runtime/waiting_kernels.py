"""Lets the kernels that Inductor generates begin with the wait that programmatic edges need: see `early_launch.py`.

Inductor can generate waits itself (`triton.enable_pdl`), but also lets the next kernel start early, which makes chains
of our kernels slower, and omits the wait where a kernel does not depend on the one before it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from runtime.early_launch import OLDEST

NAMES = ("triton_poi_", "triton_red_", "triton_per_")  # pointwise kernels and reductions; templates do not wait


@contextmanager
def waiting_kernels() -> Iterator[None]:
    """Let kernels that Inductor generates in this block wait, if the current GPU has programmatic edges."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < OLDEST:
        yield
        return
    from unittest.mock import patch

    from torch._inductor.codegen.triton import TritonKernel
    from torch._inductor.utils import IndentedBuffer

    finish = TritonKernel._filter_pdl  # the last step in the generation of a kernel's body

    def begin_with_wait(kernel: TritonKernel, code: IndentedBuffer) -> None:
        finish(kernel, code)
        code._lines.insert(0, kernel.GDC_WAIT)

    tagged: Any = torch.compiler.config
    with patch.object(TritonKernel, "_filter_pdl", begin_with_wait), tagged.patch(cache_key_tag="waiting kernels"):
        yield  # the tag, because Inductor's cache may hold the same kernels without waits
