"""For tests that compile our kernel."""

import pytest

from build.requirements import is_fulfilled, read_requirements
from plugins.group_norm.launch import SOURCE, choose_launch
from plugins.nvrtc import KernelError, compile_ptx


def require_nvrtc() -> None:
    """Skip the test if NVRTC cannot be loaded; raise KernelError instead if the extra dev is installed, its source."""
    try:
        compile_ptx(SOURCE, choose_launch(1, 8, 8, 1, 1e-5, False, channels_last=True, clusters=False).defines, 80)
    except KernelError as error:
        unmet = [line for line in read_requirements(["dev"]) if not is_fulfilled(line)]
        if "cannot be loaded" not in str(error) or not unmet:
            raise
        pytest.skip(f"NVRTC cannot be loaded, and the extra dev lacks {', '.join(unmet)}")
