"""The kernel, in Gluon: inputs go by TMA into shared memory and from there into the tensor cores.

A program computes one part of the sums of OUTS output channels of ROWS x PICTURES x COLUMNS pixels. A step is 64 input
channels of one column of the 3x3 kernel: ROWS + 2 rows of pixels, loaded once, serve the kernel's three rows as three
views of ROWS rows each. TMA gives zeros for pixels outside the maps, and for channels beyond the last. Beyond these, a
step's weights are those of the next column, which the zeros cancel. `plugins/hopper/cluster.py` explains how PARTS
programs add their parts.

With a STRIDE of 2, TMA skips every other pixel, and the kernel's rows have their own rows of pixels.

With EXTRA, further steps add the 1x1 convolution of another map: 64 of its EXTRA channels each.

With FP8, maps and weights are e4m3, a step is 128 input channels, and sums are multiplied by a scale for each output
channel. The other map and its weights are float16 and their steps 64 channels, the same number of bytes.

With 2 TAPS, there are four 2x2 kernels, those of an upsampling's phases (`plugins/phase_upsampling.py`): of odd output
rows and columns, odd and even, even and odd, even and even. For odd rows a kernel begins at the pixel itself, for even
rows at the pixel above, and likewise for columns.
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
    weights_map, pixels_map, below_map, extra_weights_map, extra_map, bias, extra_bias, residual, result, scales,
    N: gl.constexpr, H: gl.constexpr, W: gl.constexpr, CHANNELS: gl.constexpr, EXTRA: gl.constexpr,
    ALL_OUTS: gl.constexpr, TAPS: gl.constexpr, ROWS: gl.constexpr, PICTURES: gl.constexpr, COLUMNS: gl.constexpr,
    OUTS: gl.constexpr, STRIDE: gl.constexpr, STAGES: gl.constexpr, PARTS: gl.constexpr, FP8: gl.constexpr,
    BIAS: gl.constexpr, RESIDUAL: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    STEP: gl.constexpr = 128 if FP8 else 64
    STEPS: gl.constexpr = TAPS * ((CHANNELS + STEP - 1) // STEP)
    EXTRA_STEPS: gl.constexpr = (EXTRA + 63) // 64
    PIXELS: gl.constexpr = ROWS * PICTURES * COLUMNS
    NEXT: gl.constexpr = 1 if STRIDE == 1 else ROWS  # rows of pixels to the next row of the kernel
    LOADED: gl.constexpr = ROWS + (TAPS - 1) * NEXT  # rows of pixels of a step
    HALVES: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    PRODUCT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, PIXELS, 16]
    )
    # The layouts for the steps of the 3x3 kernel, those of float16 without FP8.
    TYPE: gl.constexpr = gl.float8e4nv if FP8 else gl.float16
    STORED: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8 if FP8 else 16, rank=2)
    OF_STEPS: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, PIXELS, 32 if FP8 else 16]
    )
    # Neighbouring programs compute the parts of a tile, then other output channels and phases, then other pixels.
    PHASES: gl.constexpr = 4 if TAPS == 2 else 1
    part = gl.program_id(0) % PARTS
    tile = gl.program_id(0) // PARTS
    OUT_TILES: gl.constexpr = (ALL_OUTS + OUTS - 1) // OUTS
    outs_at = (tile % OUT_TILES) * OUTS
    phase_at = tile // OUT_TILES % PHASES
    block = tile // (OUT_TILES * PHASES)
    weights_at = phase_at * ALL_OUTS + outs_at
    ACROSS: gl.constexpr = (W + COLUMNS - 1) // COLUMNS
    DOWN: gl.constexpr = (H + ROWS - 1) // ROWS
    x = (block % ACROSS) * COLUMNS
    y = (block // ACROSS % DOWN) * ROWS
    n = (block // ACROSS // DOWN) * PICTURES
    # How many pixels before its own an output's first tap is.
    before_row = 1 if TAPS == 3 else phase_at // 2
    before_column = 1 if TAPS == 3 else phase_at % 2
    top = y * STRIDE - before_row
    left = x * STRIDE - before_column
    first = part * STEPS // PARTS
    taps_count = (part + 1) * STEPS // PARTS - first
    # Each part has its share of the extra steps, which take less time.
    extra_first = part * EXTRA_STEPS // PARTS
    count = taps_count + (part + 1) * EXTRA_STEPS // PARTS - extra_first

    weights = gl.allocate_shared_memory(TYPE, [STAGES * TAPS, OUTS, STEP], STORED)
    pixels = gl.allocate_shared_memory(TYPE, [STAGES * LOADED, PICTURES * COLUMNS, STEP], STORED)
    loaded = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(loaded.index(i), count=1)
    fence_async_shared()
    wait_for_previous(part)
    for i in gl.static_range(STAGES - 1):
        if i < count:
            if i < taps_count:
                _load(weights_map, pixels_map, below_map, weights, pixels, loaded, first + i, i, weights_at, top, n,
                      left, CHANNELS, TAPS, LOADED, ROWS, PICTURES, COLUMNS, OUTS, FP8)  # fmt: skip
            elif EXTRA:
                _load_extra(extra_weights_map, extra_map, weights, pixels, loaded, extra_first + i - taps_count, i,
                            weights_at, y, n, x, TAPS, LOADED, ROWS, PICTURES, COLUMNS, OUTS)  # fmt: skip
    if FP8:
        out = outs_at + gl.arange(0, OUTS, layout=gl.SliceLayout(1, OF_STEPS))
        scale = gl.load(scales + gl.minimum(out, ALL_OUTS - 1))
    sums = gl.zeros([OUTS, PIXELS], gl.float32, layout=OF_STEPS)
    stage = 0
    phase = 0
    for i in range(taps_count):
        mbarrier.wait(loaded.index(stage), phase)
        for row in gl.static_range(TAPS):
            view = pixels.index(stage * LOADED + row * NEXT)._reinterpret(TYPE, [PIXELS, STEP], STORED)
            sums = warpgroup_mma(weights.index(stage * TAPS + row), view.permute((1, 0)), sums, is_async=True)
        # The step before is finished; its stage takes the step STAGES - 1 from now.
        sums = warpgroup_mma_wait(TAPS, deps=(sums,))
        gl.thread_barrier()
        later = i + STAGES - 1
        before = gl.where(stage == 0, STAGES - 1, stage - 1)
        if later < count:
            if later < taps_count:
                _load(weights_map, pixels_map, below_map, weights, pixels, loaded, first + later, before, weights_at,
                      top, n, left, CHANNELS, TAPS, LOADED, ROWS, PICTURES, COLUMNS, OUTS, FP8)  # fmt: skip
            elif EXTRA:
                _load_extra(extra_weights_map, extra_map, weights, pixels, loaded, extra_first + later - taps_count,
                            before, weights_at, y, n, x, TAPS, LOADED, ROWS, PICTURES, COLUMNS, OUTS)  # fmt: skip
        last = stage == STAGES - 1
        phase = gl.where(last, phase ^ 1, phase)
        stage = gl.where(last, 0, stage + 1)
    if FP8:
        sums = warpgroup_mma_wait(0, deps=(sums,)) * gl.expand_dims(scale, 1)
        sums = gl.convert_layout(sums, PRODUCT, assert_trivial=True)
    if EXTRA:
        for i in range(taps_count, count):
            mbarrier.wait(loaded.index(stage), phase)
            view = pixels.index(stage * LOADED)._reinterpret(gl.float16, [PIXELS, 64], HALVES)
            other = weights.index(stage * TAPS)._reinterpret(gl.float16, [OUTS, 64], HALVES)
            sums = warpgroup_mma(other, view.permute((1, 0)), sums, is_async=True)
            sums = warpgroup_mma_wait(1, deps=(sums,))
            gl.thread_barrier()
            later = i + STAGES - 1
            if later < count:
                before = gl.where(stage == 0, STAGES - 1, stage - 1)
                _load_extra(extra_weights_map, extra_map, weights, pixels, loaded, extra_first + later - taps_count,
                            before, weights_at, y, n, x, TAPS, LOADED, ROWS, PICTURES, COLUMNS, OUTS)  # fmt: skip
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
        _finish(total, 0, bias, extra_bias, residual, result, y, n, x, outs_at, before_row, before_column, N, H, W,
                EXTRA, ALL_OUTS, TAPS, PICTURES, COLUMNS, OUTS, PIXELS, BIAS, RESIDUAL, ROW)  # fmt: skip
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
        _finish(total, part * SLICE, bias, extra_bias, residual, result, y, n, x, outs_at, before_row, before_column,
                N, H, W, EXTRA, ALL_OUTS, TAPS, PICTURES, COLUMNS, OUTS, SLICE, BIAS, RESIDUAL, ROW)  # fmt: skip
        wait_for_readers(part)


@gluon.jit
def _finish(
    total, first, bias, extra_bias, residual, result, y, n, x, outs_at, before_row, before_column, N: gl.constexpr,
    H: gl.constexpr, W: gl.constexpr, EXTRA: gl.constexpr, ALL_OUTS: gl.constexpr, TAPS: gl.constexpr,
    PICTURES: gl.constexpr, COLUMNS: gl.constexpr, OUTS: gl.constexpr, SLICE: gl.constexpr, BIAS: gl.constexpr,
    RESIDUAL: gl.constexpr, ROW: gl.constexpr,
):  # fmt: skip
    # Adds biases and residual to the sums of SLICE pixels from `first` on, numbered in the order row, picture, column.
    pixel = first + gl.arange(0, SLICE, layout=gl.SliceLayout(1, ROW))
    row = pixel // (PICTURES * COLUMNS) + y
    picture = (pixel // COLUMNS) % PICTURES + n
    column = pixel % COLUMNS + x
    outs = outs_at + gl.arange(0, OUTS, layout=gl.SliceLayout(0, ROW))
    if TAPS == 3:
        place = (picture * H + row) * W + column
    else:
        place = (picture * (2 * H) + 2 * row + 1 - before_row) * (2 * W) + 2 * column + 1 - before_column
    at = gl.expand_dims(place, 1) * ALL_OUTS + gl.expand_dims(outs, 0)
    inside = gl.expand_dims((row < H) & (picture < N) & (column < W), 1)
    real = None  # of the output channels; all of them, without a mask, if the tiles are whole
    if ALL_OUTS % OUTS:
        real = outs < ALL_OUTS
        inside = inside & gl.expand_dims(real, 0)
    if BIAS:
        total += gl.expand_dims(gl.load(bias + outs, mask=real).to(gl.float32), 0)
    if EXTRA:
        total += gl.expand_dims(gl.load(extra_bias + outs, mask=real).to(gl.float32), 0)
    if RESIDUAL:
        total += gl.load(residual + at, mask=inside, other=0.0).to(gl.float32)
    gl.store(result + at, total.to(gl.float16), mask=inside)


@gluon.jit
def _load(
    weights_map, pixels_map, below_map, weights, pixels, loaded, step, stage, weights_at, top, n, left,
    CHANNELS: gl.constexpr, TAPS: gl.constexpr, LOADED: gl.constexpr, ROWS: gl.constexpr, PICTURES: gl.constexpr,
    COLUMNS: gl.constexpr, OUTS: gl.constexpr, FP8: gl.constexpr,
):  # fmt: skip
    # Starts to load a step into a stage. Several loads of pixels, because Gluon's shapes are powers of two.
    TYPE: gl.constexpr = gl.float8e4nv if FP8 else gl.float16
    STEP: gl.constexpr = 128 if FP8 else 64
    BOX: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8 if FP8 else 16, rank=4)
    BELOW: gl.constexpr = TAPS - 1
    BLOCKS: gl.constexpr = (CHANNELS + STEP - 1) // STEP
    column = step // BLOCKS  # of the kernel
    channel = (step - column * BLOCKS) * STEP
    barrier = loaded.index(stage)
    mbarrier.expect(barrier, 128 * (TAPS * OUTS + LOADED * PICTURES * COLUMNS))
    for row in gl.static_range(TAPS):
        at = (row * TAPS + column) * CHANNELS + channel
        tma.async_copy_global_to_shared(weights_map, [weights_at, at], barrier, weights.index(stage * TAPS + row))
    for row in gl.static_range(LOADED // ROWS):  # with a stride, of the kernel
        own = pixels.index(stage * LOADED + row * ROWS)._reinterpret(TYPE, [ROWS, PICTURES, COLUMNS, STEP], BOX)
        tma.async_copy_global_to_shared(pixels_map, [top + row, n, left + column, channel], barrier, own)
    if LOADED % ROWS:
        below = pixels.index(stage * LOADED + ROWS)._reinterpret(TYPE, [BELOW, PICTURES, COLUMNS, STEP], BOX)
        tma.async_copy_global_to_shared(below_map, [top + ROWS, n, left + column, channel], barrier, below)


@gluon.jit
def _load_extra(
    extra_weights_map, extra_map, weights, pixels, loaded, step, stage, weights_at, y, n, x, TAPS: gl.constexpr,
    LOADED: gl.constexpr, ROWS: gl.constexpr, PICTURES: gl.constexpr, COLUMNS: gl.constexpr, OUTS: gl.constexpr,
):  # fmt: skip
    # Starts to load an extra step into a stage.
    BOX: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)
    FLAT: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    barrier = loaded.index(stage)
    mbarrier.expect(barrier, 128 * (OUTS + ROWS * PICTURES * COLUMNS))
    others = weights.index(stage * TAPS)._reinterpret(gl.float16, [OUTS, 64], FLAT)
    tma.async_copy_global_to_shared(extra_weights_map, [weights_at, step * 64], barrier, others)
    rows = pixels.index(stage * LOADED)._reinterpret(gl.float16, [ROWS, PICTURES, COLUMNS, 64], BOX)
    tma.async_copy_global_to_shared(extra_map, [y, n, x, step * 64], barrier, rows)


@gluon.jit
def _offsets(first, SLICE: gl.constexpr, OUTS: gl.constexpr, PITCH: gl.constexpr, ROW: gl.constexpr):
    # Returns where the sums of SLICE pixels from `first` on are in shared memory, in bytes.
    pixel = first + gl.arange(0, SLICE, layout=gl.SliceLayout(1, ROW))
    out = gl.arange(0, OUTS, layout=gl.SliceLayout(0, ROW))
    return gl.expand_dims(pixel * PITCH, 1) + gl.expand_dims(out * 4, 0)
