// GroupNorm (Wu and He 2018) of x + shift, optionally followed by SiLU: float16 input and output, float32 arithmetic.
//
// A group spans all pixels of an image, so its statistics need either a second kernel or communication between blocks.
// Here up to eight blocks form a cluster: they divide the pixels of one span of channels (one or several whole groups)
// among themselves and read each other's means and squared deviations from shared memory. Each thread keeps its last
// values in registers, so a map that fits is read once. All sums have a fixed order, so every run gives the same bits.
//
// Grid: (CLUSTER, CHANNELS / SPAN, images), blocks of THREADS. compile.py sets these constants with -D:
//   CHANNELS, GROUPS; CHANNELS_LAST: 1 for [n, pixels, c], 0 for [n, c, pixels]; SHIFT, SILU: 1 or 0; EPS
//   VECTOR: values per load; SPAN: channels per cluster; CLUSTER: blocks per cluster; THREADS: threads per block
//   HOLD: vectors kept in registers per thread

using Half = unsigned short;  // float16 bits; NVRTC may be installed without cuda_fp16.h
struct alignas(2 * VECTOR) Vector { Half at[VECTOR]; };

#ifndef STORE
#define STORE 2
#endif
#ifndef EXCHANGE
#define EXCHANGE 0
#endif
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
constexpr int SHARES = FIXED ? GROUP / PIECE : 1;                         // pieces of a group in one row of threads
constexpr int WARPS = THREADS / 32;
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

__device__ float to_float(Half bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ Half to_half(float value) {
    Half bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
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

__device__ float warp_sum(float value) {
    for (int lanes = 16; lanes; lanes /= 2) value += __shfl_xor_sync(~0u, value, lanes);
    return value;
}

// Reads the variable at `local` from the shared memory of block `rank` of the cluster.
__device__ float read_from(int rank, const float* local) {
    if (CLUSTER == 1) return *local;
    unsigned address = __cvta_generic_to_shared(local);
    float value;
    asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}

// A barrier of the whole cluster in two halves. If CLUSTER is 1, the first is a block barrier, the second does nothing.
__device__ void cluster_arrive() {
    if (CLUSTER > 1) asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    else __syncthreads();
}
__device__ void cluster_arrive_relaxed() {
    if (CLUSTER > 1) asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
    else __syncthreads();
}
__device__ unsigned shared_address(const void* local) { return __cvta_generic_to_shared(local); }
__device__ unsigned mapped(unsigned address, int rank) {
    asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
    return address;
}
__device__ void cluster_wait() { if (CLUSTER > 1) asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

// Waits for the previous kernel: see runtime/early_launch.py. What it may have written is read without __restrict__,
// because the compiler may move loads of memory that it takes for constant.
__device__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
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
           int pixels, Half* __restrict__ y
#if JOINED
           , Half* __restrict__ joined
#endif
) {
    __shared__ float counts[THREADS], means[PIECES][THREADS], squares[PIECES][THREADS];      // per thread
    __shared__ float block_count, block_mean[SPAN_GROUPS], block_squares[SPAN_GROUPS];       // read by other blocks
    __shared__ float group_mean[SPAN_GROUPS], group_scale[SPAN_GROUPS];

#if EXCHANGE == 2 && CLUSTER > 1
    __shared__ alignas(8) unsigned long long arrived;
    __shared__ alignas(16) float received[SPAN_GROUPS][CLUSTER][4];
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared_address(&arrived)) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(&arrived)),
                     "r"(CLUSTER * SPAN_GROUPS * 16) : "memory");
    }
    cluster_arrive_relaxed();
#endif
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
    Vector held[HOLD];
