"""Chooses launch parameters for the GroupNorm kernel, and compiles it with NVRTC through cuda-python."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from math import gcd, lcm
from pathlib import Path
from typing import Any

from plugins.machine_code import machine_code

SOURCE = Path(__file__).with_name("kernel.cu")
NAME = "canny2image_group_norm"  # the kernel's function in it

# Close to the best of about 100 launches for each of 16 sizes on an H200 (docs/performance.md).
MAX_CLUSTER = 8  # blocks; every GPU with clusters supports 8
MAX_THREADS = 512
FEW = {128: 8, 256: 16}  # threads, and vectors per thread up to which no more threads are used
MAX_HOLD = 8  # vectors kept in registers per thread
BLOCKS = 256  # enough to occupy an H200's 132 multiprocessors
WORTH_A_BLOCK = 256  # minimum vectors per block when a span is split
SECTOR = 16  # float16 values in 32 bytes, the smallest memory access

Defines = tuple[tuple[str, str], ...]  # compile-time constants: names and values


class KernelError(RuntimeError):
    """NVRTC or the CUDA driver failed; the message includes their error."""


@dataclass(frozen=True)
class Launch:
    """Launch parameters for maps of one size: the kernel's compile-time constants, grid and threads per block."""

    defines: Defines
    grid: tuple[int, int, int]
    threads: int


def choose_launch(
    images: int,
    channels: int,
    pixels: int,
    groups: int,
    eps: float,
    silu: bool,
    channels_last: bool,
    clusters: bool,
    shift: bool = False,
) -> Launch:
    """Return the launch parameters for maps of this size.

    clusters: whether the GPU has thread block clusters (compute capability 9.0 or higher).
    Raises ValueError for sizes that the kernel does not support.
    """
    vector, span = _cut_channels(images, channels, pixels, groups, channels_last, shift)
    cluster = _count_blocks(images * channels // span, pixels * span // vector) if clusters else 1
    width = span // vector if channels_last else 1  # vectors per pixel
    per_block = -(-(pixels * span // vector) // width // cluster) * width
    enough = (few for few, most in FEW.items() if per_block <= few * most and width <= few)
    threads = next(enough, MAX_THREADS)
    per_thread = -(-per_block // (threads // width * width or threads))
    chunks = -(-per_thread // MAX_HOLD)
    constants = {
        "CHANNELS": channels, "GROUPS": groups, "CHANNELS_LAST": int(channels_last), "SHIFT": int(shift),
        "SILU": int(silu), "EPS": eps, "VECTOR": vector, "SPAN": span, "CLUSTER": cluster, "THREADS": threads,
        "HOLD": -(-per_thread // chunks),
    }  # fmt: skip
    defines = tuple((name, str(value)) for name, value in constants.items())
    return Launch(defines, (cluster, channels // span, images), threads)


def _cut_channels(
    images: int, channels: int, pixels: int, groups: int, channels_last: bool, shift: bool
) -> tuple[int, int]:
    """Return values per load and channels per span, the part of a map that one cluster processes. Raises ValueError."""
    if min(images, channels, pixels, groups) < 1 or channels % groups or images * channels * pixels >= 2**30:
        raise ValueError(
            f"group_norm got {images} images of {channels} channels and {pixels} pixels in {groups} groups, expected "
            "positive sizes, fewer than 2^30 values and channels divisible by groups: choose other sizes or groups"
        )
    group = channels // groups
    if channels_last:
        vector, span = _widest(channels, group)
    else:
        vector, span = gcd(pixels, 8), group
    if shift and not (channels_last and span // vector <= MAX_THREADS):
        raise ValueError(
            f"group_norm got a shift with groups of {group} channels and channels_last={channels_last}, expected "
            f"channels-last maps and groups of at most {MAX_THREADS} loads: add the shift to x before the call"
        )
    return vector, span


def _count_blocks(spans: int, vectors: int) -> int:
    """Return how many blocks share a span of `vectors`: enough to fill the GPU, while each gets enough work."""
    cluster = 1
    while cluster < MAX_CLUSTER and spans * cluster < BLOCKS and vectors >= 2 * cluster * WORTH_A_BLOCK:
        cluster *= 2
    return cluster


def _widest(channels: int, group: int) -> tuple[int, int]:
    """Return the values per load and the channels per span: whole groups and whole loads.

    Of loads of 16 and 8 bytes, those with the smaller spans: more spans mean fewer groups for a block to merge.
    """
    for vectors in ((8, 4), (2,)):
        spans = {vector: _at_least_a_sector(lcm(group, vector), channels) for vector in vectors}
        fitting = [
            (span, -vector)
            for vector, span in spans.items()
            if channels % span == 0 and (span == group or span // vector <= MAX_THREADS)
        ]
        if fitting:
            span, vector = min(fitting)
            return -vector, span
    return 1, _at_least_a_sector(group, channels)


def _at_least_a_sector(span: int, channels: int) -> int:
    while span < SECTOR and channels % (2 * span) == 0:
        span *= 2
    return span


@cache
def compile_ptx(defines: Defines, architecture: int) -> bytes:
    """Return the kernel's PTX for a compute capability (90 for 9.0); cached in this process.

    Raises KernelError if NVRTC cannot be loaded or fails; after a failed compilation the message includes its log.
    """
    return _compile(defines, f"compute_{architecture}", "PTX", SOURCE)


def cubin(defines: Defines, architecture: int, file: Path = SOURCE) -> bytes:
    """Return the machine code of a kernel, compiled unless engine files hold it. Raises like `compile_ptx`.

    The driver would have to compile PTX again, in every process that loads it.
    """
    compile_kernel = partial(_compile, defines, f"sm_{architecture}", "CUBIN", file)
    return machine_code(f"{file.parent.name} sm_{architecture} {dict(defines)}", compile_kernel)


def _compile(defines: Defines, target: str, kind: str, file: Path) -> bytes:
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
    program = call(nvrtc.nvrtcCreateProgram, file.read_bytes(), file.name.encode(), 0, [], [])
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
