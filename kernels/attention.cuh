// What the attention kernels share: heads, swizzled tiles of rows of one head, their fragments.
//
// A tile is rows of 128 bf16 = 16 chunks of 16 bytes in shared memory; chunk c of row r lies at place c ^ (r%8). Eight rows
// of one chunk (a matrix of ldmatrix) and eight chunks of one row (a quarter warp of cp.async or of a 16-byte access) each
// take all 32 banks once.
#pragma once

#include "mma.cuh"

constexpr int D = 128;
constexpr int ROW_BYTES = D * 2;
// 1/√D, and times log₂e: scores go through 2^x.
constexpr float SCALE = 0.08838834764831845f;
constexpr float SCALE_LOG2 = SCALE * 1.4426950408889634f;
constexpr float LOG2_E = 1.4426950408889634f;

struct Heads {
    int q, kv;
};

OFFSET(Heads, q, 0);
OFFSET(Heads, kv, 4);
SIZE(Heads, 8);

// Rows [first, last) of one document.
struct Document {
    int first, last;
    __device__ __forceinline__ int rows() const { return last - first; }
};

__device__ __forceinline__ Document document(const uint32_t* __restrict__ cu_seqlens, int index) {
    return {int(cu_seqlens[index]), int(cu_seqlens[index + 1])};
}

// Byte offset of a chunk in a tile.
__device__ __forceinline__ uint32_t place(int row, int chunk) { return row * ROW_BYTES + ((chunk ^ (row & 7)) << 4); }

// Starts the copy of ROWS rows, `stride` elements apart, of which the first `valid` exist; the others become zeros.
template <int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(uint32_t tile, const bf16* from, int stride, int valid) {
    const int chunk = threadIdx.x % 16, first = threadIdx.x / 16;
#pragma unroll
    for (int i = 0; i < ROWS / (THREADS / 16); ++i) {
        const int row = first + i * (THREADS / 16);
        const bool there = row < valid;
        copy16(tile + place(row, chunk), from + size_t(there ? row : 0) * stride + chunk * 8, there);
    }
}

// Where a lane points ldmatrix in a tile. Rows a multiple of eight further down keep the same places, and chunk pairs
// further along are one exclusive or away if the tile lies at a multiple of 256 bytes: what remains in a loop is one
// operation for an inner step, and constants for rows.
__device__ __forceinline__ uint32_t lane_a() {
    const int lane = threadIdx.x % WARP;
    return place(lane % 16, lane / 16);
}

__device__ __forceinline__ uint32_t lane_b() {
    const int lane = threadIdx.x % WARP;
    return place(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}

// Operand A (16 rows from `row`, 16 columns from `16·step`) of a row-major tile.
__device__ __forceinline__ void load_a(uint32_t (&a)[4], uint32_t tile, int row, int step) {
    load_matrices(a, ((tile + lane_a()) ^ (step * 32)) + row * ROW_BYTES);
}

// Operand B twice over for X·Yᵀ, Y row-major in the tile: eight columns from `row` (b[0], b[1]) and the next eight (b[2],
// b[3]); inner indices from 16·step.
__device__ __forceinline__ void load_b(uint32_t (&b)[4], uint32_t tile, int row, int step) {
    load_matrices(b, ((tile + lane_b()) ^ (step * 32)) + row * ROW_BYTES);
}

// Operand B twice over for X·Y, Y row-major in the tile: inner indices are 16 rows from `row`; columns from 16·pair.
__device__ __forceinline__ void load_b_transposed(uint32_t (&b)[4], uint32_t tile, int row, int pair) {
    load_matrices_transposed(b, ((tile + lane_a()) ^ (pair * 32)) + row * ROW_BYTES);
}

// Two neighbouring products of 16×8 as operand A of the next product: accumulator and A have the same layout.
__device__ __forceinline__ void to_a(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack(left[0], left[1]);
    a[1] = pack(left[2], left[3]);
    a[2] = pack(right[0], right[1]);
    a[3] = pack(right[2], right[3]);
}

// 16 rows of accumulators, times factors of rows g and g+8, as bf16 to the 16 rows of `slab` (a part of shared memory that
// only this warp uses) and from there to `to`, 16 bytes a lane; rows from `valid` on are not stored.
__device__ __forceinline__ void store_rows(char* slab, const float (&c)[D / 8][4], float low, float high, bf16* to,
                                           size_t stride, int valid) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
        const int column = lane % 4 * 4;
        *reinterpret_cast<uint32_t*>(slab + place(lane / 4, n) + column) = pack(c[n][0] * low, c[n][1] * low);
        *reinterpret_cast<uint32_t*>(slab + place(lane / 4 + 8, n) + column) = pack(c[n][2] * high, c[n][3] * high);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int row = i * 2 + lane / 16, chunk = lane % 16;
        if (row < valid) {
            store8(to + row * stride + chunk * 8, *reinterpret_cast<const Bf16x8*>(slab + place(row, chunk)));
        }
    }
}
