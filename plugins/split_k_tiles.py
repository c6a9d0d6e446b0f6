"""Into how many parts the sums of a split-K convolution are split, and the tiles of its kernel."""

from plugins.choices import Choice

# The best of a dozen settings tried on an H200.
ROWS, COLUMNS, DEPTH = 64, 128, 64  # output tile: pixels, channels; input channels per step
WARPS, STAGES = 4, 4
PROGRAMS = 2  # per multiprocessor
PROCESSORS = 132  # multiprocessors of an H200


def parts_choice(pixels: int, channels: int, out_channels: int, processors: int = PROCESSORS) -> Choice:
    """Return the choice of the number of parts; 0: not split. Without timing: what was faster on an H200.

    pixels: output pixels of all maps together. The bounds are from docs/performance.md.
    """
    question = f"parts of a 3x3 convolution of {pixels} pixels, {channels} to {out_channels} channels"
    if channels % DEPTH or out_channels % COLUMNS:
        return Choice(question, (0,), 0)
    tiles = -(-pixels // ROWS) * out_channels // COLUMNS
    parts = min(PROGRAMS * processors // tiles, 13)
    faster = parts >= 8 or (parts >= 4 and 640 <= channels <= 1280)
    return Choice(question, (0, parts) if parts > 1 else (0,), parts if faster else 0)
