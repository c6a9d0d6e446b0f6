"""Compiles the kernel with Triton."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from plugins.convolution.tiles import STEP, Sizes, Tile, choose
from plugins.group_norm.compile import KernelError
from plugins.machine_code import machine_code
from plugins.waiting import waits_first

NAME = "canny2image_convolution"  # the kernel's function
ARCHITECTURE = 90
SWIZZLE_128, FLOAT16 = 3, 6  # CUtensorMapSwizzle and CUtensorMapDataType of the CUDA driver


@dataclass(frozen=True)
class Kernel:
    """What a kernel is compiled for."""

    sizes: Sizes
    tile: Tile
    bias: bool
    residual: bool

    @property
    def boxes(self) -> list[list[int]]:
        """The shapes of TMA's loads: of weights, of as many rows of pixels as a tile has, and of the two below."""
        pixels = [self.tile.pictures, self.tile.columns, STEP]
        return [[self.tile.outs, STEP], [self.tile.rows, *pixels], [2, *pixels]]

    @property
    def parameters(self) -> list[str]:
        """The PTX types of the parameters: maps with shapes and strides, three tensors, and two that Triton adds."""
        maps = [("align 64 .b8", *["u32"] * len(box), *["u64"] * len(box)) for box in self.boxes]
        return [*(kind for one in maps for kind in one), *["u64 .ptr .global"] * 5]

    def constants(self) -> dict[str, int | bool]:
        """The values of the function's constexpr parameters."""
        sizes, tile = self.sizes, self.tile
        return {
            "N": sizes.n, "H": sizes.h, "W": sizes.w, "CHANNELS": sizes.channels, "ALL_OUTS": sizes.outs,
            "ROWS": tile.rows, "PICTURES": tile.pictures, "COLUMNS": tile.columns, "OUTS": tile.outs,
            "STAGES": tile.stages, "PARTS": tile.parts, "BIAS": self.bias, "RESIDUAL": self.residual,
            "num_warps": tile.warps,
        }  # fmt: skip


def cubin(kernel: Kernel) -> bytes:
    """Return the kernel's machine code, compiled in about a second unless engine files hold it. Raises KernelError."""
    return machine_code(f"{NAME} {kernel}", partial(compile_kernel, kernel))


def check_compiler() -> None:
    """Compile a small kernel, unless engine files hold it. Raises KernelError if this Triton cannot compile it."""
    sizes = Sizes(1, 4, 8, 2 * STEP, STEP)
    cubin(Kernel(sizes, choose(sizes), bias=True, residual=True))


def compile_kernel(kernel: Kernel) -> bytes:
    """Compile with Triton and return the cubin.

    Raises KernelError if that fails, or if the kernel differs from what `kernel.py` and `launch.py` rely on, as with
    another version of Triton.
    """
    try:
        built = _build(kernel)
        different = _differences(kernel, built.asm["ptx"], built.metadata._asdict())
    except Exception as error:  # another version of Triton may raise anything
        reason = " ".join(str(error).split())[:300]
        raise KernelError(f"Triton cannot compile {NAME} ({type(error).__name__}: {reason})") from error
    if different:
        raise KernelError(f"Triton compiles {NAME} in another form than expected: {', '.join(different)}")
    return built.asm["cubin"]


def _build(kernel: Kernel) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.experimental.gluon._runtime import GluonASTSource
    from triton.experimental.gluon.language import NVMMASharedLayout

    from plugins.convolution.kernel import canny2image_convolution

    names = canny2image_convolution.arg_names
    constants = kernel.constants()
    signature = {name: "constexpr" if name in constants else "*fp16" for name in names}
    for name, box in zip(names[:3], kernel.boxes, strict=True):
        layout = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=len(box))
        signature[name] = f"tensordesc<fp16{box},{layout!r}>"
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(index,): [["tt.divisibility", 16]] for index in range(3, 6)}
    source = GluonASTSource(canny2image_convolution, signature, values, aligned)
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.add_stages_inspection_hook = _add_clusters
        return triton.compile(
            source, target=GPUTarget("cuda", ARCHITECTURE, 32), options={"num_warps": kernel.tile.warps}
        )


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
    """Return what differs in the compiled kernel from what `kernel.py` and `launch.py` rely on."""
    parts, threads = kernel.tile.parts, 32 * kernel.tile.warps
    clusters = re.findall(r"\.reqnctapercluster (\d+)", ptx)
    maps = [
        {key: one[key] for key in ("swizzle", "elem_type", "block_size")} for one in metadata["tensordesc_meta"] or ()
    ]
    checks = {
        "clusters": clusters == ([str(parts)] if parts > 1 else []),
        "the name of shared memory": re.search(r"^\.extern \.shared [^\n]* global_smem\[\];", ptx, re.M),
        "parameters": re.findall(rf"\.param \.([^\n]*?)(?: \.align 1)? {NAME}_param_\d", ptx) == kernel.parameters,
        "the wait for the previous kernel": waits_first(ptx),
        "threads": f".reqntid {threads}" in ptx,
        "shared memory": metadata["shared"] <= kernel.tile.shared,
        "tensor maps": maps
        == [{"swizzle": SWIZZLE_128, "elem_type": FLOAT16, "block_size": box} for box in kernel.boxes],
        "scratch memory": not (metadata["global_scratch_size"] or metadata["profile_scratch_size"]),
    }
    return [name for name, passed in checks.items() if not passed]
