"""The caller's edge map, which replaces Canny's: its checks, and a resize that keeps thin edges."""

import logging

import numpy as np

from cldm.canny import Picture

log = logging.getLogger(__name__)


def check_channels(name: str, edges: Picture) -> None:
    """Raise ValueError if an edge map [h, w], [h, w, 1] or [h, w, 3] has channels that differ."""
    if edges.ndim == 3 and (edges != edges[:, :, :1]).any():
        raise ValueError(
            f"{name}: got channels that differ, expected one channel or three equal ones, white edges on black: "
            "convert a coloured edge map to grey first, or let Canny find the edges of a picture"
        )


def warn_if_inverted(name: str, edges: Picture) -> None:
    """Log a warning if most of an edge map is white."""
    if (mean := edges.mean()) > 127:
        log.warning(
            "%s: the mean of %d looks like black edges on white, but ControlNet expects white edges on black; "
            "to invert them, subtract the array from 255",
            name,
            round(mean),
        )


def resize_edge_map(edges: Picture, height: int, width: int) -> Picture:
    """Return one channel, [height, width]: block maximum to shrink a side, nearest neighbour to enlarge it.

    Thin edges stay, and stay as bright: nearest neighbour alone would skip some, and area averaging would make them
    grey, which weakens their influence. At the same size every value is unchanged.
    """
    resized = np.array(edges if edges.ndim == 2 else edges[:, :, 0], order="C")  # a copy, for any strides
    for axis, size in enumerate((height, width)):
        if resized.shape[axis] != size:
            # The first pixel of each block; to enlarge, some repeat, and reduceat then returns that pixel alone.
            begins = np.arange(size) * resized.shape[axis] // size
            resized = np.maximum.reduceat(resized, begins, axis=axis)
    return resized
