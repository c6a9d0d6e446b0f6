// What the kernels of GroupNorm share: float16 values, statistics, and SiLU.
#pragma once
#include "arithmetic.cuh"

using Half = unsigned short;  // float16 bits; NVRTC may be installed without cuda_fp16.h

__device__ inline float to_float(Half bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ inline Half to_half(float value) {
    Half bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// x / (1 + e^-x). With CUDA's functions it takes three more instructions, for powers too small to change 1 + e^-x.
__device__ inline float silu(float x) {
    return x * reciprocal(1 + power(x * -1.4426950408889634f));  // -log2(e)
}

__device__ inline float warp_sum(float value) {
    for (int lanes = 16; lanes; lanes /= 2) value += __shfl_xor_sync(~0u, value, lanes);
    return value;
}

struct alignas(16) Stats { float count, mean, squares; };  // squares: the sum of squared deviations from the mean

// Waits for the previous kernel: see runtime/early_launch.py. What it may have written is read without __restrict__,
// because the compiler may move loads of memory that it takes for constant.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
