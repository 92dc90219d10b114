// Elements on their way into the arena: rounded to bf16, or made.
//
// convert rounds f32 to nearest even, an element a thread. Traffic: 4 B in and 2 B out an element.
//
// near_normal_bf16 makes random weights for models that have no file, bit for bit those of src/rng.rs `NearNormal`: an element is
// the sum of four random bytes, less its mean, times a unit. Integers until one multiplication and one rounding, so host and
// device agree. Eight elements a thread: two draws of Philox, one store of 16 bytes.
#include "common.cuh"
#include "philox.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS)
    convert(const float* __restrict__ src, uint64_t count, bf16* __restrict__ dst) {
    const uint64_t i = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i < count) dst[i] = __float2bfloat16_rn(src[i]);
}

__device__ __forceinline__ float near_normal(uint32_t bits, float unit) {
    const int sum = int(bits & 255) + int(bits >> 8 & 255) + int(bits >> 16 & 255) + int(bits >> 24);
    return __fmul_rn(float(sum - 510), unit);
}

// Elements start … start + count of a tensor; both are multiples of 8.
extern "C" __global__ void __launch_bounds__(THREADS)
    near_normal_bf16(uint32_t key0, uint32_t key1, float unit, size_t start, size_t count, bf16* __restrict__ out) {
    const size_t at = (size_t(blockIdx.x) * THREADS + threadIdx.x) * 8;
    if (at >= count) return;
    // Philox of the counter (low, high half of the draw, 0, 0): what a mask has as quad, row, sample and module.
    const Dropout key = {key0, key1, 0, 0, 1.0f};
    float x[8];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const size_t draw = (start + at) / 4 + half;
        const uint4 bits =
            dropout_bits(key, DropoutRow(key, 0, uint32_t(draw >> 32)), DropoutQuad(key, 0, uint32_t(draw)));
        x[4 * half] = near_normal(bits.x, unit);
        x[4 * half + 1] = near_normal(bits.y, unit);
        x[4 * half + 2] = near_normal(bits.z, unit);
        x[4 * half + 3] = near_normal(bits.w, unit);
    }
    store8(out + at, pack(x));
}
