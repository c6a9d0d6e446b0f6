// Attention over many tokens for Hopper GPUs, with the softmax of one part of the keys after another (Milakov and
// Gimelshein 2018). WARPGROUPS warpgroups have 64 queries of one head each, and share the keys and values that another
// warp loads by TMA. As in FlashAttention-3 (Shah et al. 2024), a warpgroup's tensor cores compute the next scores and
// the last part of the result during its softmax, and the warpgroups take turns.
#include "hopper.cuh"

// HEAD, PART, ROWS, THREADS and the size of the shared memory are as in op.py.
constexpr int HEAD = 40;  // width of a head
constexpr int PART = 96;  // keys at once; with 128, a warpgroup needs more than the 128 registers per thread
constexpr int WARPGROUPS = 3, STAGES = 3;
constexpr int ROWS = 64 * WARPGROUPS, ROW_BYTES = 128;  // a row of 64 values in shared memory, of which HEAD are used
constexpr int QUERY_BYTES = ROWS * ROW_BYTES, PART_BYTES = PART * ROW_BYTES;
constexpr int STEPS = (HEAD + 15) / 16;
constexpr int THREADS = 128 * WARPGROUPS + 32;
constexpr float SCALE = 0.15811388300841897f * 1.4426950408889634f;  // HEAD^-0.5 log2(e): exp2 is faster than exp

__device__ inline void load(uint to, const TensorMap& map, uint barrier, int head, int row, int picture) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
        "%6}], [%2];" ::"r"(to), "l"(&map), "r"(barrier), "r"(0), "r"(head), "r"(row), "r"(picture) : "memory");
}

// Issue d = a b, or d += a b with `add`, for 16 columns of 64 queries and of PART keys in shared memory.
__device__ inline void product_keys(float (&d)[PART / 2], ullong a, ullong b, int add) {
    static_assert(PART == 96);
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %50, 0;\nwgmma.mma_async.sync.aligned.m64n96k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
        "}, %48, %49, add, 1, 1, 0, 0;\n}"
        : FOUR(d, 0), FOUR(d, 4), FOUR(d, 8), FOUR(d, 12), FOUR(d, 16), FOUR(d, 20),
          FOUR(d, 24), FOUR(d, 28), FOUR(d, 32), FOUR(d, 36), FOUR(d, 40), FOUR(d, 44)
        : "l"(a), "l"(b), "r"(add));
}

// Issue d += a b for 16 weights, in registers, of each of 64 queries and for the values of 16 tokens in shared memory.
__device__ inline void product_values(float (&d)[HEAD / 2], uint a0, uint a1, uint a2, uint a3, ullong b) {
    static_assert(HEAD == 40);
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n40k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19"
        "}, {%20, %21, %22, %23}, %24, 1, 1, 1, 1;"
        : FOUR(d, 0), FOUR(d, 4), FOUR(d, 8), FOUR(d, 12), FOUR(d, 16)
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

// The softmax of a thread's two rows of scores, of which a thread has columns 8 i + 2 (lane % 4) and the next.
struct Softmax {
    float highest[2], sums[2], shrink[2];

    __device__ inline void begin() {
        for (int half = 0; half < 2; ++half) highest[half] = __int_as_float(0xff800000), sums[half] = 0;
    }

    // Replace scores by weights.
    __device__ inline void apply(float (&scores)[PART / 2]) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float top[2] = {scores[2 * half], scores[2 * half + 1]};
#pragma unroll
            for (int i = 4; i < PART / 2; i += 4) {
                top[0] = fmaxf(top[0], scores[i + 2 * half]);
                top[1] = fmaxf(top[1], scores[i + 2 * half + 1]);
            }
            float higher = fmaxf(top[0], top[1]);
            higher = fmaxf(higher, __shfl_xor_sync(0xffffffff, higher, 1));
            higher = fmaxf(higher, __shfl_xor_sync(0xffffffff, higher, 2));
            higher = fmaxf(higher, highest[half]);
            shrink[half] = power((highest[half] - higher) * SCALE);
            highest[half] = higher;
            const float shift = -higher * SCALE;
            float sum[2] = {0, 0};
#pragma unroll
            for (int i = 0; i < PART / 2; i += 4)
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    float& score = scores[i + 2 * half + j];
                    score = power(__fmaf_rn(score, SCALE, shift));
                    sum[j] += score;
                }
            sums[half] = __fmaf_rn(sums[half], shrink[half], sum[0] + sum[1]);
        }
    }

    __device__ inline void rescale(float (&total)[HEAD / 2]) const {
#pragma unroll
        for (int i = 0; i < HEAD / 2; ++i) total[i] *= shrink[i / 2 % 2];
    }
};

