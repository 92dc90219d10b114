// FlashAttention-2 backward in two deterministic kernels and a preparation. Notation as in attention.cu:
//
//   P = exp(s − lse)    Δ = rowsum(do∘o)    dP = do·vᵀ    dS = P∘(dP − Δ)
//   dv = Pᵀ·do          dk = dSᵀ·q/√D       dq = dS·k/√D
//
// Both kernels make S and dP anew (7 products in all against 5 of a kernel that adds dq atomically): no atomics, one
// order of every sum. In both, eight warps own 16 rows each of a 128-row tile whose two operands (q, do; or k, v) stay in
// registers as fragments; what they meet (k, v; or q, do) streams by in tiles of 64 rows, two stages of 32 KB with one
// barrier a tile. In the dk/dv kernel scores are made transposed, so that in either kernel P and dS go from accumulators to
// operand A without shared memory. Chunks of the stream that causality hides from a warp are skipped by it.
//
// attention_stats writes lse·log₂e and Δ side by side by head, [Hq, T], so that a tile's 64 pairs are 512 bytes in a row.
//
// Shared memory 64 KB (+ 1 KB of stats), one block an SM. Layout and freedom from conflicts: attention.cuh. Each ldmatrix.x4
// feeds two mma, so shared memory and tensor cores are busy for equally long: the bound of both kernels.
// Traffic. stats: o, do, lse in, 8 B a (row, head) out. dq, a block that sees n keys: 128 rows of q and do in, n of k and
// v, 128 of dq out. dk/dv, a block that n queries see: 128 rows of k and v in, group·n of q and do and 8 B of stats each,
// 128 of dk and dv out. Rows are 256 B.
// Cost of a 64-row tile and warp: dq 192 mma and 96 ldmatrix; dk/dv 256 and 128; 32 exponentials a lane. Counted:
// docs/kernel-costs.md.
#include "attention.cuh"

constexpr int THREADS = 256;
// Rows of a block, and of a tile of what streams by.
constexpr int ROWS = 128;
constexpr int TILE = 64;
constexpr int TILE_BYTES = TILE * ROW_BYTES;
constexpr int STAGE_BYTES = 2 * TILE_BYTES;
// Keys or queries whose scores a warp holds at a time.
constexpr int DQ_CHUNK = 32;
constexpr int DKV_CHUNK = 16;

// --- preparation --------------------------------------------------------------------------------------------------------

constexpr int STAT_ROWS = 32;
constexpr int STAT_HEADS = 8;

// Grid (⌈T/32⌉, ⌈Hq/8⌉).
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_stats(const bf16* __restrict__ o, const bf16* __restrict__ d_o, const float* __restrict__ lse, int rows,
                    int q_heads, float2* __restrict__ stats) {
    __shared__ float2 shared[STAT_HEADS][STAT_ROWS + 1];
    const int row0 = blockIdx.x * STAT_ROWS, head0 = blockIdx.y * STAT_HEADS;
    {
        const int head = threadIdx.x % STAT_HEADS, row = threadIdx.x / STAT_HEADS;
        if (row0 + row < rows && head0 + head < q_heads) {
            shared[head][row].x = lse[size_t(row0 + row) * q_heads + head0 + head] * LOG2_E;
        }
    }
    // Sixteen lanes share a (row, head): eight elements each.
    const int part = threadIdx.x % 16;
#pragma unroll 4
    for (int i = threadIdx.x / 16; i < STAT_ROWS * STAT_HEADS; i += THREADS / 16) {
        const int head = i % STAT_HEADS, row = i / STAT_HEADS;
        const bool there = row0 + row < rows && head0 + head < q_heads;
        float delta = 0.0f;
        if (there) {
            const size_t at = (size_t(row0 + row) * q_heads + head0 + head) * D + part * 8;
            float a[8], b[8];
            unpack(load8(o + at), a);
            unpack(load8(d_o + at), b);
#pragma unroll
            for (int j = 0; j < 8; ++j) delta = fmaf(a[j], b[j], delta);
        }
#pragma unroll
        for (int d = 8; d > 0; d /= 2) delta += __shfl_xor_sync(ALL_LANES, delta, d);
        if (there && part == 0) shared[head][row].y = delta;
    }
    __syncthreads();
    const int head = threadIdx.x / STAT_ROWS, row = threadIdx.x % STAT_ROWS;
    if (row0 + row < rows && head0 + head < q_heads) stats[size_t(head0 + head) * rows + row0 + row] = shared[head][row];
}

