"""The layers of a model that is compiled for a GPU: where our kernels are faster, they run on those."""

from torch import nn

from plugins.convolution import cut_convolutions
from plugins.group_norm.layer import fuse_norms


def use_kernels(model: nn.Module) -> None:
    """For a model on a CUDA device, before it is compiled. Weights and names stay, and results, but for rounding."""
    cut_convolutions(model)
    fuse_norms(model)
