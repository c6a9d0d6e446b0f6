"""Conversion of convolution weights to channels-last, the memory format that convolutions use on GPUs."""

import torch
from torch import nn


@torch.inference_mode(False)
def channels_last(module: nn.Module) -> nn.Module:
    """Convert the module's convolution weights on CUDA devices to channels-last, in place, and return the module.

    Inductor runs convolutions in that format on GPUs, and would otherwise convert the weights in every call.
    A CUDA graph captured earlier keeps using the old memory: convert before capture.
    """
    for parameter in module.parameters():
        if parameter.is_cuda and parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module
