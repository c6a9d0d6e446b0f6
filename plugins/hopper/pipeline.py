"""Loads of tiles by TMA into stages of shared memory, in PTX.

Gluon's own loads wait for all threads of a program before each. Here one thread starts all loads of a step. SHARE
programs of a cluster that need the same tile load a part of it each, for all of them (multicast): it leaves the cache
once. A program then loads into a stage again when all of them have read it.

Shared memory begins with the stages. After them, at BARRIERS bytes, each stage has a barrier that counts what was
loaded; then follow, if SHARE > 1, those that count the programs that have read a stage. Stage and step are numbers.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

# One thread of the first warp: predicate p. Addresses: s.
ONE_THREAD = (
    "{ .reg .pred p, q; .reg .b32 s, b, d, e, r; .reg .b64 m; .reg .b16 h; mov.u32 r, %tid.x; setp.lt.u32 q, r, 32; "
    "elect.sync _|p, 0xffffffff; and.pred p, p, q; mov.u32 s, global_smem; "
)
END = "mov.u32 $0, 0; }"


@gluon.constexpr_function
def _init(stages, share, barriers):
    inits = [f"@p mbarrier.init.shared::cta.b64 [s+{barriers + 8 * i}], 1; " for i in range(stages)]
    if share > 1:
        inits += [
            f"@p mbarrier.init.shared::cta.b64 [s+{barriers + 8 * (stages + i)}], {share}; " for i in range(stages)
        ]
    fence = "fence.mbarrier_init.release.cluster; " if share > 1 else "fence.proxy.async.shared::cta; "
    return ONE_THREAD + "".join(inits) + fence + END


@gluon.constexpr_function
def _wait(barriers):
    return (
        f"{{ .reg .pred p; .reg .b32 s; mov.u32 s, global_smem; add.u32 s, s, $1;\nagain:\n"
        f"mbarrier.try_wait.parity.shared::cta.b64 p, [s+{barriers}], $2;\n@!p bra.uni again;\n{END}"
    )


@gluon.constexpr_function
def _release(stages, share, barriers):
    # $1: 8 * stage, $2: the parity to wait for, $3: the first program of those that share. All lanes of the first warp
    # wait, and SHARE of them tell the other programs before.
    return (
        "{ .reg .pred p, q; .reg .b32 s, l, r; mov.u32 l, %tid.x; mov.u32 s, global_smem; add.u32 s, s, $1; "
        f"add.u32 s, s, {barriers + 8 * stages}; setp.lt.u32 p, l, {share}; add.u32 r, l, $3;\n"
        "@p mapa.shared::cluster.u32 r, s, r;\n@p mbarrier.arrive.shared::cluster.b64 _, [r];\n"
        "setp.ge.u32 q, l, 32;\n@q bra done;\n"
        "again:\nmbarrier.try_wait.parity.shared::cta.b64 p, [s], $2;\n@!p bra again;\ndone:\n"
        f"{END}"
    )


@gluon.constexpr_function
def _load(kernel, copies, count, barriers):
    # $1: 8 * stage, $2: the stage's address, $3: the depth, $4: the programs that share (bits); $5 and $6: the first row
    # of the first and of the second factor, $7 and $8: where these begin in the stage.
    text = ONE_THREAD + f"add.u32 b, s, $1; add.u32 b, b, {barriers}; add.u32 s, s, $2; cvt.u16.u32 h, $4; "
    text += f"@p mbarrier.arrive.expect_tx.shared::cta.b64 _, [b], {count}; "
    for second, shared, depth, row, address in copies:
        to, mask = (".multicast::cluster", ", h") if shared else ("", "")
        text += (
            f"mov.b64 m, {kernel}_param_{5 * second}; cvta.param.u64 m, m; add.u32 e, s, ${7 + second}; "
            f"add.u32 e, e, {address}; add.u32 d, $3, {depth}; add.u32 r, ${5 + second}, {row}; "
            "@p cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
            f"{to} [e], [m, {{d, r}}], [b]{mask}; "
        )
    return text + END


@gluon.jit
def init_barriers(part, STAGES: gl.constexpr, SHARE: gl.constexpr, BARRIERS: gl.constexpr):
    INIT: gl.constexpr = _init(STAGES, SHARE, BARRIERS)
    gl.inline_asm_elementwise(INIT, "=r,r", [part], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def wait_loaded(stage, phase, BARRIERS: gl.constexpr):
    WAIT: gl.constexpr = _wait(BARRIERS)
    gl.inline_asm_elementwise(WAIT, "=r,r,r", [stage * 8, phase], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def wait_read(stage, phase, first, STAGES: gl.constexpr, SHARE: gl.constexpr, BARRIERS: gl.constexpr):
    # Tells the programs that share that this one has read a stage, and lets the first warp wait for them.
    RELEASE: gl.constexpr = _release(STAGES, SHARE, BARRIERS)
    gl.inline_asm_elementwise(RELEASE, "=r,r,r,r", [stage * 8, phase, first], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def start_load(
    stage, address, depth, programs, first_row, second_row, first_place, second_place, KERNEL: gl.constexpr,
    COPIES: gl.constexpr, COUNT: gl.constexpr, BARRIERS: gl.constexpr,
):  # fmt: skip
    # Starts the loads of a step, of COUNT bytes. COPIES: for each whether it is of the second factor, whether it is
    # for all programs that share, and what is added to the depth, to the row and to the address.
    LOAD: gl.constexpr = _load(KERNEL, COPIES, COUNT, BARRIERS)
    gl.inline_asm_elementwise(
        LOAD, "=r,r,r,r,r,r,r,r,r",
        [stage * 8, address, depth, programs, first_row, second_row, first_place, second_place],
        dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip
