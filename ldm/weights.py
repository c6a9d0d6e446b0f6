"""Assigns tensors to a model strictly, checks them, saves them, and generates random weights from a seed."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from files import write_whole


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or does not fit; the message states what is wrong and what to do."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a `.safetensors` file atomically. Raises OSError, with the path and what to do, if it cannot be written."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, safetensors.torch.save(contiguous))  # save_file's errors are no OSError


def load_strict(
    module: nn.Module, tensors: Mapping[str, Tensor], source: str, device: torch.device | None = None
) -> None:
    """Load `tensors` into `module`, with floats as float32. Raises CheckpointError if a name or shape differs.

    device: where copies of the tensors are made, since those of a file change with the file; None assigns the tensors
        themselves, without reading or converting them. The module may be on the meta device.
    """
    check_shapes({name: tensor.shape for name, tensor in module.state_dict().items()}, tensors, source)
    own = {name: tensor if device is None else _copy(tensor, device) for name, tensor in tensors.items()}
    module.load_state_dict(own, assign=True)


def check_shapes(expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError if `tensors` have other names than `expected`, or other shapes."""
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    shared = expected.keys() & tensors.keys()
    misshapen = sorted(name for name in shared if tensors[name].shape != expected[name])
    if missing or unexpected or misshapen:
        kinds = {"missing": missing, "unexpected": unexpected, "of the wrong shape": misshapen}
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items() if names)
        first = ", ".join([*missing, *unexpected, *misshapen][:5])
        raise CheckpointError(
            f"{source} does not fit this architecture: got {len(tensors)} tensors, expected {len(expected)}; "
            f"{counts}, first {first}; choose a checkpoint and an architecture that match"
        )


def check_finite(module: nn.Module, source: str) -> None:
    """Raise CheckpointError, naming the tensor, if a weight is NaN or infinite."""
    sums = {name: tensor.sum() for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    finite = torch.stack([total.double() for total in sums.values()]).isfinite().tolist()
    for name, good in zip(sums, finite, strict=True):
        if not good and not bool(module.state_dict()[name].isfinite().all()):
            raise CheckpointError(f"{source}: tensor {name} holds NaN or infinite values: fetch the weights again")


def randomize(module: nn.Module, seed: int) -> None:
    """Fill all parameters in place with random values that keep activations near 1, zero convolutions included.

    The network generates no meaningful pictures, but has the speed and the numerics of a trained one.
    The same seed gives the same weights, independent of the global generator. Parameters are filled side by side, each
    from its own generator: one generator takes 10 s for Stable Diffusion.
    """
    parameters = [*module.parameters()]
    seeds = torch.randint(2**62, (len(parameters),), generator=torch.Generator().manual_seed(seed)).tolist()
    fill = partial(_fill, inference=torch.is_inference_mode_enabled())  # the mode belongs to the thread
    with ThreadPoolExecutor() as threads:
        list(threads.map(fill, parameters, seeds))
    for part in module.modules():
        if isinstance(part, (nn.GroupNorm, nn.LayerNorm)):
            part.weight.data += 1.0


def _fill(parameter: Tensor, seed: int, inference: bool) -> None:
    # Variance 1 / fan_in.
    bound = (3.0 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1
    with torch.inference_mode(inference):
        torch.nn.init.uniform_(parameter, -bound, bound, generator=torch.Generator().manual_seed(seed))


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
