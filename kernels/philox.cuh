// Philox4x32-10 (Salmon et al., SC 2011) and the dropout mask over it, bit for bit those of src/rng.rs.
#pragma once

#include <stdint.h>

__device__ __forceinline__ uint4 philox(uint4 counter, uint32_t key0, uint32_t key1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t(0xD2511F53u) * counter.x;
        const uint64_t p1 = uint64_t(0xCD9E8D57u) * counter.z;
        counter = make_uint4(uint32_t(p1 >> 32) ^ counter.y ^ key0, uint32_t(p1), uint32_t(p0 >> 32) ^ counter.w ^ key1,
                             uint32_t(p0));
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

// rng::Dropout as kernels take it. Without dropout `threshold` is 0 and `scale` 1.
struct Dropout {
    uint32_t key0, key1;
    uint32_t layer;
    // An element survives if its bits are at least this,
    uint32_t threshold;
    // and is multiplied by this.
    float scale;
};

// Random bits of columns 4·quad .. 4·quad + 4 of one row of a sample.
__device__ __forceinline__ uint4 dropout_bits(const Dropout& d, uint32_t module, uint32_t sample, uint32_t row,
                                              uint32_t quad) {
    return philox(make_uint4(quad, row, sample, d.layer * 8 + module), d.key0, d.key1);
}

// Bit i is set if column 4·quad + i survives.
__device__ __forceinline__ uint32_t dropout_keep(const Dropout& d, uint32_t module, uint32_t sample, uint32_t row,
                                                 uint32_t quad) {
    const uint4 b = dropout_bits(d, module, sample, row, quad);
    return (b.x >= d.threshold ? 1u : 0u) | (b.y >= d.threshold ? 2u : 0u) | (b.z >= d.threshold ? 4u : 0u) |
           (b.w >= d.threshold ? 8u : 0u);
}