// --- what both kernels do -----------------------------------------------------------------------------------------------

struct AttentionBackward {
    const bf16* qk;
    const bf16* qkv;
    const bf16* d_o;
    const float2* stats;
    const uint32_t* cu_seqlens;
    bf16* dqk;
    bf16* dqkv;
    Heads heads;
    int rows;
};

OFFSET(AttentionBackward, qk, 0);
OFFSET(AttentionBackward, qkv, 8);
OFFSET(AttentionBackward, d_o, 16);
OFFSET(AttentionBackward, stats, 24);
OFFSET(AttentionBackward, cu_seqlens, 32);
OFFSET(AttentionBackward, dqk, 40);
OFFSET(AttentionBackward, dqkv, 48);
OFFSET(AttentionBackward, heads, 56);
OFFSET(AttentionBackward, rows, 64);
SIZE(AttentionBackward, 72);

// The 16 rows of this warp as operand A, all of their 128 columns.
__device__ __forceinline__ void load_all_a(uint32_t (&a)[D / 16][4], uint32_t tile) {
#pragma unroll
    for (int step = 0; step < D / 16; ++step) load_a(a[step], tile, threadIdx.x / WARP * 16, step);
}

// c = a·yᵀ for N rows of a tile from `row`.
template <int N>
__device__ __forceinline__ void scores(float (&c)[N / 8][4], const uint32_t (&a)[D / 16][4], uint32_t tile, int row) {
#pragma unroll
    for (int n = 0; n < N / 8; ++n) c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0.0f;
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
#pragma unroll
        for (int n = 0; n < N / 16; ++n) {
            uint32_t b[4];
            load_b(b, tile + row * ROW_BYTES, n * 16, step);
            multiply(c[2 * n], a[step], b[0], b[1]);
            multiply(c[2 * n + 1], a[step], b[2], b[3]);
        }
    }
}

