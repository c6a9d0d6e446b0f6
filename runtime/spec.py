"""What an engine reads and writes: names, shapes, dtypes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorSpec:
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool = False  # in memory on a GPU, where convolutions work on that; 4 dimensions only


@dataclass(frozen=True)
class EngineSpec:
    """The signature of one engine, in the order of its arguments and results."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def pick(self, buffers: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The input and the output buffers, in order. Raises ValueError for a missing or unfit one."""
        for spec in (*self.inputs, *self.outputs):
            got = buffers.get(spec.name)
            if got is None or tuple(got.shape) != spec.shape or got.dtype != spec.dtype:
                what = "nothing" if got is None else f"{got.dtype} {list(got.shape)}"
                raise ValueError(
                    f"engine {self.name}: buffer {spec.name!r} is {what}, expected {spec.dtype} {list(spec.shape)}"
                )
        return [buffers[spec.name] for spec in self.inputs], [buffers[spec.name] for spec in self.outputs]


def allocate(specs: Mapping[str, EngineSpec], device: torch.device) -> dict[str, Tensor]:
    """One zeroed buffer per tensor name; engines that name the same tensor share it and must agree on it."""
    wanted: dict[str, TensorSpec] = {}
    for engine in specs.values():
        for spec in (*engine.inputs, *engine.outputs):
            if wanted.setdefault(spec.name, spec) != spec:
                raise ValueError(f"engines disagree on {spec.name!r}: {wanted[spec.name]} and {spec}")
    return {name: _zeros(spec, device) for name, spec in wanted.items()}


def _zeros(spec: TensorSpec, device: torch.device) -> Tensor:
    memory_format = torch.channels_last if spec.channels_last and device.type == "cuda" else torch.contiguous_format
    return torch.zeros(spec.shape, dtype=spec.dtype, device=device).contiguous(memory_format=memory_format)
