// RMSNorm by rows, forward and backward with frozen weight.
//
//   forward   y  = x·ρ·w,  ρ = 1/√(mean(x²) + ε)
//   backward  dx = ρ·(g − x̂·mean(g∘x̂)) (+ add),  g = dy∘w, x̂ = x·ρ
//
// One block of 256 threads for a row, which stays in registers between its one read and its one write (eight elements a
// vector, up to four vectors a thread: H ≤ 8192, a multiple of 8). Traffic: forward 2·T·H·2 B + 4·H B of weight a block
// (from L1 and L2), backward three or four times T·H·2 B. No bank conflicts: shared memory holds eight partial sums.
#include "common.cuh"

constexpr int THREADS = 256;
constexpr int VECTORS = 4;

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm(const bf16* __restrict__ x, const float* __restrict__ w, float eps, int hidden, bf16* __restrict__ y) {
    __shared__ float shared[THREADS / WARP];
    const size_t row = size_t(blockIdx.x) * hidden;
    float v[VECTORS][8];
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int column = (i * THREADS + threadIdx.x) * 8;
        if (column < hidden) {
            unpack(load8(x + row + column), v[i]);
#pragma unroll
            for (int j = 0; j < 8; ++j) squares += v[i][j] * v[i][j];
        }
    }
    const float rho = rsqrtf(block_sum<THREADS>(squares, shared) / hidden + eps);
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int column = (i * THREADS + threadIdx.x) * 8;
        if (column < hidden) {
            float weight[8];
            *reinterpret_cast<float4*>(weight) = *reinterpret_cast<const float4*>(w + column);
            *reinterpret_cast<float4*>(weight + 4) = *reinterpret_cast<const float4*>(w + column + 4);
#pragma unroll
            for (int j = 0; j < 8; ++j) v[i][j] *= rho * weight[j];
            store8(y + row + column, pack(v[i]));
        }
    }
}

// `dx` may be `dy` or `add`: every element is read by the thread that writes it, before it writes.
extern "C" __global__ void __launch_bounds__(THREADS, 2) rmsnorm_backward(
    const bf16* x, const float* __restrict__ w, float eps, int hidden, const bf16* dy, const bf16* add, bf16* dx) {
    __shared__ float shared[THREADS / WARP];
    const size_t row = size_t(blockIdx.x) * hidden;
    Bf16x8 values[VECTORS];
    float g[VECTORS][8];
    float squares = 0.0f, product = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int column = (i * THREADS + threadIdx.x) * 8;
        if (column < hidden) {
            float v[8], weight[8];
            values[i] = load8(x + row + column);
            unpack(values[i], v);
            unpack(load8(dy + row + column), g[i]);
            *reinterpret_cast<float4*>(weight) = *reinterpret_cast<const float4*>(w + column);
            *reinterpret_cast<float4*>(weight + 4) = *reinterpret_cast<const float4*>(w + column + 4);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                g[i][j] *= weight[j];
                squares += v[j] * v[j];
                product += g[i][j] * v[j];
            }
        }
    }
    const float rho = rsqrtf(block_sum<THREADS>(squares, shared) / hidden + eps);
    const float pull = rho * rho * block_sum<THREADS>(product, shared) / hidden;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int column = (i * THREADS + threadIdx.x) * 8;
        if (column < hidden) {
            float v[8], plus[8] = {};
            unpack(values[i], v);
            if (add != nullptr) unpack(load8(add + row + column), plus);
#pragma unroll
            for (int j = 0; j < 8; ++j) g[i][j] = rho * (g[i][j] - v[j] * pull) + plus[j];
            store8(dx + row + column, pack(g[i]));
        }
    }
}