__device__ inline void clear(float (&total)[HEAD / 2]) {
#pragma unroll
    for (int i = 0; i < HEAD / 2; ++i) total[i] = 0;
}

__device__ inline void pack_all(uint (&weights)[PART / 4], const float (&scores)[PART / 2]) {
#pragma unroll
    for (int i = 0; i < PART / 4; ++i) weights[i] = pack(scores[2 * i], scores[2 * i + 1]);
}

// Multiplications are issued by one warpgroup after another, so that the softmax of one overlaps those of the others.
__device__ inline void take_turn(int group) {
    asm volatile("bar.sync %0, 256;" ::"r"(group + 1) : "memory");
}

__device__ inline void pass_turn(int group) {
    asm volatile("bar.arrive %0, 256;" ::"r"((group + 1) % WARPGROUPS + 1) : "memory");
}

// Issue scores = queries * keys.
__device__ inline void multiply_keys(float (&scores)[PART / 2], uint queries, uint keys) {
#pragma unroll
    for (int step = 0; step < STEPS; ++step)
        product_keys(scores, matrix(queries + 32 * step), matrix(keys + 32 * step), step);
}

// Issue total += weights * values.
__device__ inline void multiply_values(float (&total)[HEAD / 2], const uint (&weights)[PART / 4], uint values) {
#pragma unroll
    for (int step = 0; step < PART / 16; ++step)
        product_values(total, weights[4 * step], weights[4 * step + 1], weights[4 * step + 2], weights[4 * step + 3],
                       matrix(values + 16 * ROW_BYTES * step));
}

// A program computes tiles, of ROWS queries of one head each, one after another.
struct Tile {
    int first, head, picture;  // first: of its queries
    __device__ inline Tile(int index, int rows, int heads) {
        const int blocks = (rows + ROWS - 1) / ROWS;
        first = index % blocks * ROWS, head = index / blocks % heads, picture = index / blocks / heads;
    }
};

// Write a thread's two rows of a tile, divided by the sums of their weights.
__device__ inline void write(uint* result, const float (&total)[HEAD / 2], const float (&sums)[2], int index, int rows,
                             int heads) {
    const Tile tile(index, rows, heads);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float sum = sums[half];
        sum += __shfl_xor_sync(0xffffffff, sum, 1);
        sum += __shfl_xor_sync(0xffffffff, sum, 2);
        const float factor = 1 / sum;
        const int row = tile.first + 16 * warp + lane / 4 + 8 * half;
        if (row < rows) {
            const long long at = (static_cast<long long>(tile.picture) * rows + row) * heads + tile.head;
            uint* to = result + at * (HEAD / 2) + lane % 4;
#pragma unroll
            for (int i = 0; i < HEAD / 8; ++i)
                to[4 * i] = pack(total[4 * i + 2 * half] * factor, total[4 * i + 2 * half + 1] * factor);
        }
    }
}

// A place in a ring of buffers in shared memory, and the parity of its barriers' phase.
template <int SIZE>
struct Place {
    int at = 0, parity = 0;
    __device__ inline void advance() {
        if (++at == SIZE) at = 0, parity ^= 1;
    }
};

