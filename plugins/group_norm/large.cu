// GroupNorm (Wu and He 2018), optionally followed by SiLU, of large channels-last maps, as two kernels: float16 input
// and output, float32 arithmetic.
//
// A block reads SPAN channels of a range of pixels: whole lines of memory, unlike the blocks of kernel.cu. The first
// kernel writes statistics of each range, the second merges those of all ranges and normalizes. All sums have a fixed
// order, so every run gives the same bits.
//
// Grid: (RANGES, CHANNELS / SPAN, images), blocks of THREADS. large.py sets these constants with -D:
//   CHANNELS, GROUPS; SILU: 1 or 0; EPS; RANGES: of pixels; SPAN: channels per block; THREADS: threads per block
//   HOLD: vectors that a thread loads at once

#include "values.cuh"

constexpr int VECTOR = 8;                                                 // values per load
constexpr int GROUP = CHANNELS / GROUPS;                                  // channels per group
constexpr int SPAN_GROUPS = SPAN / GROUP, WARPS = THREADS / 32;
constexpr int WIDTH = SPAN / VECTOR, ROWS = THREADS / WIDTH;              // ROWS x WIDTH threads
constexpr int PIECE = GROUP < VECTOR ? GROUP : VECTOR;                    // values of a vector that share a group
constexpr int PIECES = VECTOR / PIECE, SHARES = GROUP / PIECE;            // pieces of a vector; of a group in a pixel
static_assert(CHANNELS % SPAN == 0 && SPAN % GROUP == 0, "SPAN needs whole groups");
static_assert(VECTOR % PIECE == 0 && GROUP % PIECE == 0, "a group needs whole pieces");

struct alignas(2 * VECTOR) Vector { Half at[VECTOR]; };

__device__ Vector load(const Half* from) { return *reinterpret_cast<const Vector*>(from); }

// Merges statistics, part(0), part(1), ..., part(parts - 1), with one warp, always in the same order.
template <class Part> __device__ Stats merge(int parts, Part&& part) {
    const int lane = threadIdx.x % 32;
    float count = 0, sum = 0, squares = 0;
    for (int i = lane; i < parts; i += 32) {
        const Stats one = part(i);
        count += one.count, sum += one.count * one.mean;
    }
    count = warp_sum(count);
    const float mean = warp_sum(sum) / fmaxf(count, 1);  // a range without pixels has none
    for (int i = lane; i < parts; i += 32) {
        const Stats one = part(i);
        squares += one.squares + one.count * (one.mean - mean) * (one.mean - mean);
    }
    return {count, mean, warp_sum(squares)};
}

struct Place {
    int first, end;  // pixels of this block's range
    int offset;      // of this thread's channels in the first pixel of the image
    __device__ explicit Place(int pixels) {
        const int range = (pixels + RANGES - 1) / RANGES;
        first = min(int(blockIdx.x) * range, pixels), end = min(first + range, pixels);
        offset = blockIdx.z * pixels * CHANNELS + blockIdx.y * SPAN + threadIdx.x % WIDTH * VECTOR;
    }
};

