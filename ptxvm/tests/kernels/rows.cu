// Row-wise kernels of the kinds that a transformer has beside its matrix products: softmax over rows by a block with
// warp shuffles and shared memory, and an elementwise SwiGLU on bf16 pairs. Small, but with the idioms of real ones.
#include <cuda_bf16.h>
#include <stdint.h>

__device__ __forceinline__ float block_max(float v, float* part) {
    for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = v;
    __syncthreads();
    v = part[0];
    for (int w = 1; w < blockDim.x / 32; ++w) v = fmaxf(v, part[w]);
    __syncthreads();
    return v;
}

__device__ __forceinline__ float block_sum(float v, float* part) {
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = v;
    __syncthreads();
    v = part[0];
    for (int w = 1; w < blockDim.x / 32; ++w) v += part[w];
    __syncthreads();
    return v;
}

// y = softmax(x) over rows of n; one block a row.
extern "C" __global__ void softmax(const float* __restrict__ x, float* __restrict__ y, int n) {
    __shared__ float part[32];
    x += (size_t)blockIdx.x * n;
    y += (size_t)blockIdx.x * n;
    float top = -INFINITY;
    for (int i = threadIdx.x; i < n; i += blockDim.x) top = fmaxf(top, x[i]);
    top = block_max(top, part);
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += expf(x[i] - top);
    sum = block_sum(sum, part);
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = expf(x[i] - top) / sum;
}

// y = silu(gate) * up on bf16, eight elements a thread.
extern "C" __global__ void swiglu(const uint4* __restrict__ gate, const uint4* __restrict__ up, uint4* __restrict__ y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    uint4 g = gate[i], u = up[i], out;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        const float2 a = __bfloat1622float2(((const __nv_bfloat162*)&g)[j]), b = __bfloat1622float2(((const __nv_bfloat162*)&u)[j]);
        ((__nv_bfloat162*)&out)[j] = __floats2bfloat162_rn(a.x / (1.f + expf(-a.x)) * b.x, a.y / (1.f + expf(-a.y)) * b.y);
    }
    y[i] = out;
}

// A histogram in shared memory, then added to the global one; a switch, a division by a variable, 64-bit arithmetic.
extern "C" __global__ void mixed(const uint32_t* __restrict__ x, unsigned long long* __restrict__ bins, int n, uint32_t divisor) {
    __shared__ uint32_t count[16];
    if (threadIdx.x < 16) count[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        uint32_t v = x[i] / divisor, w;
        switch (v % 7) {
            case 0: w = __popc(v); break;
            case 1: w = __clz(v); break;
            case 2: w = (uint32_t)(((uint64_t)v * 0x9E3779B97F4A7C15ull) >> 40); break;
            case 3: w = v % (divisor + 1); break;
            case 4: w = __brev(v) >> 7; break;
            case 5: w = __umulhi(v, 0xD2511F53u); break;
            default: w = (uint32_t)((int)v / -3); break;
        }
        atomicAdd(&count[w & 15], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 16) atomicAdd(&bins[threadIdx.x], (unsigned long long)count[threadIdx.x]);
}
