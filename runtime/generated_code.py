"""Runs code that Inductor generated for a GPU without Inductor, whose import takes longer than all of the code.

The code is a Python function that allocates, calls ops and launches Triton kernels, in a fixed order with fixed sizes.
`record_code.py` saves it together with the machine code of the kernels and how each of them is launched.
"""

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from ctypes import addressof, c_double, c_float, c_int32, c_int64, c_void_p
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from runtime.cuda import call

# What the function may use besides its kernels: PyTorch's C++ code, and functions that Inductor calls extern_kernels.
GUARDS = {"empty_strided_cuda": "_empty_strided_cuda", "reinterpret_tensor": "_reinterpret_tensor"}
ASSERTIONS = ("assert_size_stride", "assert_alignment")
EXTERN = {"bmm_dtype": "bmm", **{name: name for name in ("addmm", "baddbmm", "bmm", "convolution", "mm")}}
# Inductor's letters for the types of parameters.
TYPES: dict[str, Any] = {"O": c_void_p, "i": c_int32, "l": c_int64, "f": c_float, "d": c_double}
CODE, KERNELS = "code.py", "kernels.json"
ALIGNMENT = 16  # bytes; Inductor itself would copy other inputs


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched for some numbers. arguments: indices of tensors among those of the call, or numbers."""

    numbers: list[float]  # among the arguments of the call, in their order
    grid: list[int]
    arguments: list[tuple[bool, Any]]  # whether it is a tensor; its index, or the number


@dataclass(frozen=True)
class Kernel:
    """A compiled Triton kernel. types: letters of TYPES, one for each parameter. code: the name of its machine code."""

    name: str
    code: str
    warps: int
    shared: int
    types: str
    launches: list[Launch]


class LoadedKernel:
    """A kernel on the current device, with the method that generated code calls."""

    def __init__(self, kernel: Kernel, cubin: bytes) -> None:
        from cuda.bindings import driver

        self.kernel = kernel
        self.launches = {tuple(one.numbers): one for one in kernel.launches}
        self.module = call(driver.cuModuleLoadData, cubin)
        self.function = call(driver.cuModuleGetFunction, self.module, kernel.name.encode())
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        call(driver.cuFuncSetAttribute, self.function, attribute, kernel.shared)

    def run(self, *arguments: Any, stream: int) -> None:
        """Launch the kernel. Raises CudaError if that fails, and KeyError for numbers that were not recorded."""
        from cuda.bindings import driver

        launch = self.launches[tuple(one for one in arguments if not isinstance(one, Tensor))]
        given = [arguments[value].data_ptr() if is_tensor else value for is_tensor, value in launch.arguments]
        given += [0] * (len(self.kernel.types) - len(given))  # scratch memory, which the kernels do not need
        values = [TYPES[kind](value) for kind, value in zip(self.kernel.types, given, strict=True)]
        addresses = (c_void_p * len(values))(*map(addressof, values))
        call(
            driver.cuLaunchKernel, self.function, *launch.grid, 32 * self.kernel.warps, 1, 1, self.kernel.shared,
            stream, addressof(addresses), 0,
        )  # fmt: skip


class GeneratedCode:
    """The function, ready to be called. kernels: by the names that it uses."""

    def __init__(self, source: str, kernels: Mapping[str, Any]) -> None:
        self.function = compiled(source, kernels)

    def __call__(self, *arguments: Tensor) -> None:
        """Run the function. Raises ValueError for addresses that its kernels were not compiled for."""
        for i, one in enumerate(arguments):
            if one.data_ptr() % ALIGNMENT:
                raise ValueError(
                    f"generated code got argument {i} at an address that is not a multiple of {ALIGNMENT} bytes, "
                    "expected an aligned tensor: call .clone() first"
                )
        self.function([*arguments])


def names() -> dict[str, Any]:
    """Return what the function may use besides its kernels."""
    guards = torch._C._dynamo.guards
    return {
        "torch": torch,
        "extern_kernels": SimpleNamespace(**{name: getattr(torch, its_name) for name, its_name in EXTERN.items()}),
        "get_raw_stream": lambda device: torch.cuda.current_stream(device).cuda_stream,
        **{name: getattr(guards, name) for name in ASSERTIONS},
        **{name: getattr(guards, its_name) for name, its_name in GUARDS.items()},
    }


def compiled(source: str, kernels: Mapping[str, Any]) -> Callable[[list[Tensor]], object]:
    """Return the function `call` of the source."""
    space = {**names(), **kernels}
    exec(compile(source, "code that Inductor generated", "exec"), space)
    function: Callable[[list[Tensor]], object] = space["call"]
    return function


def pack(source: str, kernels: Mapping[str, Kernel], cubins: Mapping[str, bytes]) -> bytes:
    """Return all of it in one file. cubins: by the kernels' `code`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CODE, source)
        archive.writestr(KERNELS, json.dumps({name: asdict(kernel) for name, kernel in kernels.items()}))
        for name, cubin in cubins.items():
            archive.writestr(name, cubin)
    return file.getvalue()


def is_packed(data: bytes) -> bool:
    """Return whether `pack` made the data."""
    return data.startswith(b"PK")


def load(data: bytes) -> GeneratedCode:
    """Return the code that `pack` packed, with its kernels on the current device. Unknown bytes raise any exception."""
    torch.cuda.synchronize()  # lets the thread use the device, also through the driver
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        kernels = {name: _kernel(fields) for name, fields in json.loads(archive.read(KERNELS)).items()}
        loaded = {name: LoadedKernel(kernel, archive.read(kernel.code)) for name, kernel in kernels.items()}
        return GeneratedCode(archive.read(CODE).decode(), loaded)


def _kernel(fields: dict[str, Any]) -> Kernel:
    launches: Sequence[dict[str, Any]] = fields.pop("launches")
    return Kernel(**fields, launches=[Launch(**one) for one in launches])
