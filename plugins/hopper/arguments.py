"""Checks the tensors that our kernels for Hopper GPUs get."""

from collections.abc import Iterable

import torch
from torch import Tensor

Expected = tuple[str, Tensor | None, tuple[int, ...]]  # name, tensor if there is one, and the shape that it must have


def check_tensors(op: str, tensors: Iterable[Expected], device: torch.device, dtype: torch.dtype) -> None:
    """Raise ValueError for tensors that a kernel does not support. Four-dimensional ones must be channels-last."""
    for name, tensor, shape in tensors:
        if tensor is None:
            continue
        last = len(shape) == 4
        dense = tensor.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        if tensor.dtype != dtype or tensor.shape != shape or tensor.device != device or not dense:
            layout = "channels-last" if last else "contiguous"
            raise ValueError(
                f"{op} got {name} as {tensor.dtype} {list(tensor.shape)} on {tensor.device} with strides "
                f"{list(tensor.stride())}, expected {layout} {dtype} {list(shape)} on {device}: convert it"
            )
        if tensor.data_ptr() % 16:
            raise ValueError(
                f"{op} got {name} at an address that is not a multiple of 16 bytes, expected an aligned tensor: "
                "call .clone() first"
            )
