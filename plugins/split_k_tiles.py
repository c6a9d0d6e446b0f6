"""Into how many parts the sums of a split-K convolution are split, and the tiles of its kernel."""

# The best of a dozen settings tried on an H200.
ROWS, COLUMNS, DEPTH = 64, 128, 64  # output tile: pixels, channels; input channels per step
WARPS, STAGES = 4, 4
PROGRAMS = 264  # two per multiprocessor of an H200


def parts_for(pixels: int, channels: int, out_channels: int) -> int:
    """Return the number of parts to split a convolution's sums into; 0 if cuDNN is faster or the sizes are unsupported.

    pixels: output pixels of all maps together. The bounds were measured on an H200 (docs/performance.md).
    """
    if channels % DEPTH or out_channels % COLUMNS:
        return 0
    tiles = -(-pixels // ROWS) * out_channels // COLUMNS
    parts = min(PROGRAMS // tiles, 13)
    return parts if parts >= 8 or (parts >= 4 and 640 <= channels <= 1280) else 0
