"""Switches the layers of a model that is compiled for a GPU to our kernels and forms where those are faster."""

from torch import nn

from plugins.convolution.layer import fuse_convolutions
from plugins.folded_norms import fold_norms
from plugins.folded_text import fold_text
from plugins.fp8 import fuse_rounded
from plugins.group_norm.layer import fuse_norms
from plugins.phase_upsampling import upsample_in_phases
from plugins.product.compile import runs_on
from plugins.short_attention import op as short
from plugins.split_k_convolution import split_convolutions
from plugins.transformer import fuse_attention, fuse_products
from plugins.zero_convolutions.layer import fuse_zero_convolutions


def use_kernels(model: nn.Module) -> None:
    """Switch a model on a CUDA device to our kernels and forms, in place, before it is compiled.

    Weights and names stay the same; results differ only by rounding.
    """
    split_convolutions(model)
    upsample_in_phases(model)
    fuse_convolutions(model)  # those that were split, and the phases
    fuse_zero_convolutions(model)
    fuse_norms(model)
    fuse_rounded(model)  # with precision fp8
    fuse_attention(model)
    fuse_products(model)
    if runs_on(device := next(model.parameters()).device):
        fold_norms(model)
        if short.runs_on(device):
            fold_text(model, short.attention)
