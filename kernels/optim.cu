// Global gradient norm and AdamW over all adapters: three launches for the whole update.
//
// The norm is summed in two fixed stages: 1024 gradients a block, then the partial sums in one block. AdamW reads g, m, v,
// master once and writes m, v, master and the bf16 working copy once: 30 B a parameter.
#include "common.cuh"

constexpr int THREADS = 256;
constexpr int SPAN = 1024;

// partial[block] = Σ g² of its 1024 gradients.
extern "C" __global__ void __launch_bounds__(THREADS)
    squared_norm(const float* __restrict__ grad, uint64_t count, float* __restrict__ partial) {
    __shared__ float shared[THREADS / WARP];
    const uint64_t at = uint64_t(blockIdx.x) * SPAN + threadIdx.x * 4;
    float sum = 0.0f;
    if (at + 4 <= count) {
        const float4 g = *reinterpret_cast<const float4*>(grad + at);
        sum = g.x * g.x + g.y * g.y + g.z * g.z + g.w * g.w;
    } else {
        for (uint64_t i = at; i < count; ++i) sum += grad[i] * grad[i];
    }
    sum = block_sum<THREADS>(sum, shared);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// norm[0] = √Σ partial
extern "C" __global__ void __launch_bounds__(1024)
    finish_norm(const float* __restrict__ partial, int count, float* __restrict__ norm) {
    __shared__ float shared[1024 / WARP];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < count; i += 1024) sum += partial[i];
    sum = block_sum<1024>(sum, shared);
    if (threadIdx.x == 0) norm[0] = sqrtf(sum);
}

// Constants of one update, made on the host in f64: bias corrections and the decayed learning rate.
struct AdamW {
    float one_minus_beta1, beta2, one_minus_beta2, eps;
    // 1 − lr·weight_decay
    float keep;
    // lr / (1 − beta1^step)
    float step_size;
    // √(1 − beta2^step)
    float correction2;
    // 0: no clipping
    float max_norm;
};

OFFSET(AdamW, one_minus_beta1, 0);
OFFSET(AdamW, beta2, 4);
OFFSET(AdamW, one_minus_beta2, 8);
OFFSET(AdamW, eps, 12);
OFFSET(AdamW, keep, 16);
OFFSET(AdamW, step_size, 20);
OFFSET(AdamW, correction2, 24);
OFFSET(AdamW, max_norm, 28);
SIZE(AdamW, 32);

extern "C" __global__ void __launch_bounds__(THREADS)
    adamw(AdamW p, const float* __restrict__ norm, const float* __restrict__ grad, uint64_t count,
          float* __restrict__ m, float* __restrict__ v, float* __restrict__ master, bf16* __restrict__ working) {
    const float total = norm[0];
    if (!isfinite(total)) return;
    const float clip = p.max_norm > 0.0f ? fminf(1.0f, p.max_norm / (total + 1e-6f)) : 1.0f;
    const uint64_t i = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= count) return;
    const float g = grad[i] * clip;
    const float first = m[i] + (g - m[i]) * p.one_minus_beta1;
    const float second = v[i] * p.beta2 + p.one_minus_beta2 * g * g;
    const float weight = master[i] * p.keep - p.step_size * (first / (sqrtf(second) / p.correction2 + p.eps));
    m[i] = first;
    v[i] = second;
    master[i] = weight;
    working[i] = __float2bfloat16_rn(weight);
}
