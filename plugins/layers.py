"""The layers of a model that is compiled for a GPU: where our kernels are faster, they run on those."""

from torch import nn

from plugins.group_norm.layer import fuse_norms
from plugins.split_k_convolution import split_convolutions


def use_kernels(model: nn.Module) -> None:
    """For a model on a CUDA device, before it is compiled. Weights and names stay, and results, but for rounding."""
    split_convolutions(model)
    fuse_norms(model)
