// Products of many rows: x weight^T with bias, residual and statistics, or with the norm before them and perhaps GEGLU,
// as in kernel.py. Three warpgroups of a program multiply 64 rows each with the same WIDTH weights, which makes the
// tiles large enough that the tensor cores seldom wait for the cache. A further warpgroup loads both factors by TMA,
// also those of the next tile while the others finish one.
#include "sums.cuh"

// DEPTH, TILE_WIDTH, STAGES, REGISTERS, NORM, GATED, RESIDUAL, STATS, GROUP (columns per group of the norm's statistics)
// and EPS are defined by large_tiles.py.
constexpr int WIDTH = TILE_WIDTH, HALVES = GATED ? 2 : 1, COLUMNS = WIDTH / HALVES;  // of the weight, of the result
constexpr int ROWS_BYTES = ROWS * ROW_BYTES, STAGE_BYTES = WARPGROUPS * ROWS_BYTES + WIDTH * ROW_BYTES;
constexpr int EIGHTS = COLUMNS / 8, PARTS = (EIGHTS + 3) / 4;  // a thread has 16 bytes of every fourth eight columns
static_assert(WIDTH == 160 || (NORM && !GATED), "no other kernel knows statistics of such groups");
static_assert(!GATED || (NORM && !RESIDUAL && !STATS), "gates need a norm, and nothing is added to them");

__device__ inline float of_half(const unsigned short* from) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(*from));
    return result;
}

// The sum over the four threads that have a row.
__device__ inline float sum_of_row(float value) {
    value += __shfl_xor_sync(0xffffffff, value, 1);
    return value + __shfl_xor_sync(0xffffffff, value, 2);
}

// Return a column of the result in one of the thread's rows, without what is to be added.
__device__ inline float finished(const Sums<WIDTH>& sums, int column, int half, int i, const float2& norm,
                                 const float (&vectors)[2][WIDTH]) {
    if constexpr (!NORM) return sums.values[column / 2 + 2 * half + i] + vectors[1][column + 2 * (threadIdx.x % 4) + i];
    const float value = sums.normed(column, half, i, norm, vectors);
    if constexpr (GATED) return value * gelu(sums.normed(column + COLUMNS, half, i, norm, vectors));
    return value;
}

// x: [rows, DEPTH]; weights: [HALVES * columns, DEPTH]; norm_stats: of the rows of x, [rows, GROUPS]; sums, shifts:
// [HALVES * columns], float32, or as shifts, without NORM, the bias, float16; residual, result: [rows, columns], as
// groups of eight; stats: of the result, [rows, columns / COLUMNS]. Boxes have 64 columns, and WARPGROUPS * ROWS rows of
// x or COLUMNS weights. `columns` is a multiple of COLUMNS. Neighbouring programs compute neighbouring columns.
extern "C" __global__ __launch_bounds__(THREADS, 1) void canny2image_product_of_large_tiles(
    const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, const float2* norm_stats,
    const float* sums, const void* shifts, const uint4* residual, uint4* result, float2* stats, int rows, int columns) {
    extern __shared__ char unaligned[];
    __shared__ ullong barriers[2 * STAGES];
    __shared__ float all_vectors[WARPGROUPS][2][WIDTH];  // sums and shifts
    __shared__ alignas(16) char all_staged[4 * WARPGROUPS * STAGED];
    const uint stages = (address(unaligned) + 1023) & ~1023u, filled = address(barriers), used = filled + 8 * STAGES;
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), group = warp / 4;
    const int across = columns / COLUMNS;
    const int tiles = (rows + WARPGROUPS * ROWS - 1) / (WARPGROUPS * ROWS) * across;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) init(filled + 8 * i, 1);
        for (int i = 0; i < STAGES; ++i) init(used + 8 * i, WARPGROUPS);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");  // see runtime/early_launch.py
    int stage = 0;
    if (group == WARPGROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x % 128) return;
        int parity = 1;
        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
            for (int step = 0; step < STEPS; ++step) {
                const uint to = stages + stage * STAGE_BYTES, barrier = filled + 8 * stage;
                wait(used + 8 * stage, parity);
                expect(barrier, STAGE_BYTES);
                load(to, x, barrier, STEP * step, tile / across * WARPGROUPS * ROWS);
                for (int half = 0; half < HALVES; ++half)
                    load(to + WARPGROUPS * ROWS_BYTES + half * COLUMNS * ROW_BYTES, weights, barrier, STEP * step,
                         tile % across * COLUMNS + half * columns);
                if (++stage == STAGES) stage = 0, parity ^= 1;
            }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
    const int thread = threadIdx.x % 128, lane = thread % 32;
    const uint staged = address(all_staged) + warp * STAGED;
    float (&vectors)[2][WIDTH] = all_vectors[group];
    int parity = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int first_column = tile % across * COLUMNS;
        const int row = (tile / across * WARPGROUPS + group) * ROWS + thread / 32 * 16 + lane / 4;
        synchronize_group(group);  // all have read the vectors of the tile before
        for (int i = thread; i < WIDTH; i += 128) {
            const int weight = first_column + i % COLUMNS + i / COLUMNS * columns;
            if (NORM) vectors[0][i] = sums[weight], vectors[1][i] = static_cast<const float*>(shifts)[weight];
            else vectors[1][i] = of_half(static_cast<const unsigned short*>(shifts) + weight);
        }
        synchronize_group(group);
        // Where a thread's 16 bytes of a part are, and what is to be added there, which arrives during the products.
        const auto at = [&](int half, int part) {
            return (static_cast<long long>(row + 8 * half) * columns + first_column) / 8 + 4 * part + lane % 4;
        };
        const auto exists = [&](int half, int part) { return row + 8 * half < rows && 4 * part + lane % 4 < EIGHTS; };
        uint4 added[2][PARTS];
        if (RESIDUAL) {
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int part = 0; part < PARTS; ++part)
                    added[half][part] = exists(half, part) ? residual[at(half, part)] : uint4{0, 0, 0, 0};
        }
        Sums<WIDTH> product;
        int before = 0;
