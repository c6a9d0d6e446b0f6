"""Converts the plain model to its precision, and applies the tricks that change its modules."""

import torch

from cldm.model import ControlLDM
from cldm.tricks.guidance_batch import batch_guidance
from cldm.tricks.packed_qkv import pack_qkv
from cldm.tricks.time_table import move_biases

# Parts of the names of parameters that only the time table uses, not the steps.
FLOAT32 = ("time_embed", "emb_layers", "in_layers.2.bias")


def make_fast(model: ControlLDM, dtype: torch.dtype, fp8: bool = False) -> ControlLDM:
    """Convert the weights, except those named in FLOAT32, to `dtype`, and apply the tricks; return the same model.

    fp8: also round residual blocks (see cldm/tricks/fp8.py). Works in place; the keys of the weights do not change.
    """
    for name, parameter in model.named_parameters():
        if not any(part in name for part in FLOAT32):
            parameter.data = parameter.data.to(dtype)
    batch_guidance(model)
    move_biases(model)
    pack_qkv(model)
    if fp8:
        from cldm.tricks.fp8 import round_blocks  # imported here, because other precisions do not need it

        round_blocks(model)
    return model
