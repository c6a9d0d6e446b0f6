"""Names, shapes and dtypes of the tensors that an engine reads and writes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorSpec:
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool = False  # memory format on a GPU, for convolutions; 4 dimensions only


@dataclass(frozen=True)
class EngineSpec:
    """The signature of one engine: its inputs and outputs, in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def pick(self, buffers: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the input and the output buffers, in order.

        Raise ValueError if a buffer is missing or has the wrong shape or dtype.
        """
        for spec in (*self.inputs, *self.outputs):
            got = buffers.get(spec.name)
            if got is None or tuple(got.shape) != spec.shape or got.dtype != spec.dtype:
                what = "missing" if got is None else f"{got.dtype} {list(got.shape)}"
                raise ValueError(
                    f"engine {self.name}: buffer {spec.name!r} is {what}, expected {spec.dtype} {list(spec.shape)}"
                )
        return [buffers[spec.name] for spec in self.inputs], [buffers[spec.name] for spec in self.outputs]


def allocate(specs: Mapping[str, EngineSpec], device: torch.device) -> dict[str, Tensor]:
    """Return one zeroed buffer per tensor name. Engines that name the same tensor share its buffer.

    Raise ValueError if engines have different specs for one name.
    """
    wanted: dict[str, TensorSpec] = {}
    for engine in specs.values():
        for spec in (*engine.inputs, *engine.outputs):
            if wanted.setdefault(spec.name, spec) != spec:
                raise ValueError(f"engines disagree on {spec.name!r}: {wanted[spec.name]} and {spec}")
    return {name: _zeros(spec, device) for name, spec in wanted.items()}


def _zeros(spec: TensorSpec, device: torch.device) -> Tensor:
    memory_format = torch.channels_last if spec.channels_last and device.type == "cuda" else torch.contiguous_format
    return torch.zeros(spec.shape, dtype=spec.dtype, device=device).contiguous(memory_format=memory_format)
