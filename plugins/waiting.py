"""The wait for the previous kernel, with which kernels named canny2image_... begin: see `runtime/early_launch.py`."""

import re

WAIT = "griddepcontrol.wait"


def waits_first(ptx: str) -> bool:
    """Return whether a kernel's PTX waits before the first instruction that reads or writes the GPU's memory."""
    first = re.search(rf"cp\.async|\b(ld|st|atom|red|multimem|prefetch)[.\w:]*\.global|{re.escape(WAIT)}", ptx)
    return first is not None and first[0] == WAIT
