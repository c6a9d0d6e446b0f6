"""A stage as it is compiled, which needs no weights: the code depends only on shapes, types and layouts."""

import torch

from cldm.engine_files import Target
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.stages import Stage, make_stages
from ldm.config import load_architecture
from ldm.shapes_only import shapes_only
from plugins.layers import use_kernels
from runtime.backends import PRECISIONS


def empty_stage(target: Target, name: str, device: torch.device) -> Stage:
    """Return a stage whose weights are 0, in the form that is compiled."""
    with shapes_only():
        model = ControlLDM(load_architecture(target.architecture)).eval().requires_grad_(False)
        precision = PRECISIONS[target.precision]
        stage = make_stages(make_fast(model, precision.dtype, precision.fp8), *target.size)[name]
    stage.module.to_empty(device=device)
    for tensor in (*stage.module.parameters(), *stage.module.buffers()):
        tensor.zero_()
    if device.type == "cuda":
        use_kernels(stage.module)
    return stage
