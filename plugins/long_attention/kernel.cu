// Attention of many queries for Hopper GPUs, with the softmax of one part of the keys after another (Milakov and
// Gimelshein 2018). WARPGROUPS warpgroups have 64 queries of one head each, and share the keys and values that another
// warp loads by TMA. As in FlashAttention-3 (Shah et al. 2024), a warpgroup's tensor cores compute the next scores and
// the last part of the result during its softmax, and the warpgroups take turns.
#include "hopper.cuh"

// QUERIES, TOKENS (keys), HEADS, HEAD (width of each), PART (keys at once), WARPGROUPS, STAGES and SCALE are defined by
// tiles.py.
constexpr int ROWS = 64 * WARPGROUPS, THREADS = 128 * WARPGROUPS + 32;
constexpr int PARTS = (TOKENS + PART - 1) / PART, REST = TOKENS % PART;  // REST: keys of the last part, or 0 for all
// A row in shared memory: BLOCKS of 64 values, those after HEAD zero. The same block of all rows lies together.
constexpr int BLOCKS = (HEAD + 63) / 64, ROW_BYTES = 128;
constexpr int QUERY_BYTES = BLOCKS * ROWS * ROW_BYTES, PART_BYTES = BLOCKS * PART * ROW_BYTES;
constexpr int STEPS = (HEAD + 15) / 16, PIECES = HEAD / 8;  // of 16 values, for tensor cores; of 16 bytes
constexpr float FACTOR = SCALE * 1.4426950408889634f;  // log2(e): exp2 is faster than exp
constexpr int STAGED = 16 * HEAD / 2;  // words of the results of a warp
static_assert(STAGES >= 2, "the next keys are loaded before the last values have been used");

__device__ inline void load(uint to, const TensorMap& map, uint barrier, int column, int head, int row, int picture) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
        "%6}], [%2];" ::"r"(to), "l"(&map), "r"(barrier), "r"(column), "r"(head), "r"(row), "r"(picture) : "memory");
}

// Load rows of a head, in blocks of so many bytes each.
__device__ inline void load_blocks(uint to, int bytes, const TensorMap& map, uint barrier, int head, int row,
                                   int picture) {
    expect(barrier, BLOCKS * bytes);
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
        load(to + block * bytes, map, barrier, 64 * block, head, row, picture);
}

// The product of 16 columns of 64 queries and of PART keys in shared memory.
__device__ inline void product_keys(float (&d)[32], ullong a, ullong b, int add) {
    asm volatile(PRODUCT("64", TO_31, "%32", "%33", "%34", "0, 0")
                 : SIXTEEN(d, 0), SIXTEEN(d, 16) : "l"(a), "l"(b), "r"(add));
}

__device__ inline void product_keys(float (&d)[40], ullong a, ullong b, int add) {
    asm volatile(PRODUCT("80", TO_39, "%40", "%41", "%42", "0, 0")
                 : SIXTEEN(d, 0), SIXTEEN(d, 16), FOUR(d, 32), FOUR(d, 36) : "l"(a), "l"(b), "r"(add));
}

__device__ inline void product_keys(float (&d)[48], ullong a, ullong b, int add) {
    asm volatile(PRODUCT("96", TO_47, "%48", "%49", "%50", "0, 0")
                 : SIXTEEN(d, 0), SIXTEEN(d, 16), SIXTEEN(d, 32) : "l"(a), "l"(b), "r"(add));
}

