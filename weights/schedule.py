"""The noise schedule of a checkpoint: computed from the architecture; a file's own is only compared with it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ldm.config import ScheduleConfig
from ldm.diffusion import schedule_buffers
from ldm.weights import CheckpointError

ROUNDING = 2**-7  # relative: twice that of bfloat16
SMALLEST = 1e-6  # absolute: half precision's smallest numbers
UNUSED = ("logvar",)  # a weight of the loss


def schedule(config: ScheduleConfig, given: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the schedule buffers, float32 [steps].

    given: those of a file, some or all. Raises CheckpointError if they differ by more than the rounding of halves.
    """
    computed = schedule_buffers(config)
    for name, tensor in given.items():
        expected = computed[name]
        if name in UNUSED:
            continue
        if tensor.shape != expected.shape:
            raise CheckpointError(
                f"{source}: {name} has {list(tensor.shape)} values, expected {list(expected.shape)}: "
                "give weights that were trained on the noise schedule of Stable Diffusion 1.5"
            )
        difference = (tensor.float() - expected).abs() - ROUNDING * expected.abs() - SMALLEST
        worst = int(difference.nan_to_num(nan=torch.inf).argmax())
        if not difference[worst] <= 0:
            raise CheckpointError(
                f"{source}: {name}[{worst}] is {float(tensor[worst]):.6g}, expected {float(expected[worst]):.6g}: the "
                "weights were trained on another noise schedule and would generate garbage; give weights of Stable "
                "Diffusion 1.5"
            )
    return computed
