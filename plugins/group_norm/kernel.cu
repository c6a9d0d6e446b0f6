// GroupNorm (Wu and He 2018) of x + shift, optionally followed by SiLU: float16 input, float32 arithmetic, and float16
// output or, with FP8, e4m3 values of FP8 times the result.
//
// A group spans all pixels of an image, so its statistics need either a second kernel or communication between blocks.
// Here up to eight blocks form a cluster: they divide the pixels of one span of channels (one or several whole groups)
// among themselves, and each warp sends its means and squared deviations into the shared memory of all of them. Each
// thread keeps its last values in registers, so a map that fits is read once. All sums have a fixed order, so every run
// gives the same bits. For larger maps see large.cu.
//
// The input may also be two maps, x and skip + residual, whose channels follow each other; the kernel then writes them
// as one map, too.
//
// Grid: (CLUSTER, CHANNELS / SPAN, images), blocks of THREADS. launch.py sets these constants with -D:
//   CHANNELS, GROUPS; CHANNELS_LAST: 1 for [n, pixels, c], 0 for [n, c, pixels]; SHIFT, SILU: 1 or 0; EPS
//   FP8: the factor of e4m3 output, 0 for float16 output
//   JOINED: the channels of x if there are two maps, otherwise 0
//   VECTOR: values per load; SPAN: channels per cluster; CLUSTER: blocks per cluster; THREADS: threads per block
//   HOLD: vectors kept in registers per thread

#include "values.cuh"

struct alignas(2 * VECTOR) Vector { Half at[VECTOR]; };

constexpr int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }

constexpr int GROUP = CHANNELS / GROUPS;                                  // channels per group
constexpr int SPAN_GROUPS = SPAN / GROUP;
constexpr int WIDTH = CHANNELS_LAST ? SPAN / VECTOR : 1;                  // vectors per pixel
constexpr bool FIXED = CHANNELS_LAST && WIDTH <= THREADS;                 // a thread always sees the same channels
constexpr int COLUMNS = FIXED ? WIDTH : 1;                                // ROWS x COLUMNS threads; the rest are idle
constexpr int ROWS = THREADS / COLUMNS;
constexpr int ACTIVE = ROWS * COLUMNS;
constexpr int PIECE = CHANNELS_LAST ? gcd(VECTOR, GROUP) : VECTOR;        // values of a vector that share a group
constexpr int PIECES = VECTOR / PIECE;
constexpr int WARPS = THREADS / 32;
constexpr int PARTS = CLUSTER * WARPS;                                    // parts of a group's statistics
// Whether a vector has whole groups: then a warp merges the groups of all its lanes at once, each with the lanes that
// see the same channels, instead of one group after another.
constexpr bool WHOLE = FIXED && PIECE == GROUP && 32 % WIDTH == 0 && CLUSTER * WIDTH <= 32;
static_assert(CHANNELS % SPAN == 0 && SPAN % GROUP == 0 && THREADS % 32 == 0,
              "SPAN needs whole groups, THREADS whole warps");
static_assert(!CHANNELS_LAST || SPAN % VECTOR == 0, "SPAN must be whole vectors");
static_assert(FIXED || SPAN_GROUPS == 1, "a thread would see several groups");
static_assert(FIXED || !SHIFT, "a thread would see several shifts");
static_assert(FIXED || !JOINED, "a thread would read several maps");
static_assert(JOINED % VECTOR == 0, "a vector would be part of two maps");
#if CLUSTER > 1 && defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#error "clusters need sm_90 or newer: compile with CLUSTER=1"
#endif

#if FP8
using Out = unsigned char;  // e4m3 bits

__device__ unsigned short to_pair(float low, float high) {  // values beyond the largest become the largest
    unsigned short bits;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(high), "f"(low));
    return bits;
}
#else
using Out = Half;
#endif
struct alignas(sizeof(Out) * VECTOR) Result { Out at[VECTOR]; };

__device__ Result rounded(const float (&values)[VECTOR]) {
    Result result;
#if FP8
    for (int j = 0; j < VECTOR; j += 2) {
        const unsigned short pair = to_pair(FP8 * values[j], j + 1 < VECTOR ? FP8 * values[j + 1] : 0);
        result.at[j] = pair & 255;
        if (j + 1 < VECTOR) result.at[j + 1] = pair >> 8;
    }
#else
    for (int j = 0; j < VECTOR; ++j) result.at[j] = to_half(values[j]);
#endif
    return result;
}

__device__ Vector load(const Half* from) { return *reinterpret_cast<const Vector*>(from); }

