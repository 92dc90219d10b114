// Whole rows moved by index: embedding lookup, gathering target rows for the head, scattering their gradients.
//
// One block of 128 threads a row, 16 bytes an access; rows are multiples of eight elements. Traffic: each row once in and
// once out.
#include "common.cuh"

__device__ __forceinline__ void copy_row(const bf16* __restrict__ from, bf16* __restrict__ to, int width) {
    for (int c = threadIdx.x * 8; c < width; c += blockDim.x * 8) store8(to + c, load8(from + c));
}

// out[i] = table[index[i]]
extern "C" __global__ void __launch_bounds__(128) gather_rows(const bf16* __restrict__ table,
                                                              const uint32_t* __restrict__ index, int width,
                                                              bf16* __restrict__ out) {
    copy_row(table + size_t(index[blockIdx.x]) * width, out + size_t(blockIdx.x) * width, width);
}

// x[index[i]] = src[i]
extern "C" __global__ void __launch_bounds__(128) scatter_rows(const bf16* __restrict__ src,
                                                               const uint32_t* __restrict__ index, int width,
                                                               bf16* __restrict__ x) {
    copy_row(src + size_t(blockIdx.x) * width, x + size_t(index[blockIdx.x]) * width, width);
}
