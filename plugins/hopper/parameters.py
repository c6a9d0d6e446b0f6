"""The parameters of kernels that load with TMA: tensor maps with shapes and strides, and pointers.

By ctypes, because cuda-python puts CUtensorMap at addresses that the driver refuses: not multiples of 64.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

from plugins.hopper.compile import SWIZZLES, TYPES
from plugins.nvrtc import KernelError

MAP_BYTES, MAP_ALIGNMENT = 128, 64  # of a CUtensorMap
L2_PROMOTION = 2  # CUtensorMapL2promotion: 128 bytes
SCRATCH = 2  # pointers at the end, to scratch memory, which our kernels do not need


@dataclass(frozen=True)
class Source:
    """A tensor that TMA loads from, float16 or float8: a view with this shape and strides.

    every: which elements a load takes along the axes; 2 means every other.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    every: tuple[int, ...] | None = None


class Parameters:
    """The parameters of launches that differ only in addresses: creating them takes longer than launching a kernel.

    boxes: the shapes of TMA's loads, by source. Raises KernelError if the driver refuses a tensor.
    """

    def __init__(self, sources: Sequence[Source], boxes: Sequence[Sequence[int]], pointers: int) -> None:
        self.maps: list[Any] = []
        values: list[Any] = []
        for one, box in zip(sources, boxes, strict=True):
            address, size = one.tensor.data_ptr(), one.tensor.element_size()
            self.maps.append(tensor_map(address, one.shape, one.strides, box, one.every, size))
            values += [self.maps[-1], *map(ctypes.c_int32, one.shape), *map(ctypes.c_int64, one.strides)]
        self.pointers = [ctypes.c_void_p() for _ in range(pointers)]
        self.values = [*values, *self.pointers, *(ctypes.c_void_p() for _ in range(SCRATCH))]
        self.addresses = (ctypes.c_void_p * len(self.values))(*map(ctypes.addressof, self.values))

    def fill(self, sources: Sequence[Tensor], others: Sequence[Tensor | None]) -> int:
        """Insert the addresses of the tensors, and return the address of all parameters. Raises KernelError."""
        replace = _driver().cuTensorMapReplaceAddress
        for encoded, tensor in zip(self.maps, sources, strict=True):
            if status := replace(encoded, ctypes.c_void_p(tensor.data_ptr())):
                raise KernelError(f"cuTensorMapReplaceAddress failed with status {status} for {list(tensor.shape)}")
        for pointer, other in zip(self.pointers, others, strict=True):
            pointer.value = None if other is None else other.data_ptr()
        return ctypes.addressof(self.addresses)


def tensor_map(
    address: int,
    shape: Sequence[int],
    strides: Sequence[int],
    box: Sequence[int],
    every: Sequence[int] | None = None,
    size: int = 2,
) -> Any:
    """Return the CUtensorMap with which TMA loads boxes of a tensor. Raises KernelError if that fails.

    size: bytes of an element, 2 for float16 and 1 for float8.
    """
    memory = ctypes.create_string_buffer(MAP_BYTES + MAP_ALIGNMENT)
    encoded = (ctypes.c_byte * MAP_BYTES).from_buffer(memory, -ctypes.addressof(memory) % MAP_ALIGNMENT)
    rank = len(box)
    every = every or [1] * rank
    status = _driver().cuTensorMapEncodeTiled(
        encoded,
        TYPES[size],
        rank,
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * rank)(*reversed(shape)),  # the driver's order: the innermost axis first
        (ctypes.c_uint64 * (rank - 1))(*(size * stride for stride in reversed(strides[:-1]))),
        (ctypes.c_uint32 * rank)(*(size * step for size, step in zip(reversed(box), reversed(every), strict=True))),
        (ctypes.c_uint32 * rank)(*reversed(every)),
        0,
        SWIZZLES[size * box[-1]],
        L2_PROMOTION,
        0,
    )
    if status != 0:
        raise KernelError(f"cuTensorMapEncodeTiled failed with status {status} for shape {list(shape)} and box {box}")
    return encoded


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