#if JOINED
static_assert(VECTOR % 2 == 0, "joined maps need pairs of values");
struct alignas(2 * VECTOR) Pairs { unsigned at[VECTOR / 2]; };

__device__ Pairs load_pairs(const Half* from) { return *reinterpret_cast<const Pairs*>(from); }

__device__ Vector add(Pairs left, const Pairs& right) {  // rounded to float16
    for (int j = 0; j < VECTOR / 2; ++j) asm("add.rn.f16x2 %0, %0, %1;" : "+r"(left.at[j]) : "r"(right.at[j]));
    return __builtin_bit_cast(Vector, left);
}
#endif

// Merges the statistics of all lanes of a warp, each with N parts, always in the same order.
template <int N> __device__ Stats merge(const Stats (&parts)[N]) {
    float count = 0, sum = 0, squares = 0;
    for (const Stats& part : parts) count += part.count, sum += part.count * part.mean;
    count = warp_sum(count);
    const float mean = warp_sum(sum) / fmaxf(count, 1);  // without pixels the count is 0
    for (const Stats& part : parts) squares += part.squares + part.count * (part.mean - mean) * (part.mean - mean);
    return {count, mean, warp_sum(squares)};
}

// The statistics of the groups of a vector, which have equal counts.
struct Groups { float count, mean[PIECES], squares[PIECES]; };

// Adds up the values of all lanes that see the same channels.
template <int N> __device__ void add_lanes(float (&values)[N]) {
    for (int lanes = 16; lanes >= WIDTH; lanes /= 2)
        for (float& value : values) value += __shfl_xor_sync(~0u, value, lanes);
}

// Merges the statistics of all lanes that see the same channels, each with N parts, always in the same order.
template <int N> __device__ Groups merge(const Groups (&parts)[N]) {
    Groups all = {};
    float count[1] = {};
    for (const Groups& part : parts) {
        count[0] += part.count;
        for (int p = 0; p < PIECES; ++p) all.mean[p] += part.count * part.mean[p];
    }
    add_lanes(count), add_lanes(all.mean);
    all.count = count[0];
    for (float& mean : all.mean) mean /= fmaxf(all.count, 1);
    for (const Groups& part : parts)
        for (int p = 0; p < PIECES; ++p) {
            const float apart = part.mean[p] - all.mean[p];
            all.squares[p] += part.squares[p] + part.count * apart * apart;
        }
    add_lanes(all.squares);
    return all;
}

// What all warps of a cluster send to all of its blocks. A barrier of the cluster in its place would first wait until
// all earlier writes have reached the GPU's memory.
__shared__ Stats received[SPAN_GROUPS][PARTS];
__shared__ unsigned long long arrivals;  // counts the bytes that have arrived, if CLUSTER > 1

// The address of a variable in the shared memory of another block of the cluster.
__device__ unsigned address(const void* local, int rank) {
    unsigned address = __cvta_generic_to_shared(local);
    asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
    return address;
}

// A block may send when all blocks have begun to receive, and exit when it has received everything.
__device__ void begin_receiving() {
    if (CLUSTER == 1) return;
    if (threadIdx.x == 0) {
        const unsigned counter = __cvta_generic_to_shared(&arrivals);
        asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(counter) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(counter), "n"(sizeof received));
    }
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}

__device__ void wait_for_receivers() { if (CLUSTER > 1) asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

// Sends a group's statistics to block `to` of the cluster, if there is one.
__device__ void send(const Stats& stats, int group, int rank, int to) {
    Stats& place = received[group][rank * WARPS + threadIdx.x / 32];
    if (CLUSTER == 1 && to == 0) place = stats;
    if (CLUSTER > 1 && to < CLUSTER)
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %3}, [%4];"
                     ::"r"(address(&place, to)), "f"(stats.count), "f"(stats.mean), "f"(stats.squares),
                       "r"(address(&arrivals, to)) : "memory");
}

