"""The libraries that build and run TensorRT engines, and what differs between them.

All have almost the same Python API; the table LIBRARIES holds the rest. A serialized engine is read by the library
whose magic it begins with, and built by the first installed library that builds for the GPU in question.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from runtime.tensorrt_calls import TensorRTError


@dataclass(frozen=True)
class Library:
    """One library. Compute capabilities are integers, 89 for 8.9."""

    title: str  # libraries of one title read each other's engines
    module: str  # as it is imported
    package: str  # as pip installs it
    extra: str  # of pyproject.toml that installs it
    magic: bytes  # of its serialized engines
    builds: bool = False
    capabilities: tuple[int, ...] = ()  # of the GPUs that it is for; empty: any
    half_only: tuple[int, ...] = ()  # of these, those on which it multiplies no float32 matrices
    portable: bool = False  # builds for GPUs that are not here, and for all models of a compute capability
    plugins: bool = False  # may be given ours; others end the process when a file asks for one
    timing_cache: bool = False  # measures kernels when it builds
    runtime_cache: bool = False  # compiles kernels when it first runs, which can be kept

    def load(self) -> Any:
        """The module. Raises TensorRTError if it cannot be imported."""
        return _import((self,))[1]

    def version(self) -> str:
        """As in its engines, "major.minor.patch.build". Raises TensorRTError if the library cannot be imported."""
        return str(self.load().__version__)

    def is_for(self, capabilities: Iterable[int]) -> bool:
        """Does it make and run engines for GPUs of all these compute capabilities?"""
        return not self.capabilities or set(capabilities) <= set(self.capabilities)


LIBRARIES = (  # the first one that fits is taken
    Library(
        "TensorRT", "tensorrt", "tensorrt-cu13", "tensorrt", b"ftrt", builds=True, plugins=True, timing_cache=True
    ),
    Library("TensorRT", "tensorrt_lean", "tensorrt-lean-cu13", "tensorrt", b"ftrt"),
    Library(
        "TensorRT for RTX", "tensorrt_rtx", "tensorrt-rtx-cu13", "tensorrt-rtx", b"vtrt", builds=True,
        capabilities=(75, 80, 86, 89, 120, 121), half_only=(75,), portable=True, runtime_cache=True,
    ),
)  # fmt: skip


def installed() -> list[Library]:
    """The libraries that can be found, which does not say that they run."""
    return [library for library in LIBRARIES if find_spec(library.module) is not None]


def library_that_builds(device: torch.device, targets: Sequence[int] = ()) -> Library:
    """The library for engines for GPUs of the compute capabilities `targets`, by default for `device`.

    Raises TensorRTError if there is none, with what to install.
    """
    if not targets:
        check_device(device)
    wanted = targets or (capability(device),)
    able = [one for one in LIBRARIES if one.builds and one.is_for(wanted) and (one.portable or not targets)]
    if not able:
        portable = next(one for one in LIBRARIES if one.portable)
        raise TensorRTError(
            f"no library builds for {' and '.join(map(sm, wanted))} on another machine: {portable.title} does for "
            f"{', '.join(map(sm, portable.capabilities))}; for other GPUs build on the machine that has one"
        )
    return _import(able)[0]


def library_that_reads(name: str, serialized: bytes) -> Library:
    """The library for an engine, by its first bytes; `name` is the engine's. Raises TensorRTError if there is none."""
    able = [one for one in LIBRARIES if len(serialized) >= 28 and serialized[:8] == one.magic + bytes(4)]
    if not able:
        magics = " or ".join(str(magic) for magic in dict.fromkeys(one.magic for one in LIBRARIES))
        raise TensorRTError(
            f"engine {name}: {len(serialized)} bytes that begin with {serialized[:8]!r} are no serialized TensorRT "
            f"engine, expected at least 28 that begin with {magics}; build it with python -m build --backend tensorrt"
        )
    return _import(able)[0]


def library_that_runs_on(device: torch.device, title: str = "") -> Library:
    """The installed library of this title for `device`; without such a one, the first for that device.

    Raises TensorRTError if none is installed.
    """
    able = [one for one in LIBRARIES if one.is_for([capability(device)])] if device.type == "cuda" else [*LIBRARIES]
    return _import(sorted(able, key=lambda one: one.title != title))[0]


def check_device(device: torch.device, library: Library | None = None) -> None:
    """Raises TensorRTError if there is no such CUDA device, or if it is not one that the library is for.

    Must come before a Runtime is made: without a driver, tensorrt_lean ends the process when it reads an engine.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type != "cuda" or (device.index or 0) >= count:
        raise TensorRTError(
            f"TensorRT engines need a CUDA device: got {device}, and PyTorch sees {count} of them; use backend eager, "
            "or build for another machine with --target sm89"
        )
    if library and not library.is_for([capability(device)]):
        raise TensorRTError(
            f"{library.title} is for GPUs of compute capability {', '.join(map(dotted, library.capabilities))}, and "
            f"{device} has {dotted(capability(device))}: run ./preprocess.sh {LIBRARIES[0].extra} and build again"
        )


def capability(device: torch.device) -> int:
    """The compute capability of a CUDA device, 89 for 8.9."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


def sm(capability: int) -> str:
    return f"sm{capability}"


def _import(libraries: Sequence[Library]) -> tuple[Library, Any]:
    """The first that can be imported, and its module. Raises TensorRTError with the reasons."""
    reasons = []
    for library in libraries:
        try:
            return library, import_module(library.module)
        except (ImportError, OSError) as error:  # OSError: one of its shared libraries is missing
            reasons.append(f"{library.module}: {error}")
    scripts = " or ".join(dict.fromkeys(f"./preprocess.sh {library.extra}" for library in libraries))
    packages = " or ".join(library.package for library in libraries)
    raise TensorRTError(
        f"TensorRT cannot be imported ({'; '.join(reasons)}): run {scripts}, install {packages}, or use another backend"
    )
