// Philox4x32-10 (Salmon et al., SC 2011) and the dropout mask over it, bit for bit those of src/rng.rs.
#pragma once

#include "common.cuh"

constexpr uint32_t PHILOX_M0 = 0xD2511F53u, PHILOX_M1 = 0xCD9E8D57u, PHILOX_W0 = 0x9E3779B9u, PHILOX_W1 = 0xBB67AE85u;

__device__ __forceinline__ uint32_t xor3(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
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

OFFSET(Dropout, key0, 0);
OFFSET(Dropout, key1, 4);
OFFSET(Dropout, layer, 8);
OFFSET(Dropout, threshold, 12);
OFFSET(Dropout, scale, 16);
SIZE(Dropout, 20);

// The counter is (quad, row, sample, layer·8 + module). Of the first two rounds one half depends on the row alone and the
// other on the columns and the module alone: a kernel makes each once and joins them for each quad of each row.
struct DropoutRow {
    uint32_t y, hi, lo;

    DropoutRow() = default;

    // Of one row of a sample.
    __device__ __forceinline__ DropoutRow(const Dropout& d, uint32_t sample, uint32_t row) {
        const uint64_t first = uint64_t(PHILOX_M1) * sample;
        const uint64_t second = uint64_t(PHILOX_M0) * xor3(uint32_t(first >> 32), row, d.key0);
        y = uint32_t(first), hi = uint32_t(second >> 32), lo = uint32_t(second);
    }
};

struct DropoutQuad {
    uint32_t w, hi, lo;

    // Of columns 4·quad .. 4·quad + 4 of a module's input.
    __device__ __forceinline__ DropoutQuad(const Dropout& d, uint32_t module, uint32_t quad) {
        const uint64_t first = uint64_t(PHILOX_M0) * quad;
        const uint64_t second = uint64_t(PHILOX_M1) * xor3(uint32_t(first >> 32), d.layer * 8 + module, d.key1);
        w = uint32_t(first), hi = uint32_t(second >> 32), lo = uint32_t(second);
    }
};

// Random bits of the four columns of one row.
__device__ __forceinline__ uint4 dropout_bits(const Dropout& d, const DropoutRow& row, const DropoutQuad& quad) {
    uint32_t key0 = d.key0 + PHILOX_W0, key1 = d.key1 + PHILOX_W1;
    uint4 c = make_uint4(xor3(quad.hi, row.y, key0), quad.lo, xor3(row.hi, quad.w, key1), row.lo);
#pragma unroll
    for (int round = 2; round < 10; ++round) {
        key0 += PHILOX_W0;
        key1 += PHILOX_W1;
        const uint64_t p0 = uint64_t(PHILOX_M0) * c.x, p1 = uint64_t(PHILOX_M1) * c.z;
        c = make_uint4(xor3(uint32_t(p1 >> 32), c.y, key0), uint32_t(p1), xor3(uint32_t(p0 >> 32), c.w, key1),
                       uint32_t(p0));
    }
    return c;
}

// Bit i is set if column 4·quad + i survives.
__device__ __forceinline__ uint32_t dropout_keep(const Dropout& d, const DropoutRow& row, const DropoutQuad& quad) {
    const uint4 b = dropout_bits(d, row, quad);
    return (b.x >= d.threshold ? 1u : 0u) | (b.y >= d.threshold ? 2u : 0u) | (b.z >= d.threshold ? 4u : 0u) |
           (b.w >= d.threshold ? 8u : 0u);
}