__device__ void wait_for_statistics() {
    if (CLUSTER == 1) return __syncthreads();
    asm volatile("{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared.b64 done, [%0], 0;\n@!done bra again;\n}"
                 ::"r"(unsigned(__cvta_generic_to_shared(&arrivals))) : "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS)
#if CLUSTER > 1
__cluster_dims__(CLUSTER, 1, 1)
#endif
canny2image_group_norm(const Half* x, const Half* weight, const Half* bias,
#if SHIFT
           const Half* shift,  // one value per channel, the same for all images
#endif
#if JOINED
           const Half* skip, const Half* residual,  // the channels after those of x are those of skip + residual
#endif
           int pixels, Out* __restrict__ y
#if JOINED
           , Half* __restrict__ joined
#endif
) {
    begin_receiving();
    wait_for_previous();
    const int thread = threadIdx.x, rank = blockIdx.x, channel = blockIdx.y * SPAN;
    const int start = blockIdx.z * pixels * CHANNELS + (CHANNELS_LAST ? channel : channel * pixels);
#if JOINED
    const int own = channel + threadIdx.x % WIDTH * VECTOR;
    const bool added = own >= JOINED;  // whether this thread's channels are those of skip + residual
    const int stride = added ? CHANNELS - JOINED : JOINED;
    const int begin = blockIdx.z * pixels * stride + own - added * JOINED;
    x = added ? skip + begin : x + begin, residual += begin, joined += start;
#else
    x += start;
#endif
    y += start, weight += channel, bias += channel;

    // This block processes vectors first, first + 1, ..., end - 1 of the span; in channels-last maps, whole pixels.
    const int units = CHANNELS_LAST ? pixels : SPAN * pixels / VECTOR, per_block = (units + CLUSTER - 1) / CLUSTER;
    const int first = min(rank * per_block, units) * WIDTH, end = min((rank + 1) * per_block, units) * WIDTH;
    const int chunks = (end - first + ACTIVE * HOLD - 1) / (ACTIVE * HOLD);

    const auto index = [&](int chunk, int k) { return first + thread + (chunk * HOLD + k) * ACTIVE; };
    const auto offset = [&](int i) { return CHANNELS_LAST ? i / WIDTH * CHANNELS + i % WIDTH * VECTOR : i * VECTOR; };
    Vector held[HOLD] = {};  // what is not loaded has a value, which is not used
#if JOINED
    const auto load_chunk = [&](int chunk) {
        int loaded = 0;
        Pairs values[HOLD] = {}, residuals[HOLD];
#pragma unroll
        for (int k = 0; k < HOLD; ++k) {
            for (unsigned& pair : residuals[k].at) pair = 0x80008000;  // -0, which changes no value that it is added to
            if (const int i = index(chunk, k); i < end && thread < ACTIVE) {
                values[k] = load_pairs(x + i / WIDTH * stride), ++loaded;
                if (added) residuals[k] = load_pairs(residual + i / WIDTH * stride);
            }
        }
#pragma unroll
        for (int k = 0; k < HOLD; ++k) held[k] = add(values[k], residuals[k]);
        return loaded;
    };
    const auto store_joined = [&](int chunk) {
#pragma unroll
        for (int k = 0; k < HOLD; ++k)
            if (const int i = index(chunk, k); i < end && thread < ACTIVE)
                *reinterpret_cast<Vector*>(joined + offset(i)) = held[k];
    };
#else
    const auto load_chunk = [&](int chunk) {
        int loaded = 0;
#pragma unroll
        for (int k = 0; k < HOLD; ++k)
            if (const int i = index(chunk, k); i < end && thread < ACTIVE) held[k] = load(x + offset(i)), ++loaded;
        return loaded;
    };
#endif

#if SHIFT
    const Vector shifts = load(shift + channel + thread % WIDTH * VECTOR);
    const auto value = [&](int k, int j) { return to_float(held[k].at[j]) + to_float(shifts.at[j]); };
#else
    const auto value = [&](int k, int j) { return to_float(held[k].at[j]); };
#endif

    Vector weights, biases;
    const auto load_affine = [&](int i) {  // weight and bias for the channels of vector i
        if constexpr (CHANNELS_LAST) {
            weights = load(weight + i % WIDTH * VECTOR), biases = load(bias + i % WIDTH * VECTOR);
        } else {
            for (int j = 0; j < VECTOR; ++j)
                weights.at[j] = weight[i * VECTOR / pixels], biases.at[j] = bias[i * VECTOR / pixels];
        }
    };
    if constexpr (FIXED) load_affine(thread);  // early: these loads take as long as those of x

    // Merges mean and squared deviations of each chunk with the previous ones (Chan, Golub and LeVeque 1983).
    float count = 0, mean[PIECES] = {}, square[PIECES] = {};
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const int loaded = load_chunk(chunk);
        if (!loaded) break;
#if JOINED
        store_joined(chunk);
#endif
        const float more = loaded * PIECE, inverse = 1 / more, share = more / (count + more);
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece) {
            // Vectors that were not loaded are left out as a whole, which takes fewer instructions.
            float sum = 0, deviations = 0;
#pragma unroll
            for (int k = 0; k < HOLD; ++k) {
                float some = 0;
                for (int j = 0; j < PIECE; ++j) some += value(k, piece * PIECE + j);
                sum += k < loaded ? some : 0;
            }
            const float chunk_mean = sum * inverse;
#pragma unroll
            for (int k = 0; k < HOLD; ++k) {
                float some = 0;
                for (int j = 0; j < PIECE; ++j) {
                    const float deviation = value(k, piece * PIECE + j) - chunk_mean;
                    some += deviation * deviation;
                }
                deviations += k < loaded ? some : 0;
            }
            const float apart = chunk_mean - mean[piece];
            mean[piece] += apart * share;
            square[piece] += deviations + apart * apart * count * share;
        }
        count += more;
    }

    // Merges the statistics of each warp's threads, then those of all warps of the cluster.
    const int lane = thread % 32;
    float means[VECTOR], deviations[VECTOR];  // of each value's group; 1 / standard deviation
    wait_for_receivers();
    if constexpr (WHOLE) {
        const int column = lane % WIDTH, row = lane / WIDTH;
        // The compiler checks this branch also where WIDTH exceeds 32.
        constexpr int LANES = WHOLE ? 32 / WIDTH : 1, EACH = (PARTS + LANES - 1) / LANES;
        Groups own[1] = {{count}};
        for (int p = 0; p < PIECES; ++p) own[0].mean[p] = mean[p], own[0].squares[p] = square[p];
        const Groups warp = merge(own);
        for (int p = 0; p < PIECES; ++p)
            send({warp.count, warp.mean[p], warp.squares[p]}, column * PIECES + p, rank, row);
        wait_for_statistics();
        Groups parts[EACH] = {};
        for (int i = 0; i < EACH; ++i)
            if (const int part = i * LANES + row; part < PARTS)
                for (int p = 0; p < PIECES; ++p) {
                    const Stats one = received[column * PIECES + p][part];
                    parts[i].count = one.count, parts[i].mean[p] = one.mean, parts[i].squares[p] = one.squares;
                }
        const Groups all = merge(parts);
        for (int j = 0; j < VECTOR; ++j)
            means[j] = all.mean[j / PIECE], deviations[j] = rsqrtf(all.squares[j / PIECE] / all.count + float(EPS));
    } else {
        const auto group_of = [&](int j) { return FIXED ? (thread % WIDTH * VECTOR + j) / GROUP : 0; };
#pragma unroll
        for (int group = 0; group < SPAN_GROUPS; ++group) {
            Stats parts[PIECES];
            for (int p = 0; p < PIECES; ++p)
                parts[p] = group_of(p * PIECE) == group ? Stats{count, mean[p], square[p]} : Stats{};
            send(merge(parts), group, rank, lane);
        }
        wait_for_statistics();
#pragma unroll
        for (int group = 0; group < SPAN_GROUPS; ++group) {
            Stats parts[(PARTS + 31) / 32] = {};
            for (int i = 0; i < (PARTS + 31) / 32; ++i)
                if (const int part = i * 32 + lane; part < PARTS) parts[i] = received[group][part];
            const Stats all = merge(parts);
            const float deviation = rsqrtf(all.squares / all.count + float(EPS));
            for (int j = 0; j < VECTOR; ++j)
                if (group_of(j) == group) means[j] = all.mean, deviations[j] = deviation;
        }
    }

    float scale[VECTOR], offsets[VECTOR];
    const auto prepare = [&] {  // scale and offset of each value in a vector
#pragma unroll
        for (int j = 0; j < VECTOR; ++j) {
            scale[j] = deviations[j] * to_float(weights.at[j]);
            offsets[j] = to_float(biases.at[j]) - means[j] * scale[j];
        }
    };
    if constexpr (FIXED) prepare();

    // Last chunk first: it is still in registers, and recently read chunks are most likely still in the cache.
    for (int chunk = chunks - 1; chunk >= 0; --chunk) {
        if (chunk < chunks - 1) load_chunk(chunk);
#pragma unroll
        for (int k = 0; k < HOLD; ++k) {
            const int i = index(chunk, k);
            const bool exists = i < end && thread < ACTIVE;
            if constexpr (!FIXED) if (exists) load_affine(i), prepare();
            float results[VECTOR];
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) {
                const float normal = value(k, j) * scale[j] + offsets[j];
                results[j] = SILU ? silu(normal) : normal;
            }
            if (exists) *reinterpret_cast<Result*>(y + offset(i)) = rounded(results);
        }
    }
}
