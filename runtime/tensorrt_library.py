"""Lists the libraries that build and run TensorRT engines, and selects one.

Their Python APIs are almost equal; the table LIBRARIES lists the differences. The first installed library that builds
for a GPU builds its engines. The first bytes of a serialized engine, the magic, decide which library reads it.
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

    title: str  # libraries with the same title read each other's engines
    module: str  # import name
    package: str  # pip name
    extra: str  # the extra in pyproject.toml that installs it
    magic: bytes  # the first bytes of its serialized engines
    builds: bool = False
    capabilities: tuple[int, ...] = ()  # of the GPUs that it supports; empty: all
    half_only: tuple[int, ...] = ()  # capabilities on which it cannot multiply float32 matrices
    portable: bool = False  # builds for GPUs that are not in this machine, and for all models of a compute capability
    plugins: bool = False  # accepts our plugins; other libraries terminate the process if a file uses one
    timing_cache: bool = False  # measures kernels during the build, and can save the times
    runtime_cache: bool = False  # compiles kernels at the first run, and can save the kernels

    def load(self) -> Any:
        """Import the library and return its module. Raise TensorRTError if it cannot be imported."""
        return _import((self,))[1]

    def version(self) -> str:
        """Return "major.minor.patch.build", as in engines. Raise TensorRTError if the library cannot be imported."""
        return str(self.load().__version__)

    def is_for(self, capabilities: Iterable[int]) -> bool:
        """Return whether the library supports GPUs of all these compute capabilities."""
        return not self.capabilities or set(capabilities) <= set(self.capabilities)


LIBRARIES = (  # in order of preference
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
    """Return the libraries that Python can find. Importing them may still fail."""
    return [library for library in LIBRARIES if find_spec(library.module) is not None]


def library_that_builds(device: torch.device, targets: Sequence[int] = ()) -> Library:
    """Return the installed library that builds engines for all `targets` (compute capabilities), or else for `device`.

    Raise TensorRTError if no library does, or if none that does can be imported.
    """
    if not targets:
        check_device(device)
    wanted = targets or (capability(device),)
    able = [one for one in LIBRARIES if one.builds and one.is_for(wanted) and (one.portable or not targets)]
    if not able:
        portable = next(one for one in LIBRARIES if one.portable)
        raise TensorRTError(
            f"no library builds for {' and '.join(map(sm, wanted))} with --target: {portable.title} supports only "
            f"{', '.join(map(sm, portable.capabilities))}; for other GPUs, build without --target on a machine with one"
        )
    return _import(able)[0]


def library_that_reads(name: str, serialized: bytes) -> Library:
    """Return the library that reads an engine, by its first bytes. name: of the engine, for the message.

    Raise TensorRTError if no library has this magic, or if none that has it can be imported.
    """
    able = [one for one in LIBRARIES if len(serialized) >= 28 and serialized[:8] == one.magic + bytes(4)]
    if not able:
        magics = " or ".join(str(magic) for magic in dict.fromkeys(one.magic for one in LIBRARIES))
        raise TensorRTError(
            f"engine {name}: {len(serialized)} bytes that begin with {serialized[:8]!r} are not a serialized TensorRT "
            f"engine, expected at least 28 that begin with {magics}; build it with python -m build --backend tensorrt"
        )
    return _import(able)[0]


def library_that_runs_on(device: torch.device, title: str = "") -> Library:
    """Return the installed library that supports `device` and has this title, or else the first that supports it.

    On the CPU, all libraries count as supporting it. Raise TensorRTError if none can be imported.
    """
    able = [one for one in LIBRARIES if one.is_for([capability(device)])] if device.type == "cuda" else [*LIBRARIES]
    return _import(sorted(able, key=lambda one: one.title != title))[0]


def check_device(device: torch.device, library: Library | None = None) -> None:
    """Raise TensorRTError if `device` is not an existing CUDA device, or if the library does not support it.

    Call this before creating a Runtime: without a driver, tensorrt_lean terminates the process when it reads an engine.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type != "cuda" or (device.index or 0) >= count:
        raise TensorRTError(
            f"TensorRT engines need a CUDA device: got {device}, and PyTorch sees {count} of them; use backend eager, "
            "or build for another machine with --target sm89"
        )
    if library and not library.is_for([capability(device)]):
        raise TensorRTError(
            f"{library.title} supports GPUs of compute capability {', '.join(map(dotted, library.capabilities))}, but "
            f"{device} has {dotted(capability(device))}: run ./preprocess.sh {LIBRARIES[0].extra} and build again"
        )


def capability(device: torch.device) -> int:
    """Return the compute capability of a CUDA device, 89 for 8.9."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


def sm(capability: int) -> str:
    return f"sm{capability}"


def _import(libraries: Sequence[Library]) -> tuple[Library, Any]:
    """Return the first library that can be imported, and its module. Raise TensorRTError, with reasons, if none can."""
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
