// Types, reductions and inline PTX that the kernels share. Everything that is not plain C++ lives here, under names that
// say what the instruction does.
#pragma once

#include <cuda_bf16.h>
#include <stddef.h>
#include <stdint.h>

using bf16 = __nv_bfloat16;

// Layout of a structure that the host fills, padding aside. src/backend/cuda/launches/ has the same structure with `Args`
// behind its name, and a test there compares it with these lines.
#define OFFSET(type, field, bytes) static_assert(offsetof(type, field) == bytes, "the host puts it elsewhere")
#define SIZE(type, bytes) static_assert(sizeof(type) == bytes, "the host's is of another size")

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// Eight bf16 in one 16-byte access.
struct alignas(16) Bf16x8 {
    uint32_t pair[4];
};

__device__ __forceinline__ float low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// Two f32 rounded to nearest even, `lo` in the low half.
__device__ __forceinline__ uint32_t pack(float lo, float hi) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
    return pair;
}

__device__ __forceinline__ void unpack(const Bf16x8& v, float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        x[2 * i] = low(v.pair[i]);
        x[2 * i + 1] = high(v.pair[i]);
    }
}

__device__ __forceinline__ Bf16x8 pack(const float (&x)[8]) {
    Bf16x8 v;
#pragma unroll
    for (int i = 0; i < 4; ++i) v.pair[i] = pack(x[2 * i], x[2 * i + 1]);
    return v;
}

__device__ __forceinline__ Bf16x8 load8(const bf16* p) { return *reinterpret_cast<const Bf16x8*>(p); }
__device__ __forceinline__ void store8(bf16* p, const Bf16x8& v) { *reinterpret_cast<Bf16x8*>(p) = v; }

// Sum over the lanes of a warp; every lane gets the same bits (butterfly: each level adds the same two numbers).
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) x += __shfl_xor_sync(ALL_LANES, x, d);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, d));
    return x;
}

// Sum over a block of THREADS threads in a fixed order; every thread gets it. `shared` holds THREADS / 32 floats and is
// free again after the call.
template <int THREADS>
__device__ __forceinline__ float block_sum(float x, float* shared) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = x;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < THREADS / WARP; ++w) total += shared[w];
    __syncthreads();
    return total;
}

template <int THREADS>
__device__ __forceinline__ float block_max(float x, float* shared) {
    x = warp_max(x);
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = x;
    __syncthreads();
    float most = shared[0];
#pragma unroll
    for (int w = 1; w < THREADS / WARP; ++w) most = fmaxf(most, shared[w]);
    __syncthreads();
    return most;
}
