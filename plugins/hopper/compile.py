"""Compiles kernels with Triton."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

from plugins.machine_code import machine_code
from plugins.nvrtc import KernelError
from plugins.waiting import waits_first

HOPPER = (9, 0)  # the kernels' instructions exist on no other GPU
PROCESSORS = 132  # multiprocessors of an H100 or H200
SWIZZLES = {64: 2, 128: 3}  # CUtensorMapSwizzle of the CUDA driver, by bytes of a load's innermost axis
TYPES = {1: 0, 2: 6}  # CUtensorMapDataType by bytes: uint8, also for e4m3, and float16
BYTES = {"fp8e4nv": 1, "fp16": 2}  # of Triton's types


class Shared(Protocol):
    """How a kernel's programs share its work: warps and bytes of shared memory of each, and programs per cluster."""

    @property
    def warps(self) -> int: ...
    @property
    def shared(self) -> int: ...
    @property
    def cluster(self) -> int: ...


@dataclass(frozen=True)
class Programs:
    """That of kernels whose programs work alone."""

    warps: int
    shared: int
    cluster: int = 1


class Kernel(ABC):
    """What a kernel is compiled for. Subclasses are frozen dataclasses, so that repr() describes the machine code.

    The function's parameters are tensor maps, pointers, of which some may be in tuples, and constants. Maps that a
    kernel does not need are constants.
    """

    NAME: ClassVar[str]  # of the function
    POINTERS: ClassVar[tuple[str, ...]]  # Triton's types of the pointers
    GLUON: ClassVar[bool] = True  # the function's language; otherwise Triton's
    tile: Shared

    @property
    def pointers(self) -> tuple[str | tuple[str, ...], ...]:
        """Triton's types of the pointers, by parameter."""
        return self.POINTERS

    @property
    def options(self) -> dict[str, int]:
        """Triton's options."""
        return {"num_warps": self.tile.warps}

    @property
    @abstractmethod
    def boxes(self) -> list[list[int]]:
        """The shapes of TMA's loads, one for each tensor map."""

    @property
    def types(self) -> list[str]:
        """Triton's types of what TMA loads, one for each tensor map."""
        return ["fp16"] * len(self.boxes)

    @abstractmethod
    def constants(self) -> dict[str, Any]:
        """The values of the function's constexpr parameters, and None for maps that the kernel does not need."""

    @abstractmethod
    def function(self) -> Any:
        """Return the function. Importing it needs Triton."""

    @property
    def parameters(self) -> list[str]:
        """The PTX types of the parameters: maps with shapes and strides, pointers, and two that Triton adds."""
        maps = [("align 64 .b8", *["u32"] * len(box), *["u64"] * len(box)) for box in self.boxes]
        return [*(kind for one in maps for kind in one), *["u64 .ptr .global"] * (len(_paths(self.pointers)) + 2)]


