"""Chooses the device, precision and backend on this machine."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from reading import shown
from runtime.eager import EagerEngine
from runtime.engine import Engine
from runtime.inductor import InductorEngine
from runtime.spec import EngineSpec
from runtime.tensorrt_calls import TensorRTError
from runtime.tensorrt_library import capability, check_device, installed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backend:
    name: str
    make_engine: Callable[[EngineSpec, nn.Module], Engine]
    keep: Callable[[], None] = lambda: None  # saves the kernels that engines compiled while running


@dataclass(frozen=True)
class Precision:
    """The dtype of the networks' weights and activations; latents and time stay float32.

    fp8: whether convolutions after norms compute with numbers of 8 bits (see plugins/fp8.py).
    """

    name: str
    dtype: torch.dtype
    fp8: bool = False


BACKENDS = {b.name: b for b in (Backend("eager", EagerEngine), Backend("inductor", InductorEngine))}
NAMES = (*BACKENDS, "tensorrt")  # tensorrt loads engines only from files: see cldm.engine_files.find_engines
PRECISIONS = {
    p.name: p
    for p in (
        *(Precision("fp32", torch.float32), Precision("fp16", torch.float16)),
        Precision("fp8", torch.float16, fp8=True),
    )
}
FP8_GPU = (9, 0)  # compute capability of the GPUs that our kernels for fp8 are for


def check_name(argument: str, name: object) -> None:
    """Raise TypeError if the name that was given for an argument is not a string."""
    if not isinstance(name, str):
        raise TypeError(f"{argument}: got {shown(name)}, expected a string")


def check_switch(argument: str, value: bool) -> bool:
    """Return the value. Raise TypeError if it is not True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument}: got {shown(value)}, expected True or False")
    return value


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device; "auto" is the GPU if there is one, and "cuda" the current one, with its number.

    Raise TypeError for any other type, and ValueError for other names and missing devices.
    """
    if isinstance(name, torch.device):
        name = str(name)
    check_name("device", name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d{1,2})?", name, re.ASCII):
        raise ValueError(f"device {shown(name)}: expected auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r}: PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here; "
            "use device cpu, or install a driver and a CUDA build of PyTorch"
        )
    if name == "cuda":  # the caller's current device may change
        return torch.device("cuda", torch.cuda.current_device())
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return the precision; "auto" is fp16 on a GPU and fp32 on the CPU.

    On the CPU, fp8 rounds to the same numbers as on a GPU, and everything else is float32.
    Raise TypeError if the name is no string, and ValueError for an unknown or unsupported precision.
    """
    check_name("precision", name)
    if name == "auto":
        name = "fp16" if device.type == "cuda" else "fp32"
    if name not in PRECISIONS:
        *others, last = PRECISIONS
        raise ValueError(f"precision {shown(name)}: expected auto, {', '.join(others)} or {last}")
    precision = PRECISIONS[name]
    if device.type == "cpu":
        if name == "fp16":
            raise ValueError("precision 'fp16' needs a CUDA device, and the device is cpu: use fp32")
        return replace(precision, dtype=torch.float32)
    if precision.fp8 and (found := torch.cuda.get_device_capability(device)) != FP8_GPU:
        raise ValueError(
            f"precision 'fp8' needs an H100 or H200, and {device} has compute capability {found[0]}.{found[1]}: use "
            "fp16"
        )
    return precision


def choose_backends(name: str, device: torch.device) -> tuple[str, ...]:
    """Return the backends to try, fastest first: for "auto" all that the device supports, otherwise only `name`.

    Raise TypeError if the name is no string, and ValueError for an unknown name and for TensorRT without a GPU.
    """
    check_name("backend", name)
    if name == "auto":
        if device.type != "cuda":
            return ("eager",)
        has_tensorrt = any(library.is_for([capability(device)]) for library in installed())
        return ("tensorrt", "inductor", "eager") if has_tensorrt else ("inductor", "eager")
    if name not in NAMES:
        raise ValueError(f"backend {shown(name)}: expected auto, {', '.join(NAMES[:-1])} or {NAMES[-1]}")
    if name == "tensorrt":
        try:
            check_device(device)
        except TensorRTError as error:
            raise ValueError(str(error)) from error
    return (name,)


def with_precision(names: tuple[str, ...], precision: Precision, device: torch.device) -> tuple[str, ...]:
    """Return the backends of these that have engines of this precision. Raise ValueError if none is left."""
    if not precision.fp8:
        return names
    if names == ("inductor",) and device.type == "cpu":
        raise ValueError("backend inductor has precision fp8 on an H100 or H200 only, and the device is cpu: use eager")
    return leave_out_tensorrt(names, "its engines have no precision fp8")


def leave_out_tensorrt(names: tuple[str, ...], reason: str) -> tuple[str, ...]:
    """Return the names without tensorrt, which cannot run here for that reason. Raise ValueError if none is left."""
    if names == ("tensorrt",):
        raise ValueError(f"backend tensorrt: {reason}: use backend inductor or eager")
    if "tensorrt" in names:
        log.info("backend tensorrt left out: %s", reason)
    return tuple(name for name in names if name != "tensorrt")
