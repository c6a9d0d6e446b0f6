"""How the kernel is cut for a map, and its PTX from CUDA's run-time compiler (NVRTC), through cuda-python."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import gcd, lcm
from pathlib import Path
from typing import Any

NAME = "group_norm"  # of the kernel

# The first that were tried on an H200, where they beat torch.compile's kernels at most shapes (docs/performance.md).
MAX_CLUSTER = 8  # blocks, what every GPU with clusters can do
MAX_THREADS = 512
MAX_HOLD = 8  # vectors that a thread keeps in registers
BLOCKS = 128  # enough for an H200's 132 multiprocessors
WORTH_A_BLOCK = 256  # vectors
SECTOR = 16  # values of the 32 bytes that memory hands out at least


class KernelError(RuntimeError):
    """NVRTC or the driver refused; the message has their words."""


@dataclass(frozen=True)
class Launch:
    """What one kind of map needs: constants of the kernel, and the grid and threads that it is launched with."""

    defines: tuple[tuple[str, str], ...]
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
    """The launch for maps of that size. clusters: the GPU has them, that is compute capability 9.0 or more.

    Raises ValueError for sizes that the kernel cannot do.
    """
    vector, span = _cut_channels(images, channels, pixels, groups, channels_last, shift)
    cluster = _count_blocks(images * channels // span, pixels * span // vector) if clusters else 1
    width = span // vector if channels_last else 1  # vectors of a pixel
    per_block = -(-(pixels * span // vector) // width // cluster) * width
    threads = min(max(_warps(per_block // 2), _warps(width), 128), MAX_THREADS)
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
    """Values of one load, and channels of the span that a cluster of blocks works on. Raises ValueError."""
    if min(images, channels, pixels, groups) < 1 or channels % groups or images * channels * pixels >= 2**30:
        raise ValueError(
            f"group_norm got {images} images of {channels} channels and {pixels} pixels in {groups} groups, expected "
            "fewer than 2^30 values and channels that the groups divide: choose other sizes or groups"
        )
    group = channels // groups
    if channels_last:
        vector, span = _widest(channels, group)
        while span < SECTOR and channels % (2 * span) == 0:
            span *= 2
    else:
        vector, span = gcd(pixels, 8), group
    if shift and not (channels_last and span // vector <= MAX_THREADS):
        raise ValueError(
            f"group_norm got a shift for groups of {group} channels, channels-last: {channels_last}, expected "
            f"channels-last maps and groups of at most {MAX_THREADS} loads: add the shift beforehand"
        )
    return vector, span


def _count_blocks(spans: int, vectors: int) -> int:
    """Blocks that share a span of so many vectors: enough to fill the GPU, while there is work for each."""
    cluster = 1
    while cluster < MAX_CLUSTER and spans * cluster < BLOCKS and vectors >= 2 * cluster * WORTH_A_BLOCK:
        cluster *= 2
    return cluster


def _widest(channels: int, group: int) -> tuple[int, int]:
    """Values of the widest load with which a span of whole groups is whole loads, and the channels of that span."""
    for vector in (8, 4, 2):
        span = lcm(group, vector)
        if channels % span == 0 and (span == group or span // vector <= MAX_THREADS):
            return vector, span
    return 1, group


def _warps(threads: int) -> int:
    return -(-threads // 32) * 32


@cache
def compile_ptx(defines: tuple[tuple[str, str], ...], architecture: int) -> bytes:
    """PTX of the kernel for a compute capability, 90 for 9.0. Raises KernelError, with NVRTC's log if that refused."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # loads the library
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise KernelError(f"NVRTC cannot be loaded ({reason}): run ./preprocess.sh on a machine with CUDA") from error
    file = Path(__file__).with_name("kernel.cu")
    # Without the last, NVRTC takes constexpr functions and lambdas for the host's, and refuses them.
    options = [f"--gpu-architecture=compute_{architecture}", "--std=c++17", "--device-as-default-execution-space"]
    options += [f"-D{name}={value}" for name, value in defines]
    program = call(nvrtc.nvrtcCreateProgram, file.read_bytes(), file.name.encode(), 0, [], [])
    try:
        try:
            call(nvrtc.nvrtcCompileProgram, program, len(options), [option.encode() for option in options])
        except KernelError as error:
            log = bytes(call(nvrtc.nvrtcGetProgramLogSize, program))
            call(nvrtc.nvrtcGetProgramLog, program, log)
            raise KernelError(f"{error} for {file.name}, {' '.join(options)}:\n{log.decode()}") from error
        ptx = bytes(call(nvrtc.nvrtcGetPTXSize, program))
        call(nvrtc.nvrtcGetPTX, program, ptx)
        return ptx
    finally:
        call(nvrtc.nvrtcDestroyProgram, program)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of NVRTC or the driver returns behind its status: None or the value. Raises KernelError."""
    status, *values = function(*arguments)
    if status != 0:
        raise KernelError(f"{function.__name__} failed with {status.name}")
    return values[0] if values else None