#pragma unroll 1
        for (int step = 0; step < STEPS; ++step) {
            wait(filled + 8 * stage, parity);
            const uint a = stages + stage * STAGE_BYTES + group * ROWS_BYTES;
            const uint b = stages + stage * STAGE_BYTES + WARPGROUPS * ROWS_BYTES;
            fence();
#pragma unroll
            for (int i = 0; i < STEP / 16; ++i)
                multiply(product.values, matrix(a + 32 * i), matrix(b + 32 * i), step + i);
            commit();
            if (step > 0) {
                finish<1>();
                if (thread == 0) arrive(used + 8 * before);
            }
            before = stage;
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
        float2 norms[2] = {{0, 1}, {0, 1}};
        if (NORM) load_norms(norms, norm_stats, row, rows);
        finish<0>(product.values);
        if (thread == 0) arrive(used + 8 * before);
        uint words[2][PARTS][4];
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            if (RESIDUAL) {
#pragma unroll
                for (int half = 0; half < 2; ++half) store_shared(of_thread(staged, half), added[half][part]);
                __syncwarp();
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                uint (&pairs)[4] = words[half][part];
                if (RESIDUAL) load_matrices(of_matrices(staged, half), pairs);
#pragma unroll
                for (int i = 0; i < min(4, EIGHTS - 4 * part); ++i) {
                    const float2 more = RESIDUAL ? unpack(pairs[i]) : float2{0, 0};
                    const int column = 32 * part + 8 * i;
                    pairs[i] = pack(finished(product, column, half, 0, norms[half], vectors) + more.x,
                                    finished(product, column, half, 1, norms[half], vectors) + more.y);
                }
                store_matrices(of_matrices(staged, half), pairs);
            }
            __syncwarp();
#pragma unroll
            for (int half = 0; half < 2; ++half)
                if (exists(half, part)) result[at(half, part)] = load_shared(of_thread(staged, half));
            __syncwarp();
        }
        if (STATS) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float sum = 0, squares = 0;
#pragma unroll
                for (int i = 0; i < EIGHTS; ++i) {
                    const float2 pair = unpack(words[half][i / 4][i % 4]);
                    sum += pair.x + pair.y;
                }
                const float mean = sum_of_row(sum) * (1.0f / COLUMNS);
#pragma unroll
                for (int i = 0; i < EIGHTS; ++i) {
                    const float2 pair = unpack(words[half][i / 4][i % 4]);
                    squares += (pair.x - mean) * (pair.x - mean) + (pair.y - mean) * (pair.y - mean);
                }
                squares = sum_of_row(squares);
                if (lane % 4 == 0 && row + 8 * half < rows)
                    stats[static_cast<long long>(row + 8 * half) * across + tile % across] = {mean, squares};
            }
        }
    }
}
