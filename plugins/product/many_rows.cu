// Products of many rows with the norm before them, and perhaps GEGLU: (x weight^T - mean * sums) / deviation + shifts, as
// in kernel.py. A program keeps the weights of COLUMNS columns in shared memory, and rows stream past them. Warpgroups
// multiply 64 rows each, so that the end of one, with its exponentials and memory accesses, overlaps the products of
// others. A further warpgroup loads both factors by TMA.
#include "hopper.cuh"

// DEPTH, STAGES, REGISTERS, GATED and EPS are defined by many_rows.py; ROWS, WIDTH and WARPGROUPS are as there.
constexpr int ROWS = 64, STEP = 64, STEPS = DEPTH / STEP, ROW_BYTES = 2 * STEP;
constexpr int WIDTH = 128, HALVES = GATED ? 2 : 1, COLUMNS = WIDTH / HALVES;  // of the weight, and of the result
constexpr int STAGE_BYTES = ROWS * ROW_BYTES, WEIGHT_BYTES = WIDTH * ROW_BYTES;  // of a step
constexpr int WARPGROUPS = 3, THREADS = 128 * (WARPGROUPS + 1);
static_assert(DEPTH % STEP == 0);

__device__ inline void load(uint to, const TensorMap& map, uint barrier, int column, int row) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
            ::"r"(to), "l"(&map), "r"(barrier), "r"(column), "r"(row) : "memory");
}

// Issue d = a b, or d += a b with `add`, for 16 of the depth of 64 rows and of WIDTH weights in shared memory.
__device__ inline void multiply(float (&d)[WIDTH / 2], ullong a, ullong b, int add) {
    static_assert(WIDTH == 128);
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, %64, %65, add, 1, 1, 0, 0;\n}"
        : SIXTEEN(d, 0), SIXTEEN(d, 16), SIXTEEN(d, 32), SIXTEEN(d, 48)
        : "l"(a), "l"(b), "r"(add));
}

// x times the normal distribution function, with erfc by Abramowitz and Stegun 7.1.26: errors of 1.5e-7.
__device__ inline float gelu(float x) {
    const float z = fabsf(x) * 0.7071067811865476f;  // 1 / sqrt(2)
    float t;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(t) : "f"(__fmaf_rn(0.3275911f, z, 1.0f)));
    float tail = power(-1.4426950408889634f * z * z);  // log2(e)
    float series = __fmaf_rn(t, 1.061405429f, -1.453152027f);
    series = __fmaf_rn(t, series, 1.421413741f);
    series = __fmaf_rn(t, series, -0.284496736f);
    series = __fmaf_rn(t, series, 0.254829592f);
    tail *= 0.5f * t * series;
    return x * (x > 0 ? 1 - tail : tail);
}

// Exchange values between four neighbouring threads: thread i gets the i-th of each.
__device__ inline void transpose(uint (&values)[4]) {
    const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const uint got = __shfl_xor_sync(0xffffffff, odd ? values[i] : values[i + 1], 1);
        (odd ? values[i] : values[i + 1]) = got;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const uint got = __shfl_xor_sync(0xffffffff, upper ? values[i] : values[i + 2], 2);
        (upper ? values[i] : values[i + 2]) = got;
    }
}

// Mean and 1 / standard deviation of a row, from mean and squared deviations of each STEP of its columns (Chan, Golub
// and LeVeque 1979).
__device__ inline float2 merged(const float2* groups) {
    float2 all = groups[0];
#pragma unroll
    for (int i = 1; i < STEPS; ++i) {
        const float2 one = groups[i];
        const float difference = one.x - all.x;
        all.x += difference * (1.0f / (i + 1));
        all.y += one.y + difference * difference * (float(STEP * i) / (i + 1));
    }
    return {all.x, rsqrtf(all.y * (1.0f / DEPTH) + EPS)};
}

// The sums of a warpgroup's 64 rows and WIDTH weights: a thread has rows lane / 4 and 8 further down, and of each eight
// columns two, so that four threads have those of a row.
struct Sums {
    float values[WIDTH / 2];

    __device__ inline float normed(int column, int half, int i, const float2& norm, const float (&vectors)[2][WIDTH]) const {
        const int at = column + 2 * (threadIdx.x % 4) + i;
        return (values[column / 2 + 2 * half + i] - norm.x * vectors[0][at]) * norm.y + vectors[1][at];
    }

    // Return two neighbouring columns of the result in one of the thread's rows.
    __device__ inline uint finished(int column, int half, const float2& norm, const float (&vectors)[2][WIDTH]) const {
        float pair[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            pair[i] = normed(column, half, i, norm, vectors);
            if (GATED) pair[i] *= gelu(normed(column + COLUMNS % WIDTH, half, i, norm, vectors));
        }
        return pack(pair[0], pair[1]);
    }
};

__device__ inline void synchronize_group(int group) { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); }