// The product of 16 weights, in registers, of each of 64 queries and of the values of 16 tokens in shared memory.
__device__ inline void product_values(float (&d)[20], const uint* a, ullong b, int add) {
    asm volatile(PRODUCT("40", TO_19, "{%20, %21, %22, %23}", "%24", "%25", "1")
                 : SIXTEEN(d, 0), FOUR(d, 16) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ inline void product_values(float (&d)[40], const uint* a, ullong b, int add) {
    asm volatile(PRODUCT("80", TO_39, "{%40, %41, %42, %43}", "%44", "%45", "1")
                 : SIXTEEN(d, 0), SIXTEEN(d, 16), FOUR(d, 32), FOUR(d, 36)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

// Descriptor of 16 tokens' values, whose blocks of 64 columns are PART rows apart.
__device__ inline ullong value_matrix(uint to) {
    return 1ull << 62 | 64ull << 32 | ullong(PART * ROW_BYTES / 16) << 16 | (to & 0x3ffff) >> 4;
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
            shrink[half] = power((highest[half] - higher) * FACTOR);
            highest[half] = higher;
            const float shift = -higher * FACTOR;
            float sum[2] = {0, 0};
#pragma unroll
            for (int i = 0; i < PART / 2; i += 4)
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    float& score = scores[i + 2 * half + j];
                    score = power(__fmaf_rn(score, FACTOR, shift));
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

// Give the keys after the last no weight.
__device__ inline void mask(float (&scores)[PART / 2]) {
#pragma unroll
    for (int i = 0; i < PART / 2; ++i)
        if (8 * (i / 4) + 2 * int(threadIdx.x % 4) + i % 2 >= REST) scores[i] = __int_as_float(0xff800000);
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
        product_keys(scores, matrix(queries + step / 4 * ROWS * ROW_BYTES + step % 4 * 32),
                     matrix(keys + step / 4 * PART * ROW_BYTES + step % 4 * 32), step);
}

// Issue total = weights * values, or with `add` total += weights * values.
__device__ inline void multiply_values(float (&total)[HEAD / 2], const uint (&weights)[PART / 4], uint values,
                                       bool add) {
#pragma unroll
    for (int step = 0; step < PART / 16; ++step)
        product_values(total, weights + 4 * step, value_matrix(values + 16 * ROW_BYTES * step), add || step);
}

// A program computes tiles, of ROWS queries of one head each, one after another.
struct Tile {
    int first, head, picture;  // first: of its queries
    __device__ inline explicit Tile(uint index) {
        constexpr uint DOWN = (QUERIES + ROWS - 1) / ROWS;
        first = index % DOWN * ROWS, head = index / DOWN % HEADS, picture = index / (DOWN * HEADS);
    }
};

// Write the rows of a warp, divided by the sums of their weights, by way of shared memory: 16 bytes per thread.
__device__ inline void write(uint4* result, uint* staged, const float (&total)[HEAD / 2], const float (&sums)[2],
                             int index) {
    const Tile tile(index);
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float sum = sums[half];
        sum += __shfl_xor_sync(0xffffffff, sum, 1);
        sum += __shfl_xor_sync(0xffffffff, sum, 2);
        const float factor = reciprocal(sum);
#pragma unroll
        for (int i = 0; i < PIECES; ++i)
            staged[(lane / 4 + 8 * half) * (HEAD / 2) + 4 * i + lane % 4] =
                pack(total[4 * i + 2 * half] * factor, total[4 * i + 2 * half + 1] * factor);
    }
    __syncwarp();
    const int first = tile.first + threadIdx.x / 32 * 16;
    result += ((static_cast<long long>(tile.picture) * QUERIES + first) * HEADS + tile.head) * PIECES;
#pragma unroll
    for (int i = lane; i < 16 * PIECES; i += 32)
        if (first + i / PIECES < QUERIES)
            result[i / PIECES * HEADS * PIECES + i % PIECES] = reinterpret_cast<const uint4*>(staged)[i];
    __syncwarp();
}

// A place in a ring of buffers in shared memory, and the parity of its barriers' phase.
template <int SIZE>
struct Place {
    int at = 0, parity = 0;
    __device__ inline void advance() {
        if (++at == SIZE) at = 0, parity ^= 1;
    }
};

// q: [n, QUERIES, HEADS, HEAD]; k, v: [n, TOKENS, HEADS, HEAD]; by maps with boxes of 64 columns, and of ROWS or PART
// rows, with zeros beyond. result: [n, QUERIES, HEADS, HEAD], contiguous, as groups of eight. Grid: at most `tiles`.
extern "C" __global__ __launch_bounds__(THREADS, 1) void canny2image_long_attention(
    const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
    uint4* result, int tiles) {
    extern __shared__ char unaligned[];
    __shared__ ullong barriers[4 + 4 * STAGES];
    __shared__ alignas(16) uint all_staged[4 * WARPGROUPS][STAGED];
    const uint queries = (address(unaligned) + 1023) & ~1023u;
    const uint keys = queries + 2 * QUERY_BYTES, values = keys + STAGES * PART_BYTES;
    const uint queries_full = address(barriers), queries_empty = queries_full + 16, keys_full = queries_empty + 16;
    const uint keys_empty = keys_full + 8 * STAGES, values_full = keys_empty + 8 * STAGES;
    const uint values_empty = values_full + 8 * STAGES;
    const int group = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
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
    Place<2> place;
    Place<STAGES> stage;
    if (group == WARPGROUPS) {
        if (threadIdx.x % 32) return;
        for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
            const Tile tile(index);
            wait(queries_empty + 8 * place.at, place.parity ^ 1);
            load_blocks(queries + place.at * QUERY_BYTES, ROWS * ROW_BYTES, q, queries_full + 8 * place.at, tile.head,
                        tile.first, tile.picture);
            place.advance();
            for (int part = 0; part < PARTS; ++part) {
                wait(keys_empty + 8 * stage.at, stage.parity ^ 1);
                load_blocks(keys + stage.at * PART_BYTES, PART * ROW_BYTES, k, keys_full + 8 * stage.at, tile.head,
                            part * PART, tile.picture);
                wait(values_empty + 8 * stage.at, stage.parity ^ 1);
                load_blocks(values + stage.at * PART_BYTES, PART * ROW_BYTES, v, values_full + 8 * stage.at, tile.head,
                            part * PART, tile.picture);
                stage.advance();
            }
        }
        return;
    }
    const bool leader = threadIdx.x % 128 == 0;
    const uint own = queries + group * 64 * ROW_BYTES;
    uint* staged = all_staged[threadIdx.x / 32];
    float scores[PART / 2], total[HEAD / 2], sums[2];
    uint weights[PART / 4];
    Softmax softmax;
    int index = blockIdx.x, part = 0;  // the tile of `total`, and the part of the next scores
    Place<STAGES> last;
    // The scores have been computed: what they were computed from may be overwritten.
    const auto use = [&] {
        if (leader) arrive(keys_empty + 8 * stage.at);
        if (REST && part == PARTS - 1) mask(scores);
        if (++part == PARTS) {
            if (leader) arrive(queries_empty + 8 * place.at);
            place.advance(), part = 0;
        }
    };
    const auto advance = [&] {
        last = stage;
        stage.advance();
    };
    const auto wait_for_next = [&] {
        if (part == 0) wait(queries_full + 8 * place.at, place.parity);
        wait(keys_full + 8 * stage.at, stage.parity);
    };
    if (group == WARPGROUPS - 1) pass_turn(group);
    softmax.begin();
    wait_for_next();
    take_turn(group);
    fence();
    multiply_keys(scores, own, keys);
    commit();
    pass_turn(group);
    finish<0>(scores);
    use();
    softmax.apply(scores);
    advance();
    pack_all(weights, scores);
    int left = ((tiles - 1 - index) / gridDim.x + 1) * PARTS - 1;
    if (left) wait_for_next();
    for (; left; --left) {
        take_turn(group);
        fence();
        multiply_keys(scores, own + place.at * QUERY_BYTES, keys + stage.at * PART_BYTES);
        commit();
        wait(values_full + 8 * last.at, last.parity);
        multiply_values(total, weights, values + last.at * PART_BYTES, PARTS > 1 && part != 1);
        commit();
        pass_turn(group);
        finish<1>(scores);
        const bool starts = part == 0;
        const int done = last.at;
        use();
        if (starts) {
            sums[0] = softmax.sums[0], sums[1] = softmax.sums[1];
            softmax.begin();
        }
        softmax.apply(scores);
        pin(scores);
        advance();
        // Besides its purpose, this branch keeps the compiler from waiting for `total` before the softmax.
        if (left > 1) wait_for_next();
        finish<0>(total);
        if (leader) arrive(values_empty + 8 * done);
        if (starts) {
            write(result, staged, total, sums, index);
            index += gridDim.x;
        }
        pack_all(weights, scores);
        softmax.rescale(total);
    }
    wait(values_full + 8 * last.at, last.parity);
    take_turn(group);
    fence();
    multiply_values(total, weights, values + last.at * PART_BYTES, PARTS > 1);
    commit();
    if (group < WARPGROUPS - 1) pass_turn(group);
    finish<0>(total);
    write(result, staged, total, softmax.sums, index);
}