// stats: [images, GROUPS, RANGES]
extern "C" __global__ void __launch_bounds__(THREADS)
canny2image_group_norm_stats(const Half* x, int pixels, Stats* stats) {
    __shared__ float counts[ROWS], means[PIECES][THREADS], squares[PIECES][THREADS];
    wait_for_previous();
    const Place place(pixels);
    const int thread = threadIdx.x, row = thread / WIDTH;
    x += place.offset;

    // Merges mean and squared deviations of each HOLD pixels with the previous ones (Chan, Golub and LeVeque 1983).
    float count = 0, mean[PIECES] = {}, square[PIECES] = {};
    for (int pixel = place.first + row; pixel < place.end; pixel += HOLD * ROWS) {
        Vector held[HOLD];
        int loaded = 0;
#pragma unroll
        for (int k = 0; k < HOLD; ++k)
            if (const int at = pixel + k * ROWS; at < place.end) held[k] = load(x + at * CHANNELS), ++loaded;
        const float more = loaded * PIECE, inverse = 1 / more, share = more / (count + more);
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece) {
            float sum = 0, deviations = 0;
#pragma unroll
            for (int k = 0; k < HOLD; ++k)
                for (int j = 0; j < PIECE; ++j)
                    if (k < loaded) sum += to_float(held[k].at[piece * PIECE + j]);
            const float chunk_mean = sum * inverse;
#pragma unroll
            for (int k = 0; k < HOLD; ++k)
                for (int j = 0; j < PIECE; ++j)
                    if (k < loaded) {
                        const float deviation = to_float(held[k].at[piece * PIECE + j]) - chunk_mean;
                        deviations += deviation * deviation;
                    }
            const float apart = chunk_mean - mean[piece];
            mean[piece] += apart * share;
            square[piece] += deviations + apart * apart * count * share;
        }
        count += more;
    }
    if (thread % WIDTH == 0) counts[row] = count;
    for (int p = 0; p < PIECES; ++p) means[p][thread] = mean[p], squares[p][thread] = square[p];
    __syncthreads();
    for (int group = thread / 32; group < SPAN_GROUPS; group += WARPS) {
        const Stats merged = merge(ROWS * SHARES, [&](int i) {
            const int piece = group * SHARES + i % SHARES, from = i / SHARES, at = from * WIDTH + piece / PIECES;
            return Stats{counts[from], means[piece % PIECES][at], squares[piece % PIECES][at]};
        });
        const int of = blockIdx.z * GROUPS + blockIdx.y * SPAN_GROUPS + group;
        if (thread % 32 == 0) stats[of * RANGES + blockIdx.x] = merged;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
canny2image_group_norm_apply(const Half* x, const Half* weight, const Half* bias, const Stats* stats, int pixels,
                             Half* __restrict__ y) {
    __shared__ float group_mean[SPAN_GROUPS], group_scale[SPAN_GROUPS];
    wait_for_previous();
    const Place place(pixels);
    const int thread = threadIdx.x, column = thread % WIDTH, channel = blockIdx.y * SPAN + column * VECTOR;
    const Vector weights = load(weight + channel), biases = load(bias + channel);
    for (int group = thread / 32; group < SPAN_GROUPS; group += WARPS) {
        const Stats* from = stats + (blockIdx.z * GROUPS + blockIdx.y * SPAN_GROUPS + group) * RANGES;
        const Stats all = merge(RANGES, [&](int i) { return from[i]; });
        group_mean[group] = all.mean, group_scale[group] = rsqrtf(all.squares / all.count + float(EPS));
    }
    __syncthreads();
    float scale[VECTOR], offsets[VECTOR];
#pragma unroll
    for (int j = 0; j < VECTOR; ++j) {
        const int group = (column * VECTOR + j) / GROUP;
        scale[j] = group_scale[group] * to_float(weights.at[j]);
        offsets[j] = to_float(biases.at[j]) - group_mean[group] * scale[j];
    }
    x += place.offset, y += place.offset;

    // Last pixels first: recently read ones are most likely still in the cache.
    for (int pixel = place.end - 1 - thread / WIDTH; pixel >= place.first; pixel -= HOLD * ROWS) {
        Vector held[HOLD];
#pragma unroll
        for (int k = 0; k < HOLD; ++k)
            if (const int at = pixel - k * ROWS; at >= place.first) held[k] = load(x + at * CHANNELS);
#pragma unroll
        for (int k = 0; k < HOLD; ++k) {
            const int at = pixel - k * ROWS;
            if (at < place.first) continue;
            Vector result;
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) {
                const float normal = to_float(held[k].at[j]) * scale[j] + offsets[j];
                result.at[j] = to_half(SILU ? silu(normal) : normal);
            }
            *reinterpret_cast<Vector*>(y + at * CHANNELS) = result;
        }
    }
}
