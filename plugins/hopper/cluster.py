"""Programs that split a sum: each writes its part into its shared memory, and adds all parts of a slice.

The PARTS programs of a tile are a cluster. The GPU starts a cluster only when all of its programs have room (CUDA C++
Programming Guide, Thread Block Clusters), and programs wait only for those of their own cluster. So kernels on
different streams cannot block each other. The order of a sum does not depend on timing.

Gluon has no such clusters. Therefore inline PTX accesses shared memory through `global_smem`, the symbol with which
Triton's PTX names it, and `compile.py` writes the cluster's size into the PTX, which "// cluster" marks.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.constexpr_function
def _barrier(programs):
    return (
        f"// cluster {programs}\n"
        "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned; mov.u32 $0, 0;"
    )


@gluon.jit
def publish(sums, at):
    # Writes float32 sums into this program's shared memory, `at` bytes from its start.
    gl.inline_asm_elementwise(
        "{ .reg .b32 a; mov.u32 a, global_smem; add.u32 a, a, $1; st.shared.f32 [a], $2; mov.u32 $0, 0; }",
        "=r,r,f", [at, sums], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def wait_for_all(part, PARTS: gl.constexpr):
    # Waits until all programs of the cluster have published their parts.
    BARRIER: gl.constexpr = _barrier(PARTS)
    gl.inline_asm_elementwise(BARRIER, "=r,r", [part], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def sum_parts(at, PARTS: gl.constexpr, SHAPE: gl.constexpr, LAYOUT: gl.constexpr):
    # Adds the programs' float32 values, `at` bytes from the start of their shared memories, in order. Of a thread's
    # values, each four are neighbours in memory.
    total = gl.zeros(SHAPE, gl.float32, layout=LAYOUT)
    for number in gl.static_range(PARTS):
        program = gl.full(SHAPE, number, gl.int32, layout=LAYOUT)
        total += gl.inline_asm_elementwise(
            "{ .reg .b32 a, b; mov.u32 a, global_smem; add.u32 a, a, $4; mapa.shared::cluster.u32 b, a, $8; "
            "ld.shared::cluster.v4.f32 {$0, $1, $2, $3}, [b]; }", "=f,=f,=f,=f,r,r,r,r,r,r,r,r",
            [at, program], dtype=gl.float32, is_pure=False, pack=4,
        )  # fmt: skip
    return total


@gluon.jit
def end_reading(part):
    # Tells the other programs that this one has read all it needs. Without the release, reads could still be under way
    # where their values are not used, as beyond the end of a tensor.
    gl.inline_asm_elementwise(
        "barrier.cluster.arrive.release.aligned; mov.u32 $0, 0;", "=r,r", [part], dtype=gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def wait_for_readers(part):
    # None may end while others read its shared memory.
    gl.inline_asm_elementwise(
        "barrier.cluster.wait.acquire.aligned; mov.u32 $0, 0;", "=r,r", [part], dtype=gl.int32, is_pure=False, pack=1
    )
