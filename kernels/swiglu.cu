// SwiGLU: s = silu(g)∘u over rows [g | u] of 2F elements, and its gradient written over them.
//
//   σ = 1/(1+e^−g)   dg = ds·u·σ·(1 + g·(1−σ))   du = ds·g·σ
//
// One thread for eight columns; grid ⌈T·F/8/256⌉. Traffic: forward 3·T·F·2 B, backward 5·T·F·2 B, each byte once.
#include "common.cuh"

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

extern "C" __global__ void __launch_bounds__(256)
    swiglu(const bf16* __restrict__ gu, int inter, bf16* __restrict__ s, int rows) {
    const unsigned vector = blockIdx.x * blockDim.x + threadIdx.x, vectors = inter / 8;
    const size_t row = vector / vectors;
    if (row >= rows) return;
    const int column = vector % vectors * 8;
    float g[8], u[8];
    unpack(load8(gu + row * 2 * inter + column), g);
    unpack(load8(gu + row * 2 * inter + inter + column), u);
#pragma unroll
    for (int j = 0; j < 8; ++j) g[j] *= sigmoid(g[j]) * u[j];
    store8(s + row * inter + column, pack(g));
}

extern "C" __global__ void __launch_bounds__(256)
    swiglu_backward(bf16* gu, int inter, const bf16* __restrict__ ds, int rows) {
    const unsigned vector = blockIdx.x * blockDim.x + threadIdx.x, vectors = inter / 8;
    const size_t row = vector / vectors;
    if (row >= rows) return;
    const int column = vector % vectors * 8;
    bf16* gate = gu + row * 2 * inter + column;
    bf16* up = gate + inter;
    float g[8], u[8], d[8];
    unpack(load8(gate), g);
    unpack(load8(up), u);
    unpack(load8(ds + row * inter + column), d);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const float sigma = sigmoid(g[j]);
        const float du = d[j] * g[j] * sigma;
        g[j] = d[j] * u[j] * sigma * (1.0f + g[j] * (1.0f - sigma));
        u[j] = du;
    }
    store8(gate, pack(g));
    store8(up, pack(u));
}
