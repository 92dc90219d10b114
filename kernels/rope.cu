// Per-head RMSNorm on q and k, then RoPE, forward and backward with frozen norm weights; head dimension 128.
//
//   n = x·ρ·w      (y_i, y_{i+64}) = (n_i·c − n_{i+64}·s, n_{i+64}·c + n_i·s)
//
// The rotation's transpose brings dy back to dn; the norm's gradient follows as in norm.cu. One warp for a (row, head);
// a lane holds elements 2l, 2l+1 and their partners 64 above: 128-byte coalesced accesses, no shared memory, and no
// element is read twice. Traffic: forward 2·T·(Hq+Hk)·128·2 B, backward 3 times T·(Hq+Hk)·128·2 B.
#include "common.cuh"

constexpr int D = 128;
constexpr int HALF = D / 2;

struct Four {
    float lo[2], hi[2];
};

__device__ __forceinline__ Four load_pairs(const bf16* head, int lane) {
    const uint32_t a = reinterpret_cast<const uint32_t*>(head)[lane];
    const uint32_t b = reinterpret_cast<const uint32_t*>(head + HALF)[lane];
    return {{low(a), high(a)}, {low(b), high(b)}};
}

__device__ __forceinline__ void store_pairs(bf16* head, int lane, const Four& v) {
    reinterpret_cast<uint32_t*>(head)[lane] = pack(v.lo[0], v.lo[1]);
    reinterpret_cast<uint32_t*>(head + HALF)[lane] = pack(v.hi[0], v.hi[1]);
}

__device__ __forceinline__ Four load_floats(const float* p, int lane) {
    const float2 a = reinterpret_cast<const float2*>(p)[lane];
    const float2 b = reinterpret_cast<const float2*>(p + HALF)[lane];
    return {{a.x, a.y}, {b.x, b.y}};
}

// Grid (T, ⌈heads/4⌉), 128 threads: four heads of a row. `q_heads` + `kv_heads` of (q_heads + 2·kv_heads)·D in `qkv`.
extern "C" __global__ void __launch_bounds__(128)
    headnorm_rope(const bf16* __restrict__ qkv, const uint32_t* __restrict__ positions, const float* __restrict__ q_norm,
                  const float* __restrict__ k_norm, float eps, const float* __restrict__ rope, int q_heads, int kv_heads,
                  bf16* __restrict__ qk) {
    const int lane = threadIdx.x % WARP, head = blockIdx.y * 4 + threadIdx.x / WARP;
    if (head >= q_heads + kv_heads) return;
    const size_t row = blockIdx.x;
    Four v = load_pairs(qkv + (row * (q_heads + 2 * kv_heads) + head) * D, lane);
    const float squares =
        warp_sum(v.lo[0] * v.lo[0] + v.lo[1] * v.lo[1] + v.hi[0] * v.hi[0] + v.hi[1] * v.hi[1]);
    const float rho = rsqrtf(squares / D + eps);
    const Four w = load_floats(head < q_heads ? q_norm : k_norm, lane);
    const Four cs = load_floats(rope + size_t(positions[row]) * D, lane);
    Four y;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float a = v.lo[i] * rho * w.lo[i], b = v.hi[i] * rho * w.hi[i];
        y.lo[i] = a * cs.lo[i] - b * cs.hi[i];
        y.hi[i] = b * cs.lo[i] + a * cs.hi[i];
    }
    store_pairs(qk + (row * (q_heads + kv_heads) + head) * D, lane, y);
}

// The same grid: `dqk` into the q and k columns of `dqkv`.
extern "C" __global__ void __launch_bounds__(128)
    headnorm_rope_backward(const bf16* __restrict__ qkv, const bf16* __restrict__ dqk,
                           const uint32_t* __restrict__ positions, const float* __restrict__ q_norm,
                           const float* __restrict__ k_norm, float eps, const float* __restrict__ rope, int q_heads,
                           int kv_heads, bf16* __restrict__ dqkv) {
    const int lane = threadIdx.x % WARP, head = blockIdx.y * 4 + threadIdx.x / WARP;
    if (head >= q_heads + kv_heads) return;
    const size_t row = blockIdx.x;
    const size_t in_qkv = (row * (q_heads + 2 * kv_heads) + head) * D;
    const Four x = load_pairs(qkv + in_qkv, lane);
    const Four dy = load_pairs(dqk + (row * (q_heads + kv_heads) + head) * D, lane);
    const Four w = load_floats(head < q_heads ? q_norm : k_norm, lane);
    const Four cs = load_floats(rope + size_t(positions[row]) * D, lane);
    Four g;
    float squares = 0.0f, product = 0.0f;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        g.lo[i] = (dy.lo[i] * cs.lo[i] + dy.hi[i] * cs.hi[i]) * w.lo[i];
        g.hi[i] = (dy.hi[i] * cs.lo[i] - dy.lo[i] * cs.hi[i]) * w.hi[i];
        squares += x.lo[i] * x.lo[i] + x.hi[i] * x.hi[i];
        product += g.lo[i] * x.lo[i] + g.hi[i] * x.hi[i];
    }
    const float rho = rsqrtf(warp_sum(squares) / D + eps);
    const float pull = rho * rho * warp_sum(product) / D;
    Four dx;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        dx.lo[i] = rho * (g.lo[i] - x.lo[i] * pull);
        dx.hi[i] = rho * (g.hi[i] - x.hi[i] * pull);
    }
    store_pairs(dqkv + in_qkv, lane, dx);
}
