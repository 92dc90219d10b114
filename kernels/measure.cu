// What the device can do at most, measured: the rate of bf16 mma.sync, and of a copy through memory. The planner's time
// model and `irori doctor` use the figures; benchmarks are given as a part of them.
#include "mma.cuh"

// Warps that each do `rounds` × 8 independent mma of 16×8×16 on registers; out[thread] keeps them alive. With a and b all
// ones every accumulator grows by 16 an mma.
extern "C" __global__ void __launch_bounds__(256) mma_peak(int rounds, float* __restrict__ out) {
    const uint32_t ones = 0x3f803f80;
    const uint32_t a[4] = {ones, ones, ones, ones};
    float acc[8][4] = {};
#pragma unroll 1
    for (int r = 0; r < rounds; ++r) {
#pragma unroll
        for (int i = 0; i < 8; ++i) multiply(acc[i], a, ones, ones);
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += acc[i][0] + acc[i][1] + acc[i][2] + acc[i][3];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// `count` times 16 bytes from src to dst.
extern "C" __global__ void __launch_bounds__(256) copy_peak(const uint4* __restrict__ src, uint4* __restrict__ dst,
                                                            size_t count) {
    const size_t stride = size_t(gridDim.x) * blockDim.x;
    for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) dst[i] = src[i];
}
