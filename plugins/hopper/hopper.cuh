// What CUDA kernels for Hopper GPUs share: barriers in shared memory, products of tensor cores, and conversions.
#pragma once
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

// 2 to the power x.
__device__ inline float power(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

__device__ inline float reciprocal(float x) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

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
