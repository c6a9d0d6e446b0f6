"""Converts convolution weights to channels-last, the memory format that convolutions use on GPUs."""

import torch
from torch import nn


@torch.inference_mode(False)
def channels_last(module: nn.Module) -> nn.Module:
    """Convert the module's convolution weights on CUDA devices to channels-last, in place, and return the module.

    On GPUs, Inductor runs convolutions in channels-last; it would convert other weights in every call.
    Convert before capture: a CUDA graph that was captured earlier keeps reading the old memory.
    """
    for parameter in module.parameters():
        if parameter.is_cuda and parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module