// sum += c·y for the N rows of a tile from `row`.
template <int N>
__device__ __forceinline__ void accumulate(float (&sum)[D / 8][4], const float (&c)[N / 8][4], uint32_t tile, int row) {
#pragma unroll
    for (int step = 0; step < N / 16; ++step) {
        uint32_t a[4];
        to_a(a, c[2 * step], c[2 * step + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
            uint32_t b[4];
            load_b_transposed(b, tile + row * ROW_BYTES, step * 16, n);
            multiply(sum[2 * n], a, b[0], b[1]);
            multiply(sum[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// --- dq -----------------------------------------------------------------------------------------------------------------

// Grid (Hq, documents, tiles of the longest document), the last tiles first.
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_dq(const AttentionBackward p) {
    extern __shared__ __align__(256) char memory[];
    const Document doc = document(p.cu_seqlens, blockIdx.y);
    const int start = (gridDim.z - 1 - blockIdx.z) * ROWS;
    if (start >= doc.rows()) return;
    const int head = blockIdx.x, kv = head / (p.heads.q / p.heads.kv);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int o_width = p.heads.q * D, qk_width = o_width + p.heads.kv * D, qkv_width = qk_width + p.heads.kv * D;
    const bf16* k = p.qk + size_t(doc.first) * qk_width + (p.heads.q + kv) * D;
    const bf16* v = p.qkv + size_t(doc.first) * qkv_width + (p.heads.q + p.heads.kv + kv) * D;
    const size_t first = size_t(doc.first + start);
    const int valid = doc.rows() - start;

    // This block's queries and their do into registers, through the memory of the stages.
    const uint32_t tiles = shared_address(memory);
    load_tile<ROWS, THREADS>(tiles, p.qk + first * qk_width + head * D, qk_width, valid);
    load_tile<ROWS, THREADS>(tiles + STAGE_BYTES, p.d_o + first * o_width + head * D, o_width, valid);
    copies_commit();
    // lse·log₂e and Δ of rows g and g+8 of this warp.
    float2 stats[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int row = warp * 16 + lane / 4 + h * 8;
        stats[h] = row < valid ? p.stats[size_t(head) * p.rows + first + row] : make_float2(0.0f, 0.0f);
    }
    copies_wait<0>();
    __syncthreads();
    uint32_t q[D / 16][4], d_o[D / 16][4];
    load_all_a(q, tiles);
    load_all_a(d_o, tiles + STAGE_BYTES);
    __syncthreads();

    // Keys and values stream by from the document's first to the last that a query of this block sees.
    const auto load = [&](int key, uint32_t stage) {
        load_tile<TILE, THREADS>(stage, k + size_t(key) * qk_width, qk_width, doc.rows() - key);
        load_tile<TILE, THREADS>(stage + TILE_BYTES, v + size_t(key) * qkv_width, qkv_width, doc.rows() - key);
        copies_commit();
    };
    const int keys = min(start + ROWS, doc.rows());
    const int warp_row = start + warp * 16;
    float dq[D / 8][4] = {};
    load(0, tiles);
    uint32_t stage = 0;
    for (int key = 0; key < keys; key += TILE, stage ^= STAGE_BYTES) {
        copies_wait<0>();
        __syncthreads();
        if (key + TILE < keys) load(key + TILE, tiles + (stage ^ STAGE_BYTES));
        const uint32_t k_tile = tiles + stage, v_tile = k_tile + TILE_BYTES;
        // A warp leaves out the chunks that lie wholly behind its last query.
#pragma unroll 1
        for (int chunk = 0; chunk < TILE && key + chunk <= warp_row + 15; chunk += DQ_CHUNK) {
            float s[DQ_CHUNK / 8][4], dp[DQ_CHUNK / 8][4];
            // S and dP of 16 queries and 32 keys.
            scores<DQ_CHUNK>(s, q, k_tile, chunk);
            scores<DQ_CHUNK>(dp, d_o, v_tile, chunk);
            // dS = P∘(dP − Δ), in place of S; zero beyond the diagonal.
            const bool masked = key + chunk + DQ_CHUNK - 1 > warp_row;
#pragma unroll
            for (int n = 0; n < DQ_CHUNK / 8; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    float x = exp2_fast(fmaf(s[n][i], SCALE_LOG2, -stats[i / 2].x)) * (dp[n][i] - stats[i / 2].y);
                    const int row = warp_row + lane / 4 + i / 2 * 8;
                    if (masked && key + chunk + n * 8 + lane % 4 * 2 + i % 2 > row) x = 0.0f;
                    s[n][i] = x;
                }
            }
            // dq += dS·k
            accumulate<DQ_CHUNK>(dq, s, k_tile, chunk);
        }
    }
    // Out through the memory of the stages, which nobody reads any more.
    __syncthreads();
    bf16* to = p.dqk + (first + warp * 16) * qk_width + head * D;
    store_rows(memory + warp * 16 * ROW_BYTES, dq, SCALE, SCALE, to, qk_width, valid - warp * 16);
}

// --- dk, dv -------------------------------------------------------------------------------------------------------------

// Grid (Hk, documents, tiles of the longest document), the first tiles, which most queries see, first.
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_dkv(const AttentionBackward p) {
    extern __shared__ __align__(256) char memory[];
    const Document doc = document(p.cu_seqlens, blockIdx.y);
    const int start = blockIdx.z * ROWS;
    if (start >= doc.rows()) return;
    const int kv = blockIdx.x, group = p.heads.q / p.heads.kv;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int o_width = p.heads.q * D, qk_width = o_width + p.heads.kv * D, qkv_width = qk_width + p.heads.kv * D;
    const size_t first = size_t(doc.first + start);
    const size_t k_at = first * qk_width + (p.heads.q + kv) * D;
    const size_t v_at = first * qkv_width + (p.heads.q + p.heads.kv + kv) * D;
    const int valid = doc.rows() - start;

    // This block's keys and values into registers, through the memory of the stages.
    const uint32_t tiles = shared_address(memory);
    load_tile<ROWS, THREADS>(tiles, p.qk + k_at, qk_width, valid);
    load_tile<ROWS, THREADS>(tiles + STAGE_BYTES, p.qkv + v_at, qkv_width, valid);
    copies_commit();
    copies_wait<0>();
    __syncthreads();
    uint32_t k[D / 16][4], v[D / 16][4];
    load_all_a(k, tiles);
    load_all_a(v, tiles + STAGE_BYTES);
    __syncthreads();

    // Rows of q and do from the diagonal on, relative to `first`, for one head of the group after the other.
    const auto load = [&](int head, int query, uint32_t stage) {
        const size_t row = first + query;
        load_tile<TILE, THREADS>(tiles + stage, p.qk + row * qk_width + head * D, qk_width, valid - query);
        load_tile<TILE, THREADS>(tiles + stage + TILE_BYTES, p.d_o + row * o_width + head * D, o_width, valid - query);
        if (threadIdx.x < TILE) {
            const bool there = query + int(threadIdx.x) < valid;
            const float2* from = p.stats + size_t(head) * p.rows + row + (there ? threadIdx.x : 0);
            copy8(tiles + 2 * STAGE_BYTES + stage / STAGE_BYTES * TILE * 8 + threadIdx.x * 8, from, there);
        }
        copies_commit();
    };
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    int head = kv * group, query = 0;
    uint32_t stage = 0;
    load(head, query, stage);
    while (head < (kv + 1) * group) {
        copies_wait<0>();
        __syncthreads();
        const bool last = query + TILE >= valid;
        const int next_head = last ? head + 1 : head, next_query = last ? 0 : query + TILE;
        if (next_head < (kv + 1) * group) load(next_head, next_query, stage ^ STAGE_BYTES);
        const uint32_t q_tile = tiles + stage, do_tile = q_tile + TILE_BYTES;
        // lse·log₂e and Δ of the tile's queries.
        const float4* stats = reinterpret_cast<const float4*>(memory + 2 * STAGE_BYTES + stage / STAGE_BYTES * TILE * 8);
        // Queries before this warp's first key see none of its keys.
#pragma unroll 1
        for (int chunk = max(0, warp * 16 - query); chunk < TILE; chunk += DKV_CHUNK) {
            float s[DKV_CHUNK / 8][4], dp[DKV_CHUNK / 8][4];
            // Pᵀ of 16 keys and 16 queries, zero beyond the diagonal.
            scores<DKV_CHUNK>(s, k, q_tile, chunk);
            const bool masked = query + chunk < warp * 16 + 15;
#pragma unroll
            for (int n = 0; n < DKV_CHUNK / 8; ++n) {
                // Of two neighbouring queries.
                const float4 stat = stats[(chunk + n * 8) / 2 + lane % 4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    s[n][i] = exp2_fast(fmaf(s[n][i], SCALE_LOG2, i % 2 == 0 ? -stat.x : -stat.z));
                    const int key = warp * 16 + lane / 4 + i / 2 * 8;
                    if (masked && query + chunk + n * 8 + lane % 4 * 2 + i % 2 < key) s[n][i] = 0.0f;
                }
            }
            // dPᵀ, and dv += Pᵀ·do while P is still there.
            scores<DKV_CHUNK>(dp, v, do_tile, chunk);
            accumulate<DKV_CHUNK>(dv, s, do_tile, chunk);
            // dSᵀ = Pᵀ∘(dPᵀ − Δ), in place of Pᵀ, and dk += dSᵀ·q.
#pragma unroll
            for (int n = 0; n < DKV_CHUNK / 8; ++n) {
                const float4 stat = stats[(chunk + n * 8) / 2 + lane % 4];
#pragma unroll
                for (int i = 0; i < 4; ++i) s[n][i] *= dp[n][i] - (i % 2 == 0 ? stat.y : stat.w);
            }
            accumulate<DKV_CHUNK>(dk, s, q_tile, chunk);
        }
        // The next tile of this head's queries, or the first of the next head in the group.
        head = next_head;
        query = next_query;
        stage ^= STAGE_BYTES;
    }
    // Out through the memory of the stages, a part of it for each warp: dk, then dv.
    __syncthreads();
    char* slab = memory + warp * 16 * ROW_BYTES;
    const int left = valid - warp * 16;
    store_rows(slab, dk, SCALE, SCALE, p.dqk + k_at + size_t(warp) * 16 * qk_width, qk_width, left);
    __syncwarp();
    store_rows(slab, dv, 1.0f, 1.0f, p.dqkv + v_at + size_t(warp) * 16 * qkv_width, qkv_width, left);
}
