"""Compiles CUDA files with NVRTC, through cuda-python, and calls the CUDA driver."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from plugins.machine_code import machine_code

Defines = tuple[tuple[str, str], ...]  # compile-time constants: names and values
HEADERS = tuple(sorted(Path(__file__).parent.rglob("*.cuh")))  # that files may include by name


class KernelError(RuntimeError):
    """NVRTC or the CUDA driver failed; the message includes their error."""


@cache
def compile_ptx(file: Path, defines: Defines, architecture: int | str) -> bytes:
    """Return a file's PTX for a compute capability, 90 for 9.0, "90a" with its own instructions; cached per process.

    Raises KernelError if NVRTC cannot be loaded or fails; after a failed compilation the message includes its log.
    """
    return _compile(file, defines, f"compute_{architecture}", "PTX")


def cubin(file: Path, defines: Defines, architecture: int | str) -> bytes:
    """Return a file's machine code, compiled unless engine files hold it. Raises like `compile_ptx`.

    The driver would have to compile PTX again, in every process that loads it.
    """
    compile_kernel = partial(_compile, file, defines, f"sm_{architecture}", "CUBIN")
    return machine_code(f"{file.parent.name}/{file.name} sm_{architecture} {dict(defines)}", compile_kernel)


def _compile(file: Path, defines: Defines, target: str, kind: str) -> bytes:
    """Return what NVRTC compiles the file to. kind: PTX or CUBIN, as in the names of NVRTC's functions."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # loads the library
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise KernelError(f"NVRTC cannot be loaded ({reason}): run ./preprocess.sh dev, which installs it") from error
    # Without the last option, NVRTC treats constexpr functions and lambdas as host code and rejects them.
    options = [f"--gpu-architecture={target}", "--std=c++17", "--device-as-default-execution-space"]
    options += [f"-D{name}={value}" for name, value in defines]
    headers, names = [one.read_bytes() for one in HEADERS], [one.name.encode() for one in HEADERS]
    source, name = file.read_bytes(), file.name.encode()
    program = call(nvrtc.nvrtcCreateProgram, source, name, len(headers), headers, names)
    try:
        try:
            call(nvrtc.nvrtcCompileProgram, program, len(options), [option.encode() for option in options])
        except KernelError as error:
            log = bytes(call(nvrtc.nvrtcGetProgramLogSize, program))
            call(nvrtc.nvrtcGetProgramLog, program, log)
            raise KernelError(f"{error} for {file.name}, {' '.join(options)}:\n{log.decode()}") from error
        result = bytes(call(getattr(nvrtc, f"nvrtcGet{kind}Size"), program))
        call(getattr(nvrtc, f"nvrtcGet{kind}"), program, result)
        return result
    finally:
        call(nvrtc.nvrtcDestroyProgram, program)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call an NVRTC or driver function and return its first value, if any. Raises KernelError for an error status."""
    status, *values = function(*arguments)
    if status != 0:
        raise KernelError(f"{function.__name__} failed with {status.name}")
    return values[0] if values else None
