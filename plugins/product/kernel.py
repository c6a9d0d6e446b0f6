"""The kernel, in Gluon: both factors go by TMA into shared memory and from there into the tensor cores.

A program computes one part of the sums of ROWS rows and WIDTH columns of x weight^T. A step is BLOCKS times 64 of the
depth. TMA gives zeros beyond the ends of rows, columns and depth, and what is there is not stored.
`plugins/hopper/cluster.py` explains how PARTS programs add their parts.

With GATED, half of a program's columns are values and the other half their gates. With STATS, the kernel also writes
mean and squared deviations of each 64 columns of the result, and of the rest. With NORM, x is to be normalized by such
statistics, of each GROUP columns: with weights that contain the norm's, the result is (sums - mean * column_sums) /
deviation + shifts. Sums begin with what is subtracted and added here, so that only the division is left for their end.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

from plugins.hopper.cluster import end_reading, publish, sum_parts, wait_for_all, wait_for_readers
from plugins.hopper.pipeline import init_barriers, start_load, wait_for_previous, wait_loaded


@gluon.constexpr_function
def loads(blocks, halves, columns, all_columns, rows, block_bytes):
    """The loads of a step: of the rows and of the weights, or half of them values and half of them gates."""
    result = []
    for block in range(blocks):
        result.append((0, 64 * block, 0, block * block_bytes))
        for half in range(halves):
            at = block * block_bytes + (rows + half * columns) * 128
            result.append((1, 64 * block, half * all_columns, at))
    return tuple(result)


@gluon.jit
def canny2image_product(
    rows_map, weights_map, bias, residual, result, stats, column_sums, shifts, ALL_ROWS: gl.constexpr,
    DEPTH: gl.constexpr, ALL_COLUMNS: gl.constexpr, ROWS: gl.constexpr, WIDTH: gl.constexpr, BLOCKS: gl.constexpr,
    STAGES: gl.constexpr, PARTS: gl.constexpr, BARRIERS: gl.constexpr, GATED: gl.constexpr, BIAS: gl.constexpr,
    RESIDUAL: gl.constexpr, STATS: gl.constexpr, NORM: gl.constexpr, EPS: gl.constexpr, GROUP: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    HALVES: gl.constexpr = 2 if GATED else 1
    COLUMNS: gl.constexpr = WIDTH // HALVES
    STEPS: gl.constexpr = (DEPTH + 64 * BLOCKS - 1) // (64 * BLOCKS)
    STORED: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    DOWN: gl.constexpr = min(ROWS // 16, num_warps)
    PRODUCT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[DOWN, num_warps // DOWN], instr_shape=[16, WIDTH * DOWN // num_warps, 16]
    )
    # Neighbouring columns per thread: a warp writes whole rows of the tile.
    VECTOR: gl.constexpr = 8 if PARTS == 1 else 4
    LANES: gl.constexpr = min(COLUMNS // VECTOR, 32)
    ROW: gl.constexpr = gl.BlockedLayout([1, VECTOR], [32 // LANES, LANES], [num_warps, 1], [1, 0])
    # Neighbouring programs compute the parts of a tile, then other columns, then other rows.
    part = gl.program_id(0) % PARTS
    tile = gl.program_id(0) // PARTS
    ACROSS: gl.constexpr = (ALL_COLUMNS + COLUMNS - 1) // COLUMNS
    columns_at = (tile % ACROSS) * COLUMNS
    rows_at = (tile // ACROSS) * ROWS
    first = part * STEPS // PARTS
    count = (part + 1) * STEPS // PARTS - first

    # Stages consist of blocks, blocks of rows and then weights, both in units of eight rows.
    UNITS: gl.constexpr = (ROWS + WIDTH) // 8  # of a block
    memory = gl.allocate_shared_memory(gl.float16, [STAGES * BLOCKS * UNITS, 8, 64], STORED)
    LOADS: gl.constexpr = loads(BLOCKS, HALVES, COLUMNS, ALL_COLUMNS, ROWS, UNITS * 1024)
    init_barriers(part, STAGES, BARRIERS)
    wait_for_previous(part)
    for i in gl.static_range(STAGES):
        if i < count:
            start_load(i, (first + i) * BLOCKS * 64, rows_at, columns_at, "canny2image_product", LOADS,
                       BLOCKS * UNITS * 1024, BARRIERS)  # fmt: skip
    gl.thread_barrier()  # others may wait for what the first thread loads

    # What the end needs arrives while the products are computed. This program will finish SLICE rows.
    SLICE: gl.constexpr = ROWS // PARTS
    slice_at = part * SLICE
    total = gl.zeros([ROWS, WIDTH], gl.float32, layout=PRODUCT)
    column = gl.arange(0, WIDTH, layout=gl.SliceLayout(0, PRODUCT))
    of_weights = columns_at + column % COLUMNS + (column // COLUMNS) * ALL_COLUMNS
    once = (column >= 0) & (part == 0)
    if ALL_COLUMNS % COLUMNS != 0:
        once = once & (columns_at + column % COLUMNS < ALL_COLUMNS)
    if BIAS:
        total += gl.expand_dims(gl.load(bias + of_weights, mask=once, other=0.0).to(gl.float32), 0)
    if NORM:
        row = rows_at + gl.arange(0, ROWS, layout=gl.SliceLayout(1, PRODUCT))
        mean, deviation = _statistics(stats, row, ALL_ROWS, DEPTH, EPS, GROUP)
        shift = gl.load(shifts + of_weights, mask=once, other=0.0)
        column_sum = gl.load(column_sums + of_weights, mask=once, other=0.0)
        total += gl.expand_dims(deviation, 1) * gl.expand_dims(shift, 0)
        total -= gl.expand_dims(mean, 1) * gl.expand_dims(column_sum, 0)
        if PARTS == 1:
            scale = 1 / deviation
        else:
            row = rows_at + slice_at + gl.arange(0, SLICE, layout=gl.SliceLayout(1, ROW))
            mean, deviation = _statistics(stats, row, ALL_ROWS, DEPTH, EPS, GROUP)
            scale = 1 / deviation
    if RESIDUAL:
        at, inside = _places(rows_at + slice_at, columns_at, ALL_ROWS, ALL_COLUMNS, SLICE, COLUMNS, ROW)
        added = gl.load(residual + at, mask=inside, other=0.0)

    stage = 0
    phase = 0
    for i in range(count):
        wait_loaded(stage, phase, BARRIERS)
        for block in gl.static_range(BLOCKS):
            unit = (stage * BLOCKS + block) * UNITS
            rows = memory.index(unit)._reinterpret(gl.float16, [ROWS, 64], STORED)
            weights = memory.index(unit + ROWS // 8)._reinterpret(gl.float16, [WIDTH, 64], STORED)
            total = warpgroup_mma(rows, weights.permute((1, 0)), total, is_async=True)
        total = warpgroup_mma_wait(BLOCKS, deps=(total,))
        # The step before is finished; its stage takes the step STAGES later.
        if (i > 0) & (i + STAGES - 1 < count):
            gl.thread_barrier()
            before = gl.where(stage == 0, STAGES - 1, stage - 1)
            start_load(before, (first + i + STAGES - 1) * BLOCKS * 64, rows_at, columns_at, "canny2image_product",
                       LOADS, BLOCKS * UNITS * 1024, BARRIERS)  # fmt: skip
        last = stage == STAGES - 1
        phase = gl.where(last, phase ^ 1, phase)
        stage = gl.where(last, 0, stage + 1)
    total = warpgroup_mma_wait(0, deps=(total,))
    gl.thread_barrier()

    if PARTS == 1:
        if NORM:
            total *= gl.expand_dims(scale, 1)
        if GATED:
            values, gates = gl.split(gl.permute(gl.reshape(total, [ROWS, 2, COLUMNS]), (0, 2, 1)))
            finished = gl.convert_layout((values * gelu(gates)).to(gl.float16), ROW)
        elif RESIDUAL:
            finished = (gl.convert_layout(total, ROW) + added.to(gl.float32)).to(gl.float16)
        else:
            finished = gl.convert_layout(total.to(gl.float16), ROW)
    else:
        PITCH: gl.constexpr = 4 * (WIDTH + 8)  # bytes of a row of sums, with room against bank conflicts
        publish(total, _offsets(0, ROWS, WIDTH, PITCH, PRODUCT))
        wait_for_all(part, PARTS)
        at = _offsets(slice_at, SLICE, COLUMNS, PITCH, ROW)
        of_slice = sum_parts(at, PARTS, [SLICE, COLUMNS], ROW)
        if GATED:
            gates = sum_parts(at + COLUMNS * 4, PARTS, [SLICE, COLUMNS], ROW)
        end_reading(part)
        if NORM:
            of_slice *= gl.expand_dims(scale, 1)
        if GATED:
            of_slice *= gelu(gates * gl.expand_dims(scale, 1) if NORM else gates)
        if RESIDUAL:
            of_slice += added.to(gl.float32)
        finished = of_slice.to(gl.float16)
    at, inside = _places(rows_at + slice_at, columns_at, ALL_ROWS, ALL_COLUMNS, SLICE, COLUMNS, ROW)
    gl.store(result + at, finished, mask=inside)
    if STATS:
        row = rows_at + slice_at + gl.arange(0, SLICE, layout=gl.SliceLayout(1, ROW))
        _store_statistics(finished.to(gl.float32), stats, row, columns_at, ALL_ROWS, ALL_COLUMNS, ROW)
    if PARTS > 1:
        wait_for_readers(part)


@gluon.jit
def _statistics(
    stats, row, ALL_ROWS: gl.constexpr, DEPTH: gl.constexpr, EPS: gl.constexpr, GROUP: gl.constexpr
):  # fmt: skip
    # Returns mean and standard deviation of rows from those of GROUP columns each, and of the rest. Rows beyond the end
    # repeat the last.
    GROUPS: gl.constexpr = (DEPTH + GROUP - 1) // GROUP
    address = stats.to(gl.int64) + gl.minimum(row, ALL_ROWS - 1).to(gl.int64) * (GROUPS * 8)
    if GROUPS % 2 == 0:  # loads of two groups are aligned
        mean, squares, other, others_squares = _load_pairs(address)
        mean, squares = _merge(mean, squares, other, others_squares, 1, DEPTH, GROUP)
        for i in gl.static_range(2, GROUPS, 2):
            other, others_squares, third, thirds_squares = _load_pairs(address + 8 * i)
            mean, squares = _merge(mean, squares, other, others_squares, i, DEPTH, GROUP)
            mean, squares = _merge(mean, squares, third, thirds_squares, i + 1, DEPTH, GROUP)
    else:
        mean, squares = _load_pair(address)
        for i in gl.static_range(1, GROUPS):
            other, others_squares = _load_pair(address + 8 * i)
            mean, squares = _merge(mean, squares, other, others_squares, i, DEPTH, GROUP)
    return mean, gl.sqrt(squares * (1 / DEPTH) + EPS)


@gluon.jit
def _load_pair(address):
    return gl.inline_asm_elementwise(
        "ld.global.v2.f32 {$0, $1}, [$2];", "=f,=f,l", [address], dtype=(gl.float32, gl.float32), is_pure=True, pack=1
    )


@gluon.jit
def _load_pairs(address):
    return gl.inline_asm_elementwise(
        "ld.global.v4.f32 {$0, $1, $2, $3}, [$4];", "=f,=f,=f,=f,l", [address],
        dtype=(gl.float32, gl.float32, gl.float32, gl.float32), is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit
def _merge(mean, squares, other, others_squares, BEFORE: gl.constexpr, DEPTH: gl.constexpr, GROUP: gl.constexpr):
    # Adds statistics of a group to those of the groups before it (Chan, Golub and LeVeque 1979).
    COUNT: gl.constexpr = GROUP * BEFORE
    ADDED: gl.constexpr = min(GROUP, DEPTH - COUNT)
    difference = other - mean
    mean += difference * (ADDED / (COUNT + ADDED))
    squares += others_squares + difference * difference * (COUNT * ADDED / (COUNT + ADDED))
    return mean, squares


@gluon.jit
def _store_statistics(
    values, stats, row, columns_at, ALL_ROWS: gl.constexpr, ALL_COLUMNS: gl.constexpr, ROW: gl.constexpr
):
    GROUPS: gl.constexpr = (ALL_COLUMNS + 63) // 64
    if ALL_COLUMNS % 64 == 0:
        mean = gl.sum(values, 1) * (1 / 64)
        centred = values - gl.expand_dims(mean, 1)
    else:  # values beyond the end are zeros
        mean = gl.sum(values, 1) / gl.minimum(ALL_COLUMNS - columns_at, 64)
        column = columns_at + gl.arange(0, 64, layout=gl.SliceLayout(0, ROW))
        inside = gl.expand_dims(column < ALL_COLUMNS, 0)
        centred = gl.where(inside, values - gl.expand_dims(mean, 1), 0.0)
    at = (row * GROUPS + columns_at // 64) * 2
    gl.store(stats + at, mean, mask=row < ALL_ROWS)
    gl.store(stats + at + 1, gl.sum(centred * centred, 1), mask=row < ALL_ROWS)


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
def _offsets(first, ROWS: gl.constexpr, COLUMNS: gl.constexpr, PITCH: gl.constexpr, LAYOUT: gl.constexpr):
    # Returns where sums are in shared memory, in bytes.
    row = first + gl.arange(0, ROWS, layout=gl.SliceLayout(1, LAYOUT))
    column = gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, LAYOUT))
    return gl.expand_dims(row * PITCH, 1) + gl.expand_dims(column * 4, 0)


@gluon.jit
def gelu(x):
    # x times the normal distribution function, by the logistic function of a polynomial: absolute errors of up to 4e-6.
    square = x * x
    series = -2.3020438 + square * (
        -0.10522998 + square * (3.6204825e-4 + square * (8.790968e-5 + square * -3.2103725e-6))
    )
    reciprocal = gl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [1 + gl.exp2(x * series)], dtype=gl.float32, is_pure=True, pack=1
    )
    return x * reciprocal
