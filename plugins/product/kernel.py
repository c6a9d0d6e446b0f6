"""The kernel, in Gluon: both factors go by TMA into shared memory and from there into the tensor cores.

A program computes one part of the sums of ROWS rows and WIDTH columns of x weight^T. A step is BLOCKS times 64 of the
depth. TMA gives zeros for rows beyond the end. `plugins/hopper/cluster.py` explains how PARTS programs add their parts.

With GATED, half of a program's columns are values and the other half their gates.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

from plugins.hopper.cluster import meet, power_of_two, publish, sum_parts, wait_for_all
from plugins.hopper.pipeline import init_barriers, start_load, wait_loaded, wait_read


@gluon.constexpr_function
def copies(blocks, halves, columns, all_columns, rows_shared, weights_shared, block_bytes):
    """The loads of a step: of the rows and of the weights, or half of them values and half of them gates."""
    result = []
    for block in range(blocks):
        result.append((0, rows_shared, 64 * block, 0, block * block_bytes))
        for half in range(halves):
            at = block * block_bytes + half * columns * 128
            result.append((1, weights_shared, 64 * block, half * all_columns, at))
    return tuple(result)


@gluon.jit
def hopper_product(
    rows_map, weights_map, bias, residual, result, ALL_ROWS: gl.constexpr, DEPTH: gl.constexpr,
    ALL_COLUMNS: gl.constexpr, BANDS: gl.constexpr, BAND: gl.constexpr, WIDTH: gl.constexpr, BLOCKS: gl.constexpr,
    STAGES: gl.constexpr, PARTS: gl.constexpr, SHARE: gl.constexpr, SHARE_ROWS: gl.constexpr, BARRIERS: gl.constexpr,
    GATED: gl.constexpr, BIAS: gl.constexpr, RESIDUAL: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    HALVES: gl.constexpr = 2 if GATED else 1
    COLUMNS: gl.constexpr = WIDTH // HALVES
    ROWS: gl.constexpr = BANDS * BAND
    STEPS: gl.constexpr = (DEPTH + 64 * BLOCKS - 1) // (64 * BLOCKS)
    STORED: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    DOWN: gl.constexpr = BAND // 16 if BAND // 16 < num_warps else num_warps
    PRODUCT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[DOWN, num_warps // DOWN], instr_shape=[16, WIDTH * DOWN // num_warps, 16]
    )
    # A cluster's programs: those that share an operand are neighbours, then come the parts of the sums.
    program = gl.program_id(0) % (PARTS * SHARE)
    cluster = gl.program_id(0) // (PARTS * SHARE)
    part = program // SHARE
    member = program % SHARE
    ACROSS: gl.constexpr = ALL_COLUMNS // COLUMNS // (SHARE if SHARE_ROWS else 1)
    if SHARE_ROWS:
        columns_at = ((cluster % ACROSS) * SHARE + member) * COLUMNS
        rows_at = (cluster // ACROSS) * ROWS
        first_row = rows_at + member * (ROWS // SHARE)
        second_row = columns_at
    else:
        columns_at = (cluster % ACROSS) * COLUMNS
        rows_at = ((cluster // ACROSS) * SHARE + member) * ROWS
        first_row = rows_at
        second_row = columns_at + member * (COLUMNS // SHARE)
    first = part * STEPS // PARTS
    count = (part + 1) * STEPS // PARTS - first

    # Stages consist of blocks, blocks of rows and then weights, both in units of eight rows.
    ROW_UNITS: gl.constexpr = ROWS // 8
    UNITS: gl.constexpr = ROW_UNITS + WIDTH // 8  # of a block
    memory = gl.allocate_shared_memory(gl.float16, [STAGES * BLOCKS * UNITS, 8, 64], STORED)
    COPIES: gl.constexpr = copies(
        BLOCKS, HALVES, COLUMNS, ALL_COLUMNS, SHARE > 1 and SHARE_ROWS, SHARE > 1 and not SHARE_ROWS, UNITS * 1024
    )
    first_place = member * (ROWS // SHARE * 128 if SHARE_ROWS else 0)
    second_place = ROWS * 128 + member * (0 if SHARE_ROWS else COLUMNS // SHARE * 128)
    programs = ((1 << SHARE) - 1) << (part * SHARE)
    init_barriers(part, STAGES, SHARE, BARRIERS)
    if SHARE > 1:
        meet(program, PARTS * SHARE)
    for i in gl.static_range(STAGES):
        if i < count:
            start_load(i, i * BLOCKS * UNITS * 1024, (first + i) * BLOCKS * 64, programs, first_row, second_row,
                       first_place, second_place, "hopper_product", COPIES, BLOCKS * UNITS * 1024, BARRIERS)  # fmt: skip
    gl.thread_barrier()
    sums = gl.zeros([BAND, WIDTH], gl.float32, layout=PRODUCT)
    if BIAS:
        column = gl.arange(0, WIDTH, layout=gl.SliceLayout(0, PRODUCT))
        at = columns_at + column % COLUMNS + (column // COLUMNS) * ALL_COLUMNS
        sums += gl.expand_dims(gl.load(bias + at, mask=(column >= 0) & (part == 0), other=0.0).to(gl.float32), 0)
    if BANDS == 3:
        second = sums
        third = sums
    # Neighbouring columns per thread: a warp writes whole rows of the tile.
    VECTOR: gl.constexpr = 8 if PARTS == 1 else 4
    LANES: gl.constexpr = COLUMNS // VECTOR if COLUMNS // VECTOR < 32 else 32
    ROW: gl.constexpr = gl.BlockedLayout([1, VECTOR], [32 // LANES, LANES], [num_warps, 1], [1, 0])
    EARLY: gl.constexpr = RESIDUAL and PARTS == 1 and BANDS == 1
    added = sums
    if EARLY:  # arrives while the products are computed
        added = _load_residual(residual, rows_at, columns_at, ALL_ROWS, ALL_COLUMNS, BAND, COLUMNS, ROW)
    stage = 0
    phase = 0
    for i in range(count):
        wait_loaded(stage, phase, BARRIERS)
        for block in gl.static_range(BLOCKS):
            unit = (stage * BLOCKS + block) * UNITS
            view = memory.index(unit + ROW_UNITS)._reinterpret(gl.float16, [WIDTH, 64], STORED).permute((1, 0))
            band = memory.index(unit)._reinterpret(gl.float16, [BAND, 64], STORED)
            sums = warpgroup_mma(band, view, sums, is_async=True)
            if BANDS == 3:
                band = memory.index(unit + BAND // 8)._reinterpret(gl.float16, [BAND, 64], STORED)
                second = warpgroup_mma(band, view, second, is_async=True)
                band = memory.index(unit + 2 * BAND // 8)._reinterpret(gl.float16, [BAND, 64], STORED)
                third = warpgroup_mma(band, view, third, is_async=True)
        if BANDS == 3:
            sums, second, third = warpgroup_mma_wait(3 * BLOCKS, deps=(sums, second, third))
        else:
            sums = warpgroup_mma_wait(BLOCKS, deps=(sums,))
        # The step before is finished; its stage takes the step STAGES later.
        before = gl.where(stage == 0, STAGES - 1, stage - 1)
        if (i > 0) & (i + STAGES - 1 < count):
            gl.thread_barrier()
            if SHARE > 1:
                wait_read(before, gl.where(stage == 0, phase ^ 1, phase), part * SHARE, STAGES, SHARE, BARRIERS)
            start_load(before, before * (BLOCKS * UNITS * 1024), (first + i + STAGES - 1) * BLOCKS * 64, programs,
                       first_row, second_row, first_place, second_place, "hopper_product", COPIES,
                       BLOCKS * UNITS * 1024, BARRIERS)  # fmt: skip
        last = stage == STAGES - 1
        phase = gl.where(last, phase ^ 1, phase)
        stage = gl.where(last, 0, stage + 1)
    if BANDS == 3:
        sums, second, third = warpgroup_mma_wait(0, deps=(sums, second, third))
    else:
        sums = warpgroup_mma_wait(0, deps=(sums,))
    gl.thread_barrier()

    if PARTS == 1:
        _finish(sums, added, residual, result, rows_at, columns_at, ALL_ROWS, ALL_COLUMNS, BAND, COLUMNS, GATED,
                RESIDUAL, EARLY, ROW)  # fmt: skip
        if BANDS == 3:
            _finish(second, added, residual, result, rows_at + BAND, columns_at, ALL_ROWS, ALL_COLUMNS, BAND, COLUMNS,
                    GATED, RESIDUAL, EARLY, ROW)  # fmt: skip
            _finish(third, added, residual, result, rows_at + 2 * BAND, columns_at, ALL_ROWS, ALL_COLUMNS, BAND,
                    COLUMNS, GATED, RESIDUAL, EARLY, ROW)  # fmt: skip
    else:
        PITCH: gl.constexpr = 4 * (WIDTH + 8)  # bytes of a row of sums, with room against bank conflicts
        at = _offsets(0, BAND, WIDTH, PITCH, PRODUCT)
        publish(sums, at)
        if BANDS == 3:
            publish(second, at + BAND * PITCH)
            publish(third, at + 2 * BAND * PITCH)
        wait_for_all(program, PARTS * SHARE)
        SLICES: gl.constexpr = power_of_two(PARTS)
        for i in gl.static_range(BANDS):
            for more in gl.static_range((SLICES + PARTS - 1) // PARTS):
                number = part + more * PARTS
                if number < SLICES:
                    _finish_slice(residual, result, rows_at, i * BAND + number * (BAND // SLICES), columns_at, member,
                                  ALL_ROWS, ALL_COLUMNS, BAND // SLICES, COLUMNS, SHARE, PARTS, PITCH, GATED,
                                  RESIDUAL, ROW)  # fmt: skip
    if PARTS * SHARE > 1:
        meet(program, PARTS * SHARE)  # none may end while others use its shared memory


@gluon.jit
def _finish(
    sums, added, residual, result, rows_at, columns_at, ALL_ROWS: gl.constexpr, ALL_COLUMNS: gl.constexpr,
    ROWS: gl.constexpr, COLUMNS: gl.constexpr, GATED: gl.constexpr, RESIDUAL: gl.constexpr, EARLY: gl.constexpr,
    ROW: gl.constexpr,
):  # fmt: skip
    # Writes the results of sums that were not split.
    if GATED:
        values, gates = gl.split(gl.permute(gl.reshape(sums, [ROWS, 2, COLUMNS]), (0, 2, 1)))
        total = gl.convert_layout((values * gelu(gates)).to(gl.float16), ROW)
    elif RESIDUAL:
        if not EARLY:
            added = _load_residual(residual, rows_at, columns_at, ALL_ROWS, ALL_COLUMNS, ROWS, COLUMNS, ROW)
        total = gl.convert_layout(sums, ROW) + added.to(gl.float32)
    else:
        total = gl.convert_layout(sums.to(gl.float16), ROW)
    _store(total, result, rows_at, columns_at, ALL_ROWS, ALL_COLUMNS, ROWS, COLUMNS, ROW)


@gluon.jit
def _finish_slice(
    residual, result, rows_at, slice_at, columns_at, member, ALL_ROWS: gl.constexpr, ALL_COLUMNS: gl.constexpr,
    SLICE: gl.constexpr, COLUMNS: gl.constexpr, SHARE: gl.constexpr, PARTS: gl.constexpr, PITCH: gl.constexpr,
    GATED: gl.constexpr, RESIDUAL: gl.constexpr, ROW: gl.constexpr,
):  # fmt: skip
    # Adds the parts of SLICE rows, and writes the results.
    if RESIDUAL:  # arrives while the parts do
        added = _load_residual(residual, rows_at + slice_at, columns_at, ALL_ROWS, ALL_COLUMNS, SLICE, COLUMNS, ROW)
    at = _offsets(slice_at, SLICE, COLUMNS, PITCH, ROW)
    total = sum_parts(at, member, SHARE, PARTS, [SLICE, COLUMNS], ROW)
    if GATED:
        total *= gelu(sum_parts(at + COLUMNS * 4, member, SHARE, PARTS, [SLICE, COLUMNS], ROW))
    if RESIDUAL:
        total += added.to(gl.float32)
    _store(total, result, rows_at + slice_at, columns_at, ALL_ROWS, ALL_COLUMNS, SLICE, COLUMNS, ROW)


@gluon.jit
def _offsets(first, ROWS: gl.constexpr, COLUMNS: gl.constexpr, PITCH: gl.constexpr, LAYOUT: gl.constexpr):
    # Returns where sums are in shared memory, in bytes.
    row = first + gl.arange(0, ROWS, layout=gl.SliceLayout(1, LAYOUT))
    column = gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, LAYOUT))
    return gl.expand_dims(row * PITCH, 1) + gl.expand_dims(column * 4, 0)


@gluon.jit
def _places(
    rows_at, columns_at, ALL_ROWS: gl.constexpr, ALL_COLUMNS: gl.constexpr, ROWS: gl.constexpr, COLUMNS: gl.constexpr,
    ROW: gl.constexpr,
):  # fmt: skip
    # Returns the offsets of a tile in the result, and which are inside.
    row = gl.expand_dims(rows_at + gl.arange(0, ROWS, layout=gl.SliceLayout(1, ROW)), 1)
    column = gl.expand_dims(columns_at + gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, ROW)), 0)
    return row * ALL_COLUMNS + column, (row < ALL_ROWS) & (column < ALL_COLUMNS)


@gluon.jit
def _load_residual(
    residual, rows_at, columns_at, ALL_ROWS: gl.constexpr, ALL_COLUMNS: gl.constexpr, ROWS: gl.constexpr,
    COLUMNS: gl.constexpr, ROW: gl.constexpr,
):  # fmt: skip
    at, inside = _places(rows_at, columns_at, ALL_ROWS, ALL_COLUMNS, ROWS, COLUMNS, ROW)
    return gl.load(residual + at, mask=inside, other=0.0)


@gluon.jit
def _store(
    total, result, rows_at, columns_at, ALL_ROWS: gl.constexpr, ALL_COLUMNS: gl.constexpr, ROWS: gl.constexpr,
    COLUMNS: gl.constexpr, ROW: gl.constexpr,
):  # fmt: skip
    at, inside = _places(rows_at, columns_at, ALL_ROWS, ALL_COLUMNS, ROWS, COLUMNS, ROW)
    gl.store(result + at, total.to(gl.float16), mask=inside)


@gluon.jit
def gelu(x):
    # x times the normal distribution function, with erfc by Abramowitz and Stegun 7.1.26: errors of 1.5e-7.
    z = gl.abs(x) * 0.7071067811865476  # 1 / sqrt(2)
    t = gl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [1 + 0.3275911 * z], dtype=gl.float32, is_pure=True, pack=1
    )
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * series * gl.exp2(-1.4426950408889634 * z * z)  # log2(e)
    return x * gl.where(x > 0, 1 - tail, tail)
