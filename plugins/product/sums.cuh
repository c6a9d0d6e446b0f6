// What the products in CUDA share: loads of tiles, and what follows the sums.
#pragma once
#include "hopper.cuh"

// Columns of a row that lie next to each other in shared memory, and of which a step of the depth consists.
constexpr int STEP = 64, ROW_BYTES = 2 * STEP, STEPS = DEPTH / STEP;
// Rows of a warpgroup's sums; warpgroups that multiply, beside one that loads. As in cuda.py.
constexpr int ROWS = 64, WARPGROUPS = 3, THREADS = 128 * (WARPGROUPS + 1);
constexpr int GROUPS = DEPTH / GROUP;  // of columns with statistics of their own, in the norm before the product
static_assert(DEPTH % STEP == 0 && DEPTH % GROUP == 0);

__device__ inline void load(uint to, const TensorMap& map, uint barrier, int column, int row) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
            ::"r"(to), "l"(&map), "r"(barrier), "r"(column), "r"(row) : "memory");
}

// Issue d = a b, or d += a b with `add`, for 16 of the depth of 64 rows and of 128 or 160 weights in shared memory.
__device__ inline void multiply(float (&d)[64], ullong a, ullong b, int add) {
    asm volatile(PRODUCT("128", TO_63, "%64", "%65", "%66", "0, 0")
                 : SIXTEEN(d, 0), SIXTEEN(d, 16), SIXTEEN(d, 32), SIXTEEN(d, 48) : "l"(a), "l"(b), "r"(add));
}

__device__ inline void multiply(float (&d)[80], ullong a, ullong b, int add) {
    asm volatile(PRODUCT("160", TO_79, "%80", "%81", "%82", "0, 0")
                 : SIXTEEN(d, 0), SIXTEEN(d, 16), SIXTEEN(d, 32), SIXTEEN(d, 48), SIXTEEN(d, 64)
                 : "l"(a), "l"(b), "r"(add));
}

// x times the normal distribution function, as the logistic function of a polynomial: absolute errors of at most 4e-6.
__device__ inline float gelu(float x) {
    const float square = x * x;
    float series = __fmaf_rn(square, -3.2103725e-6f, 8.790968e-5f);
    series = __fmaf_rn(square, series, 3.6204825e-4f);
    series = __fmaf_rn(square, series, -0.10522998f);
    series = __fmaf_rn(square, series, -2.3020438f);
    return x * reciprocal(1.0f + power(x * series));
}

// Where a warp collects 16 rows and 32 columns of a result, in shared memory: tensor cores return matrices of 8 x 8, of
// which a thread has two neighbouring columns of a row, and memory is faster with 16 bytes per thread.
constexpr int STAGED = 16 * 64;  // bytes

// Return the address of eight columns, exchanged so that neither access has bank conflicts.
__device__ inline uint of_eight(uint staged, int row, int eight) { return staged + 64 * row + 16 * (eight ^ row / 2 % 4); }

// Return the address that a thread gives for four matrices next to each other: of a row of one of them.
__device__ inline uint of_matrices(uint staged, int half) {
    return of_eight(staged, threadIdx.x % 8 + 8 * half, threadIdx.x % 32 / 8);
}

// Return the address of a thread's 16 bytes.
__device__ inline uint of_thread(uint staged, int half) {
    return of_eight(staged, threadIdx.x % 32 / 4 + 8 * half, threadIdx.x % 4);
}

__device__ inline void store_matrices(uint to, const uint (&words)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
        ::"r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]) : "memory");
}

__device__ inline void load_matrices(uint from, uint (&words)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(from) : "memory");
}

__device__ inline void store_shared(uint to, const uint4& words) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};"
        ::"r"(to), "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w) : "memory");
}

__device__ inline uint4 load_shared(uint from) {
    uint4 words;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
        : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w) : "r"(from) : "memory");
    return words;
}

// Mean and 1 / standard deviation of a row, from mean and squared deviations of its COUNT groups of SIZE columns (Chan,
// Golub and LeVeque 1979).
template <int SIZE, int COUNT>
__device__ inline float2 merged(const float2* groups, float eps) {
    float2 all = groups[0];
#pragma unroll
    for (int i = 1; i < COUNT; ++i) {
        const float2 one = groups[i];
        const float difference = one.x - all.x;
        all.x += difference * (1.0f / (i + 1));
        all.y += one.y + difference * difference * (float(SIZE * i) / (i + 1));
    }
    return {all.x, rsqrtf(all.y * (1.0f / (SIZE * COUNT)) + eps)};
}

// The same of a thread's two rows: `row` and 8 further down, or the last. stats: of the rows of x, [rows, GROUPS].
__device__ inline void load_norms(float2 (&norms)[2], const float2* stats, int row, int rows) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
        norms[half] = merged<GROUP, GROUPS>(stats + static_cast<long long>(min(row + 8 * half, rows - 1)) * GROUPS, EPS);
}

// The sums of a warpgroup's 64 rows and WIDTH weights: a thread has rows lane / 4 and 8 further down, and of each eight
// columns two, so that four threads have those of a row.
template <int WIDTH>
struct Sums {
    float values[WIDTH / 2];

    // Return a sum after the norm. vectors: sums and shifts of the weights.
    __device__ inline float normed(int column, int half, int i, const float2& norm, const float (&vectors)[2][WIDTH]) const {
        const int at = column + 2 * (threadIdx.x % 4) + i;
        return (values[column / 2 + 2 * half + i] - norm.x * vectors[0][at]) * norm.y + vectors[1][at];
    }
};

// Wait for the 128 threads of a warpgroup.
__device__ inline void synchronize_group(int group) { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); }
