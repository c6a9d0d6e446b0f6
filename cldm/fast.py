"""The plain model made fast, from outside: its precision, and the tricks that change modules."""

import torch

from cldm.model import ControlLDM
from cldm.tricks.guidance_batch import batch_guidance
from cldm.tricks.packed_qkv import pack_qkv
from cldm.tricks.time_table import move_biases

FLOAT32 = ("time_embed", "emb_layers", "in_layers.2.bias")  # go into the time table, which runs once per plan


def make_fast(model: ControlLDM, dtype: torch.dtype) -> ControlLDM:
    """The model with its weights in `dtype` and all tricks, in place; the keys of its weights stay."""
    for name, parameter in model.named_parameters():
        if not any(part in name for part in FLOAT32):
            parameter.data = parameter.data.to(dtype)
    batch_guidance(model)
    move_biases(model)
    pack_qkv(model)
    return model
