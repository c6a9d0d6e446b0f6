"""Loads of tiles by TMA into stages of shared memory, in PTX.

Gluon's own loads wait for all threads of a program before each. Here one thread starts all loads of a step.

Shared memory begins with the stages. At BARRIERS bytes, after them, each stage has a barrier that counts the bytes
loaded.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

# One thread of the first warp has predicate p. s: the start of shared memory.
ONE_THREAD = (
    "{ .reg .pred p, q; .reg .b32 s, b, d, e, r; .reg .b64 m; mov.u32 r, %tid.x; setp.lt.u32 q, r, 32; "
    "elect.sync _|p, 0xffffffff; and.pred p, p, q; mov.u32 s, global_smem; "
)
END = "mov.u32 $0, 0; }"


@gluon.constexpr_function
def _init(stages, barriers):
    inits = [f"@p mbarrier.init.shared::cta.b64 [s+{barriers + 8 * i}], 1; " for i in range(stages)]
    return ONE_THREAD + "".join(inits) + "fence.proxy.async.shared::cta; " + END


@gluon.constexpr_function
def _wait(barriers):
    return (
        "{ .reg .pred p; .reg .b32 s; mov.u32 s, global_smem; add.u32 s, s, $1;\nagain:\n"
        f"mbarrier.try_wait.parity.shared::cta.b64 p, [s+{barriers}], $2;\n@!p bra.uni again;\n{END}"
    )


@gluon.constexpr_function
def _load(kernel, copies, count, barriers):
    # $1: 8 * stage, $2: where the stage begins, $3: the depth, $4 and $5: the first row of either factor.
    text = ONE_THREAD + f"add.u32 b, s, $1; add.u32 b, b, {barriers}; add.u32 s, s, $2; "
    text += f"@p mbarrier.arrive.expect_tx.shared::cta.b64 _, [b], {count}; "
    for second, depth, row, address in copies:
        text += (
            f"mov.b64 m, {kernel}_param_{5 * second}; cvta.param.u64 m, m; add.u32 e, s, {address}; "
            f"add.u32 d, $3, {depth}; add.u32 r, ${4 + second}, {row}; "
            "@p cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [e], [m, {d, r}], [b]; "
        )
    return text + END


@gluon.jit
def init_barriers(program, STAGES: gl.constexpr, BARRIERS: gl.constexpr):
    INIT: gl.constexpr = _init(STAGES, BARRIERS)
    gl.inline_asm_elementwise(INIT, "=r,r", [program], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def wait_for_previous(program):
    # Waits for the previous kernel: see runtime/early_launch.py.
    gl.inline_asm_elementwise(
        "griddepcontrol.wait; mov.u32 $0, 0;", "=r,r", [program], dtype=gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def wait_loaded(stage, phase, BARRIERS: gl.constexpr):
    WAIT: gl.constexpr = _wait(BARRIERS)
    gl.inline_asm_elementwise(WAIT, "=r,r,r", [stage * 8, phase], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def start_load(
    stage, depth, first_row, second_row, KERNEL: gl.constexpr, COPIES: gl.constexpr, COUNT: gl.constexpr,
    BARRIERS: gl.constexpr,
):  # fmt: skip
    # Starts the loads of a step of two factors, the first two tensor maps: COUNT bytes. COPIES: for each load whether
    # it is of the second factor, and what is added to the depth, to the row and to the address.
    LOAD: gl.constexpr = _load(KERNEL, COPIES, COUNT, BARRIERS)
    gl.inline_asm_elementwise(
        LOAD, "=r,r,r,r,r,r", [stage * 8, stage * COUNT, depth, first_row, second_row], dtype=gl.int32, is_pure=False,
        pack=1,
    )  # fmt: skip
