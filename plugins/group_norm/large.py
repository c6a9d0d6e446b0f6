"""Chooses launch parameters for the two kernels of large maps, `large.cu`: statistics, then normalization."""

from pathlib import Path

from plugins.group_norm.launch import Launch

SOURCE = Path(__file__).with_name("large.cu")
SPAN = 64  # channels per block
THREADS = 256
GROUPS = (4, 8, 16, 32, 64)  # channels per group that the kernels support

# Measured on an H200 (docs/performance.md): two kernels take as long as one at 6144 pixels and 512 channels.
LARGE = 2**22  # values of an image
BLOCKS = 528  # four per multiprocessor
HOLD = 4  # loads at once


def is_large(images: int, channels: int, pixels: int, groups: int, channels_last: bool) -> bool:
    """Return whether the two kernels support maps of this size and are faster than one."""
    fits = channels_last and channels % SPAN == 0 and channels in [groups * group for group in GROUPS]
    return fits and channels * pixels >= LARGE and images * channels * pixels < 2**30


def large_launches(
    images: int, channels: int, pixels: int, groups: int, eps: float, silu: bool
) -> tuple[int, Launch, Launch]:
    """Return the number of ranges that the pixels are divided into, and the launches of the two kernels."""
    ranges = max(1, BLOCKS // (channels // SPAN * images))
    constants = {
        "CHANNELS": channels, "GROUPS": groups, "SILU": int(silu), "EPS": eps, "RANGES": ranges, "SPAN": SPAN,
        "THREADS": THREADS, "HOLD": HOLD,
    }  # fmt: skip
    defines = tuple((name, str(value)) for name, value in constants.items())
    names = ("canny2image_group_norm_stats", "canny2image_group_norm_apply")
    stats, normalize = (Launch(defines, (ranges, channels // SPAN, images), THREADS, SOURCE, name) for name in names)
    return ranges, stats, normalize
