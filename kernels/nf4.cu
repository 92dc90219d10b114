// NF4 as bitsandbytes writes it: quantise and dequantise, block 64.
//
// Quantise: absmax of 64 consecutive elements, x·(1/absmax), then the number of midpoints of the codebook that lie strictly
// below: a tie goes to the lower index, and an all-zero block (0·inf) has to come out as the CPU's code 7, so the reciprocal
// is taken of max(absmax, 1e-38). Eight lanes share a block, eight elements each: 16-byte loads, 4-byte stores.
// Dequantise: f32 code × f32 absmax, rounded once to bf16. Eight elements a thread: 4-byte loads, 16-byte stores. The
// codebook lies in shared memory, sixteen words in sixteen banks, so lanes conflict only where they want different codes in
// one bank, which never happens.
// Traffic: 2 + 0.5 + 4/64 B an element either way.
#include "nf4.cuh"

constexpr int THREADS = 256;

// Index of the codeword that `x` in [−1, 1] rounds to: four comparisons with midpoints, formed in f32 as the host does.
__device__ __forceinline__ uint32_t nearest(const float* midpoints, float x) {
    uint32_t low = 0;
#pragma unroll
    for (uint32_t step = 8; step > 0; step /= 2) low += x > midpoints[low + step - 1] ? step : 0;
    return low;
}

template <typename T>
__device__ __forceinline__ void quantize(const T* __restrict__ src, uint64_t count, uint32_t* __restrict__ packed,
                                         float* __restrict__ absmax) {
    __shared__ float midpoints[15];
    if (threadIdx.x < 15) midpoints[threadIdx.x] = (NF4_CODE[threadIdx.x] + NF4_CODE[threadIdx.x + 1]) / 2.0f;
    __syncthreads();
    const uint64_t thread = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    const uint64_t at = thread * 8;
    float x[8] = {};
    if (at < count) {
        if constexpr (sizeof(T) == 2) {
            unpack(load8(src + at), x);
        } else {
            *reinterpret_cast<float4*>(x) = *reinterpret_cast<const float4*>(src + at);
            *reinterpret_cast<float4*>(x + 4) = *reinterpret_cast<const float4*>(src + at + 4);
        }
    }
    float most = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; ++j) most = fmaxf(most, fabsf(x[j]));
#pragma unroll
    for (int d = 4; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, d));
    if (at >= count) return;
    const float scale = __frcp_rn(fmaxf(most, 1e-38f));
    uint32_t word = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        // The high nibble of a byte is the even element.
        word |= nearest(midpoints, x[j] * scale) << (8 * (j / 2) + (j % 2 == 0 ? 4 : 0));
    }
    packed[thread] = word;
    if (thread % 8 == 0) absmax[thread / 8] = most;
}

extern "C" __global__ void __launch_bounds__(THREADS) nf4_quantize_bf16(const bf16* __restrict__ src, uint64_t count,
                                                                        uint32_t* __restrict__ packed,
                                                                        float* __restrict__ absmax) {
    quantize(src, count, packed, absmax);
}

extern "C" __global__ void __launch_bounds__(THREADS) nf4_quantize_f32(const float* __restrict__ src, uint64_t count,
                                                                       uint32_t* __restrict__ packed,
                                                                       float* __restrict__ absmax) {
    quantize(src, count, packed, absmax);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    nf4_dequantize(const uint32_t* __restrict__ packed, const float* __restrict__ absmax, uint64_t count,
                   bf16* __restrict__ dst) {
    __shared__ float code[16];
    if (threadIdx.x < 16) code[threadIdx.x] = NF4_CODE[threadIdx.x];
    __syncthreads();
    const uint64_t thread = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (thread * 8 >= count) return;
    const uint32_t word = packed[thread];
    const float scale = absmax[thread / 8];
    float x[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = code[word >> (8 * (j / 2) + (j % 2 == 0 ? 4 : 0)) & 15] * scale;
    store8(dst + thread * 8, pack(x));
}
