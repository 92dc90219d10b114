// FlashAttention-2 forward (Dao 2023): causal within documents, grouped-query, head dimension 128.
//
//   s = q·kᵀ/√D    o = softmax(s)·v    lse = ln Σ eˢ
//
// A block takes 128 queries of one head of one document; four warps with 32 queries each. Keys and values pass by in tiles
// of 64 rows, in rising order, through two buffers: while the product with one is made, the other one is filled, so a
// barrier stands between two tiles and no copy is waited for that was not under way for a whole product. The softmax is
// kept relative to the largest score so far, per row, in registers; P goes from accumulators to operand A without
// shared memory. A warp skips tiles that lie wholly behind its queries.
//
// Shared memory: Q 32 KB + two tiles of 16 KB = 64 KB, two blocks an SM. Layout and freedom from conflicts: attention.cuh.
// Traffic of a block that sees n keys: 128 rows of q in, n of k and of v, 128 rows of o out, 256 B each, and lse.
// Cost of a tile and warp: 256 mma, 32 ldmatrix of K, 32 of V, 16 of Q, 64 exponentials a lane; counted:
// docs/kernel-costs.md.
// Grid (Hq, documents, tiles of the longest document): the last tiles, which see most keys, come first; the heads of a
// group run side by side and share k and v in L2. Blocks beyond the end of a document return.
#include "attention.cuh"

constexpr int THREADS = 128;
constexpr int QUERIES = 128;
constexpr int KEYS = 64;
// Rows of 16 that a warp owns.
constexpr int M = 2;

struct Attention {
    const bf16* qk;
    const bf16* qkv;
    const uint32_t* cu_seqlens;
    bf16* o;
    float* lse;
    Heads heads;
};

OFFSET(Attention, qk, 0);
OFFSET(Attention, qkv, 8);
OFFSET(Attention, cu_seqlens, 16);
OFFSET(Attention, o, 24);
OFFSET(Attention, lse, 32);
OFFSET(Attention, heads, 40);
SIZE(Attention, 48);

extern "C" __global__ void __launch_bounds__(THREADS, 2) attention(const Attention p) {
    extern __shared__ __align__(256) char memory[];
    const Document doc = document(p.cu_seqlens, blockIdx.y);
    const int start = (gridDim.z - 1 - blockIdx.z) * QUERIES;
    if (start >= doc.rows()) return;
    const int head = blockIdx.x, kv = head / (p.heads.q / p.heads.kv);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int qk_width = (p.heads.q + p.heads.kv) * D, qkv_width = qk_width + p.heads.kv * D;
    const bf16* q = p.qk + size_t(doc.first + start) * qk_width + head * D;
    const bf16* k = p.qk + size_t(doc.first) * qk_width + (p.heads.q + kv) * D;
    const bf16* v = p.qkv + size_t(doc.first) * qkv_width + (p.heads.q + p.heads.kv + kv) * D;

    const uint32_t q_tile = shared_address(memory);
    const uint32_t k_tile = q_tile + QUERIES * ROW_BYTES, v_tile = k_tile + KEYS * ROW_BYTES;
    load_tile<QUERIES, THREADS>(q_tile, q, qk_width, doc.rows() - start);
    load_tile<KEYS, THREADS>(k_tile, k, qk_width, doc.rows());
    copies_commit();

    float o[M][D / 8][4] = {};
    // Largest score before scaling and this lane's part of the denominator, for rows g and g+8 of each 16.
    float most[M][2], sum[M][2];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        most[m][0] = most[m][1] = -INFINITY;
        sum[m][0] = sum[m][1] = 0.0f;
    }
    const int warp_row = warp * M * 16;
    const int keys = min(start + QUERIES, doc.rows());
    for (int key = 0; key < keys; key += KEYS) {
        // Whether any query of this warp sees any key of this tile.
        const bool sees = key <= start + warp_row + M * 16 - 1;
        copies_wait<0>();
        __syncthreads();
        load_tile<KEYS, THREADS>(v_tile, v + size_t(key) * qkv_width, qkv_width, doc.rows() - key);
        copies_commit();
        float s[M][KEYS / 8][4] = {};
        if (sees) {
#pragma unroll
            for (int step = 0; step < D / 16; ++step) {
                uint32_t a[M][4];
#pragma unroll
                for (int m = 0; m < M; ++m) load_a(a[m], q_tile, warp_row + m * 16, step);
#pragma unroll
                for (int n = 0; n < KEYS / 16; ++n) {
                    uint32_t b[4];
                    load_b(b, k_tile, n * 16, step);
#pragma unroll
                    for (int m = 0; m < M; ++m) {
                        multiply(s[m][2 * n], a[m], b[0], b[1]);
                        multiply(s[m][2 * n + 1], a[m], b[2], b[3]);
                    }
                }
            }
            if (key + KEYS - 1 > start + warp_row) {
#pragma unroll
                for (int m = 0; m < M; ++m) {
#pragma unroll
                    for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            const int row = start + warp_row + m * 16 + lane / 4 + i / 2 * 8;
                            if (key + n * 8 + lane % 4 * 2 + i % 2 > row) s[m][n][i] = -INFINITY;
                        }
                    }
                }
            }
