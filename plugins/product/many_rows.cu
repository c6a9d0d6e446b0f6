// GEGLU of many rows with the norm before it: the halves of (x weight^T - mean * sums) / deviation + shifts, as in
// kernel.py. A program keeps the weights of COLUMNS columns in shared memory, and rows stream past them. Warpgroups
// multiply 64 rows each, so that the end of one, with its exponentials and memory accesses, overlaps the products of
// others. A further warpgroup loads both factors by TMA.
#include "sums.cuh"

// DEPTH, STAGES, REGISTERS, GROUP (columns per group of statistics) and EPS are defined by many_rows.py; WIDTH is as
// there.
constexpr int WIDTH = 128, COLUMNS = WIDTH / 2;  // of the weight, and of the result
constexpr int STAGE_BYTES = ROWS * ROW_BYTES, WEIGHT_BYTES = WIDTH * ROW_BYTES;  // of a step

// Return two neighbouring columns of the result in one of the thread's rows.
__device__ inline uint finished(const Sums<WIDTH>& sums, int column, int half, const float2& norm,
                                const float (&vectors)[2][WIDTH]) {
    float pair[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        pair[i] = sums.normed(column, half, i, norm, vectors);
        pair[i] *= gelu(sums.normed(column + COLUMNS, half, i, norm, vectors));
    }
    return pack(pair[0], pair[1]);
}

// x: [rows, DEPTH]; weights: [2 * columns, DEPTH]; stats: of the rows of x, [rows, GROUPS]; sums, shifts: [2 *
// columns]; result: [rows, columns], as groups of eight. Boxes have 64 columns, and ROWS rows of x or COLUMNS weights.
// Programs share the units, 64 rows times COLUMNS columns, evenly; if those of a program span several slices of columns,
// it loads other weights in between.
extern "C" __global__ __launch_bounds__(THREADS, 1) void canny2image_product_of_many_rows(
    const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, const float2* stats,
    const float* sums, const float* shifts, uint4* result, int rows, int columns) {
    extern __shared__ char unaligned[];
    __shared__ ullong barriers[1 + STEPS + 2 * WARPGROUPS * STAGES];
    __shared__ float all_vectors[WARPGROUPS][2][WIDTH];  // sums and shifts
    __shared__ alignas(16) char all_staged[4 * WARPGROUPS * STAGED];
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
                    for (int half = 0; half < 2; ++half)
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
    const uint staged = address(all_staged) + warp * STAGED;
    float (&vectors)[2][WIDTH] = all_vectors[group];
    int stage = 0, parity = 0, kept_parity = 0, unit = first + group;
    for (int slice = first / blocks; slice * blocks < end; ++slice, kept_parity ^= 1) {
        synchronize_group(group);  // all have read the vectors of the slice before
        const int weight = slice * COLUMNS + thread % COLUMNS + thread / COLUMNS * columns;
        const bool exists = weight < 2 * columns;
        vectors[0][thread] = exists ? sums[weight] : 0.0f;
        vectors[1][thread] = exists ? shifts[weight] : 0.0f;
        synchronize_group(group);
        for (int step = 0; step < STEPS; ++step) wait(ready + 8 * step, kept_parity);
        for (; unit < min(end, (slice + 1) * blocks); unit += WARPGROUPS) {
            Sums<WIDTH> product;
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
            load_norms(norms, stats, row, rows);
            finish<0>(product.values);
            if (thread == 0) arrive(used + 8 * before);
#pragma unroll
            for (int part = 0; part < COLUMNS; part += 32) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    uint words[4];
#pragma unroll
                    for (int i = 0; i < 4; ++i) words[i] = finished(product, part + 8 * i, half, norms[half], vectors);
                    store_matrices(of_matrices(staged, half), words);
                }
                __syncwarp();
                const int column = slice * COLUMNS + part + 8 * (lane % 4);
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    if (row + 8 * half < rows && column < columns)
                        result[(static_cast<long long>(row + 8 * half) * columns + column) / 8] =
                            load_shared(of_thread(staged, half));
                __syncwarp();
            }
        }
        if (thread == 0) arrive(unused);
    }
}
