"""Chooses launch parameters for the GroupNorm kernel."""

from dataclasses import dataclass
from math import gcd, lcm
from pathlib import Path

from plugins.nvrtc import Defines

SOURCE = Path(__file__).with_name("kernel.cu")
NAME = "canny2image_group_norm"  # the kernel's function in it

# Within 8% of the best of 10 to 50 launches for each of 22 sizes on an H200, about 25% of the best of 100 for narrow
# groups (docs/performance.md).
MAX_CLUSTER = 8  # blocks; every GPU with clusters supports 8
MAX_THREADS = 512
FEW = {128: 32, 256: 64}  # threads per block, and values per thread up to which they are enough
MAX_HOLD = 8  # vectors kept in registers per thread
BLOCKS = 512  # enough to occupy an H200's 132 multiprocessors
WORTH_A_BLOCK, OF_NARROW = 240, 60  # minimum vectors per block when a span is split; of narrow groups
MOST_MERGES = 2  # narrow groups in a span, if no load has whole groups
WIDEST_LOAD = 8  # values
MANY_IMAGES, OF_MANY = 16, 128  # those of eight pictures: the widest loads and so many blocks are then faster
FP8_FACTOR = 8  # of e4m3 results: those from 0.002 to 56 then keep three bits, and larger ones become 56
SECTOR = 16  # float16 values in 32 bytes, the smallest memory access; groups of fewer channels are narrow


@dataclass(frozen=True)
class Launch:
    """Launch parameters for maps of one size: the kernel's compile-time constants, grid, threads per block and name."""

    defines: Defines
    grid: tuple[int, int, int]
    threads: int
    source: Path = SOURCE
    name: str = NAME


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
    joined: int = 0,
    fp8: bool = False,
) -> Launch:
    """Return the launch parameters for maps of this size.

    clusters: whether the GPU has thread block clusters (compute capability 9.0 or higher). joined: the channels of the
    first map if the kernel joins two, otherwise 0. fp8: write FP8_FACTOR times the result as e4m3 (compute capability
    8.9 or higher).
    Raises ValueError for sizes that the kernel does not support.
    """
    vector, span = _cut_channels(images, channels, pixels, groups, channels_last, shift, joined)
    worth = OF_NARROW if channels // groups < SECTOR else WORTH_A_BLOCK
    blocks = OF_MANY if _are_many(images, channels // groups) else BLOCKS
    cluster = _count_blocks(images * channels // span, pixels * span // vector, worth, blocks) if clusters else 1
    width = span // vector if channels_last else 1  # vectors per pixel
    per_block = -(-(pixels * span // vector) // width // cluster) * width
    enough = (few for few, most in FEW.items() if per_block * max(vector, 4) <= few * most and width <= few)
    threads = next(enough, MAX_THREADS)
    per_thread = -(-per_block // (threads // width * width or threads))
    chunks = -(-per_thread // MAX_HOLD)
    constants = {
        "CHANNELS": channels, "GROUPS": groups, "CHANNELS_LAST": int(channels_last), "SHIFT": int(shift),
        "JOINED": joined, "SILU": int(silu), "FP8": FP8_FACTOR * fp8, "EPS": eps, "VECTOR": vector,
        "SPAN": span, "CLUSTER": cluster, "THREADS": threads, "HOLD": -(-per_thread // chunks),
    }  # fmt: skip
    defines = tuple((name, str(value)) for name, value in constants.items())
    return Launch(defines, (cluster, channels // span, images), threads)


def can_join(channels: int, groups: int, joined: int) -> bool:
    """Return whether the kernel supports two channels-last maps as input, the first with `joined` of the channels."""
    if channels % groups or not 0 < joined < channels:
        return False
    vector, span = _widest(channels, channels // groups, joined)
    return vector > 1 and span // vector <= MAX_THREADS


def _cut_channels(
    images: int, channels: int, pixels: int, groups: int, channels_last: bool, shift: bool, joined: int
) -> tuple[int, int]:
    """Return values per load and channels per span, the part of a map that one cluster processes. Raises ValueError."""
    if min(images, channels, pixels, groups) < 1 or channels % groups or images * channels * pixels >= 2**30:
        raise ValueError(
            f"group_norm got {images} images of {channels} channels and {pixels} pixels in {groups} groups, expected "
            "positive sizes, fewer than 2^30 values and channels divisible by groups: choose other sizes or groups"
        )
    group = channels // groups
    if channels_last:
        vector, span = _widest(channels, group, joined, _are_many(images, group))
    else:
        vector, span = gcd(pixels, 8), group
    if shift and not (channels_last and span // vector <= MAX_THREADS):
        raise ValueError(
            f"group_norm got a shift with groups of {group} channels and channels_last={channels_last}, expected "
            f"channels-last maps and groups of at most {MAX_THREADS} loads: add the shift to x before the call"
        )
    if joined and not (channels_last and can_join(channels, groups, joined)):
        raise ValueError(
            f"group_norm got maps of {joined} and {channels - joined} channels to join in {groups} groups and "
            f"channels_last={channels_last}, expected channels-last maps of even numbers of channels and groups of at "
            f"most {MAX_THREADS} loads: join them before the call"
        )
    return vector, span


def _are_many(images: int, group: int) -> bool:
    return images >= MANY_IMAGES and group >= WIDEST_LOAD


def _count_blocks(spans: int, vectors: int, worth: int, blocks: int) -> int:
    """Return how many blocks share a span of `vectors`: enough for `blocks` in all, while each gets enough work."""
    cluster = 1
    while cluster < MAX_CLUSTER and spans * cluster < blocks and vectors >= 2 * cluster * worth:
        cluster *= 2
    return cluster


def _widest(channels: int, group: int, joined: int, many: bool = False) -> tuple[int, int]:
    """Return the values per load and the channels per span: whole groups and whole loads.

    No load has channels of two joined maps. A warp merges one group after another, which takes long for many, unless
    loads have whole groups. So of loads of 16 and 8 bytes, those with whole groups, else those with the smaller spans.
    Spans are widened to whole sectors, to more for joined maps; not those of narrow groups, which would be many. For
    many images the widest loads are preferred.
    """
    narrow = group < SECTOR
    merges, sectors = (2 * MOST_MERGES, 4) if many else (MOST_MERGES, 2)
    for vectors in ((8, 4), (2,)):
        fitting = []
        for vector in vectors:
            span, whole = lcm(group, vector), vector % group == 0
            if not narrow or whole:
                span = _widened(span, channels, sectors * SECTOR if joined and not narrow else SECTOR)
            few = whole or not narrow or span <= merges * group
            fits = channels % span == 0 and joined % vector == 0 and (span == group or span // vector <= MAX_THREADS)
            if few and fits:
                order = (-vector, span) if many else (span, -vector)
                fitting.append((not whole, order, vector, span))
        if fitting:
            *_, vector, span = min(fitting)
            return vector, span
    return 1, _widened(group, channels, SECTOR)


def _widened(span: int, channels: int, least: int) -> int:
    while span < least and channels % (2 * span) == 0:
        span *= 2
    return span
