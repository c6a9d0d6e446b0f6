"""The wait for the previous kernel, with which kernels named canny2image_... begin: see `runtime/early_launch.py`."""

import re

WAIT = "griddepcontrol.wait"
NOTHING = "(?!)"  # matches no line


def waits_first(ptx: str, allowed: str = NOTHING) -> bool:
    """Return whether a kernel's PTX waits before the first instruction that reads or writes the GPU's memory.

    allowed: a pattern of lines that may come before the wait, because they load weights, which no kernel writes.
    """
    lines = "\n".join(line for line in ptx.splitlines() if not re.search(allowed, line))
    first = re.search(rf"cp\.async|\b(ld|st|atom|red|multimem|prefetch)[.\w:]*\.global|{re.escape(WAIT)}", lines)
    return first is not None and first[0] == WAIT