// x: [rows, DEPTH]; weights: [HALVES * columns, DEPTH]; stats: of the rows of x, [rows, STEPS]; sums, shifts: [HALVES *
// columns]; result: [rows, columns], as groups of eight. Boxes have 64 columns, and ROWS rows of x or COLUMNS weights.
// Programs share the units, 64 rows times COLUMNS columns, evenly; if those of a program span several slices of columns,
// it loads other weights in between.
extern "C" __global__ __launch_bounds__(THREADS, 1) void canny2image_product_of_many_rows(
    const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, const float2* stats,
    const float* sums, const float* shifts, uint4* result, int rows, int columns) {
    extern __shared__ char unaligned[];
    __shared__ ullong barriers[1 + STEPS + 2 * WARPGROUPS * STAGES];
    __shared__ float all_vectors[WARPGROUPS][2][WIDTH];  // sums and shifts
    const uint kept = (address(unaligned) + 1023) & ~1023u, all_stages = kept + STEPS * WEIGHT_BYTES;
    const uint unused = address(barriers), ready = unused + 8;  // of the weights
    const uint all_filled = ready + 8 * STEPS, all_used = all_filled + 8 * WARPGROUPS * STAGES;
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), group = warp / 4;
    const int blocks = (rows + ROWS - 1) / ROWS, units = blocks * ((columns + COLUMNS - 1) / COLUMNS);
    const int first = static_cast<long long>(units) * blockIdx.x / gridDim.x;
    const int end = static_cast<long long>(units) * (blockIdx.x + 1) / gridDim.x;
    if (threadIdx.x == 0) {
        init(unused, WARPGROUPS);
        for (int i = 0; i < STEPS + WARPGROUPS * STAGES; ++i) init(ready + 8 * i, 1);
        for (int i = 0; i < WARPGROUPS * STAGES; ++i) init(all_used + 8 * i, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");  // see runtime/early_launch.py
    // A warpgroup has its own stages, which one of the loading warps fills.
    const int served = group == WARPGROUPS ? warp % 4 : group;
    const uint stages = all_stages + STAGES * served * STAGE_BYTES;
    const uint filled = all_filled + 8 * STAGES * served, used = all_used + 8 * STAGES * served;
    if (group == WARPGROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x % 32) return;
        int parity = 1;
        if (served == WARPGROUPS) {
            for (int slice = first / blocks; slice * blocks < end; ++slice, parity ^= 1) {
                wait(unused, parity);
                for (int step = 0; step < STEPS; ++step) {
                    expect(ready + 8 * step, WEIGHT_BYTES);
                    for (int half = 0; half < HALVES; ++half)
                        load(kept + step * WEIGHT_BYTES + half * COLUMNS * ROW_BYTES, weights, ready + 8 * step,
                             STEP * step, slice * COLUMNS + half * columns);
                }
            }
            return;
        }
        int stage = 0;
        for (int unit = first + served; unit < end; unit += WARPGROUPS)
            for (int step = 0; step < STEPS; ++step) {
                wait(used + 8 * stage, parity);
                expect(filled + 8 * stage, STAGE_BYTES);
                load(stages + stage * STAGE_BYTES, x, filled + 8 * stage, STEP * step, unit % blocks * ROWS);
                if (++stage == STAGES) stage = 0, parity ^= 1;
            }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
    const int thread = threadIdx.x % 128, lane = thread % 32;
    float (&vectors)[2][WIDTH] = all_vectors[group];
    int stage = 0, parity = 0, kept_parity = 0, unit = first + group;
    for (int slice = first / blocks; slice * blocks < end; ++slice, kept_parity ^= 1) {
        synchronize_group(group);  // all have read the vectors of the slice before
        const int weight = slice * COLUMNS + thread % COLUMNS + thread / COLUMNS * columns;
        const bool exists = weight < HALVES * columns;
        vectors[0][thread] = exists ? sums[weight] : 0.0f;
        vectors[1][thread] = exists ? shifts[weight] : 0.0f;
        synchronize_group(group);
        for (int step = 0; step < STEPS; ++step) wait(ready + 8 * step, kept_parity);
        for (; unit < min(end, (slice + 1) * blocks); unit += WARPGROUPS) {
            Sums product;
            int before = 0;
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                wait(filled + 8 * stage, parity);
                fence();
#pragma unroll
                for (int i = 0; i < STEP / 16; ++i)
                    multiply(product.values, matrix(stages + stage * STAGE_BYTES + 32 * i),
                             matrix(kept + step * WEIGHT_BYTES + 32 * i), step + i);
                commit();
                if (step > 0) {
                    finish<1>();
                    if (thread == 0) arrive(used + 8 * before);
                }
                before = stage;
                if (++stage == STAGES) stage = 0, parity ^= 1;
            }
            const int row = unit % blocks * ROWS + thread / 32 * 16 + lane / 4;
            float2 norms[2];
#pragma unroll
            for (int half = 0; half < 2; ++half)
                norms[half] = merged(stats + static_cast<long long>(min(row + 8 * half, rows - 1)) * STEPS);
            finish<0>(product.values);
            if (thread == 0) arrive(used + 8 * before);
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int part = 0; part < COLUMNS; part += 32) {
                    uint words[4];
#pragma unroll
                    for (int i = 0; i < 4; ++i) words[i] = product.finished(part + 8 * i, half, norms[half], vectors);
                    transpose(words);
                    const int column = slice * COLUMNS + part + 8 * (lane % 4);
                    if (row + 8 * half < rows && column < columns)
                        result[(static_cast<long long>(row + 8 * half) * columns + column) / 8] =
                            {words[0], words[1], words[2], words[3]};
                }
        }
        if (thread == 0) arrive(unused);
    }
}