// q: [n, rows, heads, HEAD]; k, v: [n, tokens, heads, HEAD]; by maps with boxes of 64 columns, those after HEAD zero.
// tokens: at least two whole PARTs. result: [n, rows, heads, HEAD], contiguous. Grid: at most as many as tiles.
extern "C" __global__ __launch_bounds__(THREADS, 1) void canny2image_long_attention(
    const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
    uint* result, int rows, int tokens, int heads, int tiles) {
    extern __shared__ char unaligned[];
    __shared__ ullong barriers[4 + 4 * STAGES];
    const uint queries = (address(unaligned) + 1023) & ~1023u;
    const uint keys = queries + 2 * QUERY_BYTES, values = keys + STAGES * PART_BYTES;
    const uint queries_full = address(barriers), queries_empty = queries_full + 16, keys_full = queries_empty + 16;
    const uint keys_empty = keys_full + 8 * STAGES, values_full = keys_empty + 8 * STAGES;
    const uint values_empty = values_full + 8 * STAGES;
    const int group = __shfl_sync(0xffffffff, threadIdx.x / 128, 0), parts = tokens / PART;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; ++i) init(queries_full + 8 * i, 1), init(queries_empty + 8 * i, WARPGROUPS);
        for (int stage = 0; stage < STAGES; ++stage) {
            init(keys_full + 8 * stage, 1);
            init(values_full + 8 * stage, 1);
            init(keys_empty + 8 * stage, WARPGROUPS);
            init(values_empty + 8 * stage, WARPGROUPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");  // see runtime/early_launch.py
    if (group == WARPGROUPS) {
        if (threadIdx.x % 32) return;
        Place<2> place;
        Place<STAGES> stage;
        for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
            const Tile tile(index, rows, heads);
            wait(queries_empty + 8 * place.at, place.parity ^ 1);
            expect(queries_full + 8 * place.at, QUERY_BYTES);
            load(queries + place.at * QUERY_BYTES, q, queries_full + 8 * place.at, tile.head, tile.first, tile.picture);
            place.advance();
            for (int part = 0; part < parts; ++part) {
                wait(keys_empty + 8 * stage.at, stage.parity ^ 1);
                expect(keys_full + 8 * stage.at, PART_BYTES);
                load(keys + stage.at * PART_BYTES, k, keys_full + 8 * stage.at, tile.head, part * PART, tile.picture);
                wait(values_empty + 8 * stage.at, stage.parity ^ 1);
                expect(values_full + 8 * stage.at, PART_BYTES);
                load(values + stage.at * PART_BYTES, v, values_full + 8 * stage.at, tile.head, part * PART, tile.picture);
                stage.advance();
            }
        }
        return;
    }
    const bool leader = threadIdx.x % 128 == 0;
    const uint own = queries + group * 64 * ROW_BYTES;
    float scores[PART / 2], total[HEAD / 2], sums[2];
    uint weights[PART / 4];
    Softmax softmax;
    softmax.begin();
    clear(total);
    if (group == WARPGROUPS - 1) pass_turn(group);

    wait(queries_full, 0);
    wait(keys_full, 0);
    take_turn(group);
    fence();
    multiply_keys(scores, own, keys);
    commit();
    pass_turn(group);
    finish<0>(scores);
    if (leader) arrive(keys_empty);
    softmax.apply(scores);
    pack_all(weights, scores);
    int index = blockIdx.x, part = 1;  // the tile of `total`, and the part of the next scores
    Place<2> place;
    Place<STAGES> last, stage;
    stage.advance();
    wait(keys_full + 8 * stage.at, stage.parity);
    for (int left = ((tiles - 1 - index) / gridDim.x + 1) * parts - 1; left; --left) {
        take_turn(group);
        fence();
        multiply_keys(scores, own + place.at * QUERY_BYTES, keys + stage.at * PART_BYTES);
        commit();
        wait(values_full + 8 * last.at, last.parity);
        multiply_values(total, weights, values + last.at * PART_BYTES);
        commit();
        pass_turn(group);
        finish<1>(scores);
        const bool starts = part == 0;
        if (leader) arrive(keys_empty + 8 * stage.at);
        if (++part == parts) {
            if (leader) arrive(queries_empty + 8 * place.at);
            place.advance(), part = 0;
        }
        if (starts) {
            sums[0] = softmax.sums[0], sums[1] = softmax.sums[1];
            softmax.begin();
        }
        softmax.apply(scores);
        pin(scores);
        const int done = last.at;
        last = stage;
        stage.advance();
        // Besides its purpose, this branch keeps the compiler from waiting for `total` before the softmax.
        if (left > 1) {
            if (part == 0) wait(queries_full + 8 * place.at, place.parity);
            wait(keys_full + 8 * stage.at, stage.parity);
        }
        finish<0>(total);
        if (leader) arrive(values_empty + 8 * done);
        if (starts) {
            write(result, total, sums, index, rows, heads);
            index += gridDim.x;
            clear(total);
        }
        pack_all(weights, scores);
        softmax.rescale(total);
    }
    wait(values_full + 8 * last.at, last.parity);
    take_turn(group);
    fence();
    multiply_values(total, weights, values + last.at * PART_BYTES);
    commit();
    if (group < WARPGROUPS - 1) pass_turn(group);
    finish<0>(total);
    write(result, total, softmax.sums, index, rows, heads);
}
