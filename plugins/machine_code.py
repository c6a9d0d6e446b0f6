"""Machine code of our own kernels, which engine files hold: a machine that has them needs no compiler."""

from collections.abc import Callable

KERNELS: dict[str, bytes] = {}  # by a description of all that the machine code depends on


def machine_code(description: str, compile_kernel: Callable[[], bytes]) -> bytes:
    """Return the machine code of a kernel: from engine files that were read, or compiled now, once per process.

    Raises what `compile_kernel` raises.
    """
    if description not in KERNELS:
        KERNELS[description] = compile_kernel()
    return KERNELS[description]
