// What CUDA kernels for Hopper GPUs share: barriers in shared memory, products of tensor cores, and conversions.
#pragma once
#include "arithmetic.cuh"

using uint = unsigned int;
using ullong = unsigned long long;

struct alignas(64) TensorMap { char bytes[128]; };

__device__ inline uint address(const void* pointer) { return static_cast<uint>(__cvta_generic_to_shared(pointer)); }

__device__ inline void init(uint barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}

__device__ inline void expect(uint barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ inline void arrive(uint barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Wait for the end of a barrier's phase, which is the current one or the last.
__device__ inline void wait(uint barrier, int parity) {
    asm volatile(
        "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}"
            ::"r"(barrier), "r"(parity) : "memory");
}

// Matrix descriptor: swizzle of 128 bytes, groups of eight rows 1024 bytes apart.
__device__ inline ullong matrix(uint to) { return 1ull << 62 | 64ull << 32 | 64ull << 16 | (to & 0x3ffff) >> 4; }

__device__ inline void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Wait for all products but the last groups.
template <int PENDING>
__device__ inline void finish() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Make the compiler compute values here, not later.
template <int N>
__device__ inline void pin(float (&values)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

// Wait for products of which `values` are the results: the compiler must not move their use before this.
template <int PENDING, int N>
__device__ inline void finish(float (&values)[N]) {
    finish<PENDING>();
    pin(values);
}

// Operands of inline assembly.
#define FOUR(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SIXTEEN(d, i) FOUR(d, i), FOUR(d, i + 4), FOUR(d, i + 8), FOUR(d, i + 12)
#define TO_19 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19"
#define TO_31 TO_19 ", %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TO_39 TO_31 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define TO_47 TO_39 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define TO_63 TO_47 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TO_79 TO_63 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"

// Instruction for tensor cores: d = a b, or d += a b with `add`, for 64 rows, `n` columns and 16 of the depth. sums, a,
// b and add: names of operands; more: whether matrices in shared memory are transposed.
#define PRODUCT(n, sums, a, b, add, more)                                                                              \
    "{\n.reg .pred add;\nsetp.ne.b32 add, " add ", 0;\nwgmma.mma_async.sync.aligned.m64n" n "k16.f32.f16.f16 {"       \
    sums "}, " a ", " b ", add, 1, 1, " more ";\n}"

__device__ inline uint pack(float low, float high) {
    uint result;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}

__device__ inline float2 unpack(uint both) {
    float2 result;
    asm("{\n.reg .f16 low, high;\nmov.b32 {low, high}, %2;\ncvt.f32.f16 %0, low;\ncvt.f32.f16 %1, high;\n}"
        : "=f"(result.x), "=f"(result.y) : "r"(both));
    return result;
}
