"""The kernel, in Gluon: inputs go by TMA into shared memory and from there into the tensor cores.

A program computes one part of the sums of OUTS output channels of ROWS x PICTURES x COLUMNS pixels. A step is 64 input
channels of one column of the 3x3 kernel: ROWS + 2 rows of pixels, loaded once, serve the kernel's three rows as three
views of ROWS rows each. TMA gives zeros for pixels outside the maps. `plugins/hopper/cluster.py` explains how PARTS
programs add their parts.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from plugins.hopper.cluster import end_reading, publish, sum_parts, wait_for_all, wait_for_readers
from plugins.hopper.pipeline import wait_for_previous


@gluon.jit
def canny2image_convolution(
    weights_map, pixels_map, below_map, bias, residual, result, N: gl.constexpr, H: gl.constexpr, W: gl.constexpr,
    CHANNELS: gl.constexpr, ALL_OUTS: gl.constexpr, ROWS: gl.constexpr, PICTURES: gl.constexpr, COLUMNS: gl.constexpr,
    OUTS: gl.constexpr, STAGES: gl.constexpr, PARTS: gl.constexpr, BIAS: gl.constexpr, RESIDUAL: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    BLOCKS: gl.constexpr = CHANNELS // 64
    STEPS: gl.constexpr = 3 * BLOCKS
    PIXELS: gl.constexpr = ROWS * PICTURES * COLUMNS
    STORED: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    PRODUCT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, PIXELS, 16]
    )
    # Neighbouring programs compute the parts of a tile, then other output channels, then other pixels.
    part = gl.program_id(0) % PARTS
    tile = gl.program_id(0) // PARTS
    outs_at = (tile % (ALL_OUTS // OUTS)) * OUTS
    block = tile // (ALL_OUTS // OUTS)
    ACROSS: gl.constexpr = (W + COLUMNS - 1) // COLUMNS
    DOWN: gl.constexpr = (H + ROWS - 1) // ROWS
    x = (block % ACROSS) * COLUMNS
    y = (block // ACROSS % DOWN) * ROWS
    n = (block // ACROSS // DOWN) * PICTURES
    first = part * STEPS // PARTS
    count = (part + 1) * STEPS // PARTS - first

    weights = gl.allocate_shared_memory(gl.float16, [STAGES * 3, OUTS, 64], STORED)
    pixels = gl.allocate_shared_memory(gl.float16, [STAGES * (ROWS + 2), PICTURES * COLUMNS, 64], STORED)
    loaded = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(loaded.index(i), count=1)
    fence_async_shared()
    wait_for_previous(part)
    for i in gl.static_range(STAGES - 1):
        if i < count:
            _load(weights_map, pixels_map, below_map, weights, pixels, loaded, first + i, i, outs_at, y, n, x,
                  BLOCKS, ROWS, PICTURES, COLUMNS, OUTS)  # fmt: skip
    sums = gl.zeros([OUTS, PIXELS], gl.float32, layout=PRODUCT)
    stage = 0
    phase = 0
    for i in range(count):
        mbarrier.wait(loaded.index(stage), phase)
        for row in gl.static_range(3):
            view = pixels.index(stage * (ROWS + 2) + row)._reinterpret(gl.float16, [PIXELS, 64], STORED)
            sums = warpgroup_mma(weights.index(stage * 3 + row), view.permute((1, 0)), sums, is_async=True)
        # The step before is finished; its stage takes the step STAGES - 1 from now.
        sums = warpgroup_mma_wait(3, deps=(sums,))
        gl.thread_barrier()
        if i + STAGES - 1 < count:
            before = gl.where(stage == 0, STAGES - 1, stage - 1)
            _load(weights_map, pixels_map, below_map, weights, pixels, loaded, first + i + STAGES - 1, before, outs_at,
                  y, n, x, BLOCKS, ROWS, PICTURES, COLUMNS, OUTS)  # fmt: skip
        last = stage == STAGES - 1
        phase = gl.where(last, phase ^ 1, phase)
        stage = gl.where(last, 0, stage + 1)
    sums = warpgroup_mma_wait(0, deps=(sums,))
    gl.thread_barrier()
    for i in gl.static_range(STAGES):
        mbarrier.invalidate(loaded.index(i))

    # Four neighbouring output channels per thread: a warp writes whole rows of 64 or 128 channels.
    ROW: gl.constexpr = gl.BlockedLayout([1, 4], [128 // OUTS, OUTS // 4], [num_warps, 1], [1, 0])
    if PARTS == 1:
        total = gl.convert_layout(sums.trans(), ROW)
        _finish(total, 0, bias, residual, result, y, n, x, outs_at, N, H, W, ALL_OUTS, PICTURES, COLUMNS, OUTS, PIXELS,
                BIAS, RESIDUAL, ROW)  # fmt: skip
    else:
        PITCH: gl.constexpr = 4 * (OUTS + 4)  # bytes of a pixel's sums, with room against bank conflicts
        out = gl.expand_dims(gl.arange(0, OUTS, layout=gl.SliceLayout(1, PRODUCT)), 1)
        pixel = gl.expand_dims(gl.arange(0, PIXELS, layout=gl.SliceLayout(0, PRODUCT)), 0)
        publish(sums, pixel * PITCH + out * 4)
        wait_for_all(part, PARTS)
        SLICE: gl.constexpr = PIXELS // PARTS
        at = _offsets(part * SLICE, SLICE, OUTS, PITCH, ROW)
        total = sum_parts(at, PARTS, [SLICE, OUTS], ROW)
        end_reading(part)  # before the results are written: the release would wait for them
        _finish(total, part * SLICE, bias, residual, result, y, n, x, outs_at, N, H, W, ALL_OUTS, PICTURES, COLUMNS,
                OUTS, SLICE, BIAS, RESIDUAL, ROW)  # fmt: skip
        wait_for_readers(part)


@gluon.jit
def _finish(
    total, first, bias, residual, result, y, n, x, outs_at, N: gl.constexpr, H: gl.constexpr, W: gl.constexpr,
    ALL_OUTS: gl.constexpr, PICTURES: gl.constexpr, COLUMNS: gl.constexpr, OUTS: gl.constexpr, SLICE: gl.constexpr,
    BIAS: gl.constexpr, RESIDUAL: gl.constexpr, ROW: gl.constexpr,
):  # fmt: skip
    # Adds bias and residual to the sums of SLICE pixels from `first` on, numbered in the order row, picture, column.
    pixel = first + gl.arange(0, SLICE, layout=gl.SliceLayout(1, ROW))
    row = pixel // (PICTURES * COLUMNS) + y
    picture = (pixel // COLUMNS) % PICTURES + n
    column = pixel % COLUMNS + x
    outs = outs_at + gl.arange(0, OUTS, layout=gl.SliceLayout(0, ROW))
    at = gl.expand_dims((picture * H + row) * W + column, 1) * ALL_OUTS + gl.expand_dims(outs, 0)
    inside = gl.expand_dims((row < H) & (picture < N) & (column < W), 1)
    if BIAS:
        total += gl.expand_dims(gl.load(bias + outs).to(gl.float32), 0)
    if RESIDUAL:
        total += gl.load(residual + at, mask=inside, other=0.0).to(gl.float32)
    gl.store(result + at, total.to(gl.float16), mask=inside)


@gluon.jit
def _load(
    weights_map, pixels_map, below_map, weights, pixels, loaded, step, stage, outs_at, y, n, x, BLOCKS: gl.constexpr,
    ROWS: gl.constexpr, PICTURES: gl.constexpr, COLUMNS: gl.constexpr, OUTS: gl.constexpr,
):  # fmt: skip
    # Starts to load a step into a stage. Two loads for ROWS + 2 rows, because Gluon's shapes are powers of two.
    BOX: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)
    column = step // BLOCKS  # of the 3x3 kernel
    channel = (step - column * BLOCKS) * 64
    barrier = loaded.index(stage)
    mbarrier.expect(barrier, 128 * (3 * OUTS + (ROWS + 2) * PICTURES * COLUMNS))
    for row in gl.static_range(3):
        at = (row * 3 + column) * (BLOCKS * 64) + channel
        tma.async_copy_global_to_shared(weights_map, [outs_at, at], barrier, weights.index(stage * 3 + row))
    upper = pixels.index(stage * (ROWS + 2))._reinterpret(gl.float16, [ROWS, PICTURES, COLUMNS, 64], BOX)
    tma.async_copy_global_to_shared(pixels_map, [y - 1, n, x - 1 + column, channel], barrier, upper)
    below = pixels.index(stage * (ROWS + 2) + ROWS)._reinterpret(gl.float16, [2, PICTURES, COLUMNS, 64], BOX)
    tma.async_copy_global_to_shared(below_map, [y - 1 + ROWS, n, x - 1 + column, channel], barrier, below)


@gluon.jit
def _offsets(first, SLICE: gl.constexpr, OUTS: gl.constexpr, PITCH: gl.constexpr, ROW: gl.constexpr):
    # Returns where the sums of SLICE pixels from `first` on are in shared memory, in bytes.
    pixel = first + gl.arange(0, SLICE, layout=gl.SliceLayout(1, ROW))
    out = gl.arange(0, OUTS, layout=gl.SliceLayout(0, ROW))
    return gl.expand_dims(pixel * PITCH, 1) + gl.expand_dims(out * 4, 0)
