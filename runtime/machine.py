"""Facts about this machine that engine files depend on: the device and the installed libraries."""

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from runtime.tensorrt_library import Library, capability, dotted

NONE = "none"  # not installed, or irrelevant to the engine
Facts = dict[str, Any]  # JSON values by name


def machine(device: torch.device) -> Facts:
    """Return the facts that torch.compile's engines depend on."""
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else "cpu",
        "capability": [dotted(capability(device)) if is_cuda else torch.backends.cpu.get_cpu_capability()],
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda or NONE,
        "triton": package_version("triton"),
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def tensorrt_machine(device: torch.device, library: Library, targets: Sequence[int] = ()) -> Facts:
    """Return the facts that TensorRT's engines depend on; they do not depend on other installed software.

    targets: the GPUs' compute capabilities, by default the device's. Raise TensorRTError if the library cannot be
    imported.
    """
    return {
        "device": NONE if library.portable else torch.cuda.get_device_name(device),
        "capability": [dotted(one) for one in targets or (capability(device),)],
        "tensorrt": f"{library.title} {library.version()}",
    }


def package_version(package: str) -> str:
    """Return the version of an installed package, or NONE."""
    try:
        return version(package)
    except PackageNotFoundError:
        return NONE
