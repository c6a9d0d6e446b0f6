"""Allocates scratch memory for engines that never run at the same time and can share it."""

from collections.abc import Iterable, Sequence

import torch

from runtime.engine import Engine

ALIGNMENT = 256  # bytes


def allocate_scratch(groups: Iterable[Sequence[Engine]], device: torch.device) -> None:
    """Allocate one scratch buffer per group. The engines of a group share it and must never run at the same time."""
    for group in groups:
        size = max([ALIGNMENT, *(engine.scratch_bytes for engine in group)])
        memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8, device=device)
        start = -memory.data_ptr() % ALIGNMENT
        for engine in group:
            engine.use_scratch(memory[start : start + size])
