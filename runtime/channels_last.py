"""Convolution weights in the memory format that convolutions work on."""

import torch
from torch import nn


@torch.inference_mode(False)
def channels_last(module: nn.Module) -> nn.Module:
    """The module with its convolution weights on CUDA devices in channels-last format, in place.

    Inductor runs convolutions in that format there, and would convert other weights in every call. What was recorded
    into a CUDA graph with the weights as they were does not follow: convert before recording.
    """
    for parameter in module.parameters():
        if parameter.is_cuda and parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module