#pragma unroll
            for (int m = 0; m < M; ++m) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    float top = most[m][h];
#pragma unroll
                    for (int n = 0; n < KEYS / 8; ++n) {
                        top = fmaxf(top, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
                    }
                    top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
                    top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
                    const float shrink = exp2_fast((most[m][h] - top) * SCALE_LOG2);
                    const float shift = -top * SCALE_LOG2;
                    most[m][h] = top;
                    float part = sum[m][h] * shrink;
#pragma unroll
                    for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                        for (int i = 2 * h; i < 2 * h + 2; ++i) {
                            s[m][n][i] = exp2_fast(fmaf(s[m][n][i], SCALE_LOG2, shift));
                            part += s[m][n][i];
                        }
                    }
                    sum[m][h] = part;
#pragma unroll
                    for (int n = 0; n < D / 8; ++n) {
                        o[m][n][2 * h] *= shrink;
                        o[m][n][2 * h + 1] *= shrink;
                    }
                }
            }
        }
        copies_wait<0>();
        __syncthreads();
        if (key + KEYS < keys) {
            load_tile<KEYS, THREADS>(k_tile, k + size_t(key + KEYS) * qk_width, qk_width, doc.rows() - key - KEYS);
            copies_commit();
        }
        if (sees) {
#pragma unroll
            for (int step = 0; step < KEYS / 16; ++step) {
                uint32_t a[M][4];
#pragma unroll
                for (int m = 0; m < M; ++m) to_a(a[m], s[m][2 * step], s[m][2 * step + 1]);
#pragma unroll
                for (int n = 0; n < D / 16; ++n) {
                    uint32_t b[4];
                    load_b_transposed(b, v_tile, step * 16, n);
#pragma unroll
                    for (int m = 0; m < M; ++m) {
                        multiply(o[m][2 * n], a[m], b[0], b[1]);
                        multiply(o[m][2 * n + 1], a[m], b[2], b[3]);
                    }
                }
            }
        }
    }

    const int valid = doc.rows() - start;
#pragma unroll
    for (int m = 0; m < M; ++m) {
        const int first = warp_row + m * 16;
        float inverse[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float total = sum[m][h];
            total += __shfl_xor_sync(ALL_LANES, total, 1);
            total += __shfl_xor_sync(ALL_LANES, total, 2);
            inverse[h] = 1.0f / total;
            const int row = first + lane / 4 + h * 8;
            if (lane % 4 == 0 && row < valid) {
                p.lse[size_t(doc.first + start + row) * p.heads.q + head] = most[m][h] * SCALE + logf(total);
            }
        }
        // A warp's own rows of Q have served: no other warp reads them.
        bf16* to = p.o + (size_t(doc.first + start + first) * p.heads.q + head) * D;
        store_rows(memory + first * ROW_BYTES, o[m], inverse[0], inverse[1], to, size_t(p.heads.q) * D, valid - first);
    }
}
