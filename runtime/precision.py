"""Runs float32 operations at full precision: without TF32 on a GPU, and without TF32 or bfloat16 on the CPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from runtime.shared_context import SharedContext

cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
# The settings of PyTorch's new interface, each with the one that it follows if both are equal.
PRECISIONS: tuple[tuple[Any, Any], ...] = (
    (torch.backends.cuda.matmul, torch.backends),
    *((getattr(cudnn, operation), cudnn) for operation in ("conv", "rnn")),
    *((getattr(mkldnn, operation), mkldnn) for operation in ("matmul", "conv", "rnn")),
)


@contextmanager
def _full_float32() -> Iterator[None]:
    # The old interface raises RuntimeError while the new one holds other values, so both are saved and set.
    matmul, tf32 = _known(torch.get_float32_matmul_precision), _known(lambda: cudnn.allow_tf32)
    before = [(setting, setting.fp32_precision, parent.fp32_precision) for setting, parent in PRECISIONS]
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
    for setting, _ in PRECISIONS:
        setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul or "highest")
        cudnn.allow_tf32 = True if tf32 is None else tf32
        for setting, value, parent in before:
            setting.fp32_precision = "none" if value == parent else value


def _known(read: Callable[[], Any]) -> Any:
    """Return a setting of the old interface, or None if it contradicts the new one."""
    try:
        return read()
    except RuntimeError:
        return None


# By default cuDNN uses TF32, which has a mantissa of 10 bits, in float32 convolutions.
full_float32 = SharedContext(_full_float32)
