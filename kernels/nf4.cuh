// NF4: the codebook, and decoding by warps that hold it in their lanes' registers.
#pragma once

#include "common.cuh"

__constant__ const float NF4_CODE[16] = {-1.0f,
                                         -0.6961928009986877f,
                                         -0.5250730514526367f,
                                         -0.39491748809814453f,
                                         -0.28444138169288635f,
                                         -0.18477343022823334f,
                                         -0.09105003625154495f,
                                         0.0f,
                                         0.07958029955625534f,
                                         0.16093020141124725f,
                                         0.24611230194568634f,
                                         0.33791524171829224f,
                                         0.44070982933044434f,
                                         0.5626170039176941f,
                                         0.7229568362236023f,
                                         1.0f};

__device__ __forceinline__ float nf4_code(int index) { return NF4_CODE[index]; }

// Eight weights of one block, f32 code × absmax rounded once to bf16. `code` is nf4_code(lane % 16); all lanes of the warp
// take part. The high nibble of a byte is the even element; shfl looks at the low five bits of its index, and lanes 16 to
// 31 hold the codebook a second time, so a nibble need not be cut out.
__device__ __forceinline__ Bf16x8 nf4_decode(uint32_t word, float code, float absmax) {
    Bf16x8 v;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float even = __shfl_sync(ALL_LANES, code, word >> (8 * i + 4)) * absmax;
        const float odd = __shfl_sync(ALL_LANES, code, word >> (8 * i)) * absmax;
        v.pair[i] = pack(even, odd);
    }
    return v;
}