def rounds(tiles: int) -> int:
    """Return the most tiles that a multiprocessor computes, one after another."""
    return -(-tiles // PROCESSORS)


def busy(tiles: int) -> float:
    """Return the part of the multiprocessors that has a tile, on average."""
    return tiles / (rounds(tiles) * PROCESSORS)


def cubin(kernel: Kernel) -> bytes:
    """Return the kernel's machine code, compiled in about a second unless engine files hold it. Raises KernelError."""
    return machine_code(f"{kernel.NAME} {kernel!r}", partial(compile_kernel, kernel))


def compile_kernel(kernel: Kernel) -> bytes:
    """Compile with Triton and return the cubin.

    Raises KernelError if that fails, or if the kernel differs from what `cluster.py` and `launch.py` rely on, as with
    another version of Triton.
    """
    try:
        built = _build(kernel)
        different = _differences(kernel, built.asm["ptx"], built.metadata._asdict())
    except Exception as error:  # another version of Triton may raise anything
        reason = " ".join(str(error).split())[:300]
        raise KernelError(f"Triton cannot compile {kernel.NAME} ({type(error).__name__}: {reason})") from error
    if different:
        raise KernelError(f"Triton compiles {kernel.NAME} in another form than expected: {', '.join(different)}")
    return built.asm["cubin"]


def _build(kernel: Kernel) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource
    from triton.experimental.gluon.language import NVMMASharedLayout

    function, constants = kernel.function(), kernel.constants()
    names = function.arg_names
    if kernel.GLUON:
        constants["num_warps"] = kernel.tile.warps
    given = [name for name in names if name not in constants]
    maps, pointers = len(kernel.boxes), kernel.pointers
    signature: dict[str, Any] = dict.fromkeys(names, "constexpr")
    signature |= dict(zip(given[maps:], pointers, strict=True))
    for name, box, kind in zip(given[:maps], kernel.boxes, kernel.types, strict=True):
        size = BYTES[kind]
        layout = NVMMASharedLayout(swizzle_byte_width=size * box[-1], element_bitwidth=8 * size, rank=len(box))
        signature[name] = f"tensordesc<{kind}{box},{layout!r}>"
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (names.index(given[maps + first]), *rest): [["tt.divisibility", 16]] for first, *rest in _paths(pointers)
    }
    source = (GluonASTSource if kernel.GLUON else ASTSource)(function, signature, values, aligned)
    target = GPUTarget("cuda", 10 * HOPPER[0] + HOPPER[1], 32)
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.add_stages_inspection_hook = _add_clusters
        return triton.compile(source, target=target, options=kernel.options)


def _paths(pointers: Sequence[str | tuple[str, ...]]) -> list[tuple[int, ...]]:
    """Return the index of each pointer, and of those in tuples the index in the tuple."""
    one = enumerate(pointers)
    return [path for i, it in one for path in ([(i,)] if isinstance(it, str) else [(i, j) for j in range(len(it))])]


def _add_clusters(backend: Any, stages: dict[str, Any], options: Any, language: Any, capability: Any) -> None:
    """Let Triton's compilation to PTX write the cluster size. Triton calls this before a compilation."""
    make_ptx = stages["ptx"]
    stages["ptx"] = lambda source, metadata: with_cluster(make_ptx(source, metadata))


def with_cluster(ptx: str) -> str:
    """Declare the cluster size that the comment "// cluster N" gives; PTX without it stays the same."""
    if found := re.search(r"// cluster (\d+)", ptx):
        clusters = rf"\1.explicitcluster\n.reqnctapercluster {found[1]}\n"
        return re.sub(r"(\.reqntid [^\n]*\n)", clusters, ptx, count=1)
    return ptx


def _differences(kernel: Kernel, ptx: str, metadata: Mapping[str, Any]) -> list[str]:
    """Return what differs in the compiled kernel from what `cluster.py` and `launch.py` rely on."""
    cluster, threads = kernel.tile.cluster, 32 * kernel.tile.warps
    clusters = re.findall(r"\.reqnctapercluster (\d+)", ptx)
    maps = [
        {key: one[key] for key in ("swizzle", "elem_type", "block_size")} for one in metadata["tensordesc_meta"] or ()
    ]
    checks = {
        "clusters": clusters == ([str(cluster)] * (cluster > 1)),
        "the name of shared memory": re.search(r"^\.extern \.shared [^\n]* global_smem\[\];", ptx, re.M),
        "parameters": re.findall(rf"\.param \.([^\n]*?)(?: \.align 1)? {kernel.NAME}_param_\d", ptx)
        == kernel.parameters,
        "threads": f".reqntid {threads}" in ptx,
        "shared memory": metadata["shared"] <= kernel.tile.shared,
        "tensor maps": maps
        == [
            {"swizzle": SWIZZLES[BYTES[kind] * box[-1]], "elem_type": TYPES[BYTES[kind]], "block_size": box}
            for box, kind in zip(kernel.boxes, kernel.types, strict=True)
        ],
        "the wait for the previous kernel": waits_first(ptx),
        "scratch memory": not (metadata["global_scratch_size"] or metadata["profile_scratch_size"]),
    }
    return [name for name, passed in checks.items() if not passed]