#if JOINED
    const auto load_chunk = [&](int chunk) {
        int loaded = 0;
        Pairs values[HOLD], residuals[HOLD];
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
#if JOINED && STORE == 0
        store_joined(chunk);
#endif
        const float more = loaded * PIECE, inverse = 1 / more, share = more / (count + more);
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece) {
            float sum = 0, deviations = 0;
#pragma unroll
            for (int k = 0; k < HOLD; ++k)
                for (int j = 0; j < PIECE; ++j)
                    if (k < loaded) sum += value(k, piece * PIECE + j);
            const float chunk_mean = sum * inverse;
#pragma unroll
            for (int k = 0; k < HOLD; ++k)
                for (int j = 0; j < PIECE; ++j)
                    if (k < loaded) {
                        const float deviation = value(k, piece * PIECE + j) - chunk_mean;
                        deviations += deviation * deviation;
                    }
            const float apart = chunk_mean - mean[piece];
            mean[piece] += apart * share;
            square[piece] += deviations + apart * apart * count * share;
        }
        count += more;
    }
    counts[thread] = count;
    for (int p = 0; p < PIECES; ++p) means[p][thread] = mean[p], squares[p][thread] = square[p];
    __syncthreads();

    // Merges the statistics of this block's threads, one warp per group.
    for (int group = thread / 32; group < SPAN_GROUPS; group += WARPS) {
        float n = 0, sum = 0, total = 0;
        const auto for_each_piece = [&](auto&& add) {
            for (int i = thread % 32; i < ROWS * SHARES; i += 32) {
                const int piece = group * SHARES + i % SHARES, at = i / SHARES * COLUMNS + piece / PIECES;
                add(counts[at], means[piece % PIECES][at], squares[piece % PIECES][at]);
            }
        };
        for_each_piece([&](float m, float average, float) { n += m, sum += m * average; });
        n = warp_sum(n);
        const float centre = warp_sum(sum) / fmaxf(n, 1);  // a block without pixels has n = 0
        for_each_piece([&](float m, float average, float deviations) {
            total += deviations + m * (average - centre) * (average - centre);
        });
        total = warp_sum(total);
#if EXCHANGE == 2 && CLUSTER > 1
        if (group < WARPS) cluster_wait();
        if (const int lane = thread % 32; lane < CLUSTER)
            asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];"
                ::"r"(mapped(shared_address(received[group][rank]), lane)), "f"(n), "f"(centre), "f"(total), "f"(0.f),
                  "r"(mapped(shared_address(&arrived), lane)) : "memory");
#else
        if (thread % 32 == 0) block_count = n, block_mean[group] = centre, block_squares[group] = total;
#endif
    }
#if EXCHANGE == 2 && CLUSTER > 1
    if (thread / 32 >= SPAN_GROUPS) cluster_wait();
    asm volatile("{\n.reg .pred p;\nwaiting:\nmbarrier.try_wait.parity.shared.b64 p, [%0], 0;\n@!p bra waiting;\n}"
                 ::"r"(shared_address(&arrived)) : "memory");
#else
    cluster_arrive(), cluster_wait();
#endif
#if JOINED && STORE == 1
    if (chunks == 1) store_joined(0);
#endif

    // Merges the statistics of the cluster's blocks, always in the same order.
    for (int group = thread; group < SPAN_GROUPS; group += THREADS) {
        float n[CLUSTER], means[CLUSTER], count = 0, sum = 0, total = 0;
#pragma unroll
        for (int other = 0; other < CLUSTER; ++other) {
#if EXCHANGE == 2 && CLUSTER > 1
            n[other] = received[group][other][0], means[other] = received[group][other][1];
            total += received[group][other][2];
#else
            n[other] = read_from(other, &block_count), means[other] = read_from(other, &block_mean[group]);
            total += read_from(other, &block_squares[group]);
#endif
            count += n[other], sum += n[other] * means[other];
        }
        const float mean = sum / count;
#pragma unroll
        for (int other = 0; other < CLUSTER; ++other) total += n[other] * (means[other] - mean) * (means[other] - mean);
        group_mean[group] = mean, group_scale[group] = rsqrtf(total / count + float(EPS));
    }
#if EXCHANGE == 1
    cluster_arrive_relaxed();
#elif EXCHANGE == 0 || CLUSTER == 1
    cluster_arrive();  // no block may exit while another reads from it; cluster_wait() follows at the end
#endif
    __syncthreads();

    float scale[VECTOR], offsets[VECTOR];
    const auto prepare = [&] {  // scale and offset of each value in a vector
#pragma unroll
        for (int j = 0; j < VECTOR; ++j) {
            const int group = FIXED ? (thread % WIDTH * VECTOR + j) / GROUP : 0;
            scale[j] = group_scale[group] * to_float(weights.at[j]);
            offsets[j] = to_float(biases.at[j]) - group_mean[group] * scale[j];
        }
    };
    if constexpr (FIXED) prepare();

    // Last chunk first: it is still in registers, and recently read chunks are most likely still in the cache.
    for (int chunk = chunks - 1; chunk >= 0; --chunk) {
        if (chunk < chunks - 1) load_chunk(chunk);
#if JOINED && STORE > 0
        if (STORE == 2 || chunks > 1) store_joined(chunk);
#endif
#pragma unroll
        for (int k = 0; k < HOLD; ++k) {
            const int i = index(chunk, k);
            if (i >= end || thread >= ACTIVE) continue;
            if constexpr (!FIXED) load_affine(i), prepare();
            Vector result;
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) {
                float normal = value(k, j) * scale[j] + offsets[j];
                if (SILU) normal = __fdividef(normal, 1 + __expf(-normal));
                result.at[j] = to_half(normal);
            }
            *reinterpret_cast<Vector*>(y + offset(i)) = result;
        }
    }
#if EXCHANGE != 2
    cluster_wait();
#endif
}
