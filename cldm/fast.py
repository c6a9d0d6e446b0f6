"""Optimization of the plain model from outside: its precision, and the tricks that change modules."""

import torch

from cldm.model import ControlLDM
from cldm.tricks.guidance_batch import batch_guidance
from cldm.tricks.packed_qkv import pack_qkv
from cldm.tricks.time_table import move_biases

FLOAT32 = ("time_embed", "emb_layers", "in_layers.2.bias")  # used by the time table only, once per plan


def make_fast(model: ControlLDM, dtype: torch.dtype) -> ControlLDM:
    """Convert the weights except FLOAT32 to `dtype` and apply the tricks, in place. The keys of the weights stay."""
    for name, parameter in model.named_parameters():
        if not any(part in name for part in FLOAT32):
            parameter.data = parameter.data.to(dtype)
    batch_guidance(model)
    move_biases(model)
    pack_qkv(model)
    return model
