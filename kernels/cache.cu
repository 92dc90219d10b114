// Generation: keys and values into the cache, and attention of one new row per sequence over them.
//
//   o = Σ_j softmax_j(q·k_j/√D)·v_j,  j = 0..position of the row's slot
//
// A block takes 256 keys of one sequence and one key/value head, four warps in turns of 16 keys; all query heads of the
// group (up to eight) are rows of one tensor-core tile, so k and v are read once. Nothing is staged: operands come from
// global memory in 16-byte accesses straight into the layout of mma. For q·k, whose inner index may be permuted at will
// if both sides are, lane (g, t) reads elements 32i + 8t … +7 of head g and key g: two inner steps. For P·v, whose columns
// may be permuted, it reads elements 64h + 8g … +7 of keys 2t, 2t+1, 2t+8, 2t+9, and byte permutes pair up the keys.
//
// Splits: each writes its unnormalised sum, its largest score and its denominator; a second kernel joins them in rising
// order. The cut lies at multiples of 256 keys whatever the capacity, so the bits do not depend on it. One split: the
// first kernel writes o itself, with the same bits.
//
// Shared memory 21 KB, for joining the warps; places are spread so that no access conflicts. Traffic: k and v of every
// position seen once, 512 B a position and key/value head; a split's 520 B of partial sums a head out and in.
// Grid (splits, Hk, rows), 128 threads; splits beyond the position return.
#include "attention.cuh"

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / WARP;
constexpr int SPLIT = 256;
constexpr int GROUP = 8;

struct Cache {
    bf16* k;
    bf16* v;
    // Positions of a slot.
    int capacity;
};

OFFSET(Cache, k, 0);
OFFSET(Cache, v, 8);
OFFSET(Cache, capacity, 16);
SIZE(Cache, 24);

// Grid (rows): the k columns of `qk` and the v columns of `qkv` into the row's slot and position.
extern "C" __global__ void __launch_bounds__(THREADS)
    kv_store(const bf16* __restrict__ qk, const bf16* __restrict__ qkv, const uint32_t* __restrict__ positions,
             const uint32_t* __restrict__ slots, Heads heads, Cache cache) {
    const size_t row = blockIdx.x, to = size_t(slots[row]) * cache.capacity + positions[row];
    const int width = heads.kv * D;
    const bf16* k = qk + row * (heads.q + heads.kv) * D + heads.q * D;
    const bf16* v = qkv + row * (heads.q + 2 * heads.kv) * D + (heads.q + heads.kv) * D;
    for (int c = threadIdx.x * 8; c < width; c += THREADS * 8) {
        store8(cache.k + to * width + c, load8(k + c));
        store8(cache.v + to * width + c, load8(v + c));
    }
}

struct AttentionCached {
    const bf16* qk;
    const uint32_t* positions;
    const uint32_t* slots;
    // Unnormalised o of each split, [rows, Hq, splits, D], and its largest score and denominator, [rows, Hq, splits].
    float* partial;
    float2* stats;
    bf16* o;
    Cache cache;
    Heads heads;
};

OFFSET(AttentionCached, qk, 0);
OFFSET(AttentionCached, positions, 8);
OFFSET(AttentionCached, slots, 16);
OFFSET(AttentionCached, partial, 24);
OFFSET(AttentionCached, stats, 32);
OFFSET(AttentionCached, o, 40);
OFFSET(AttentionCached, cache, 48);
OFFSET(AttentionCached, heads, 72);
SIZE(AttentionCached, 80);

// Place of element d of a head in shared memory: 16 lanes apart in d, or one head further, lie in other banks.
constexpr int HEAD_PLACES = 168;
__device__ __forceinline__ int spread(int d) { return d + d / 32 * 4; }

extern "C" __global__ void __launch_bounds__(THREADS) attention_cached(const AttentionCached p) {
    __shared__ __align__(16) float sums[WARPS][GROUP * HEAD_PLACES];
    __shared__ float2 parts[WARPS][GROUP];
    const int row = blockIdx.z, kv = blockIdx.y, split = blockIdx.x;
    const int keys = min(int(p.positions[row]) + 1, (split + 1) * SPLIT);
    if (split * SPLIT >= keys) return;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int group = p.heads.q / p.heads.kv, width = p.heads.kv * D;
    const size_t slot = (size_t(p.slots[row]) * p.cache.capacity * p.heads.kv + kv) * D;
    const bf16* k = p.cache.k + slot;
    const bf16* v = p.cache.v + slot;
    const Bf16x8 none = {};

    Bf16x8 q[D / 32];
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
        const bf16* from = p.qk + (size_t(row) * (p.heads.q + p.heads.kv) + kv * group + g) * D;
        q[i] = g < group ? load8(from + i * 32 + t * 8) : none;
    }
    // Rows 8–15 of the tile are empty: their accumulators stay zero.
    float o[2][8][4] = {};
    float most = -INFINITY, sum = 0.0f;
    for (int first = split * SPLIT + warp * 16; first < keys; first += WARPS * 16) {
        Bf16x8 key[2][D / 32], value[4][2];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            const int at = first + n * 8 + g;
#pragma unroll
            for (int i = 0; i < D / 32; ++i) key[n][i] = at < keys ? load8(k + size_t(at) * width + i * 32 + t * 8) : none;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int at = first + 2 * t + i % 2 + i / 2 * 8;
#pragma unroll
            for (int h = 0; h < 2; ++h) value[i][h] = at < keys ? load8(v + size_t(at) * width + h * 64 + g * 8) : none;
        }
        float s[2][4] = {};
        float top = most;
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
            for (int i = 0; i < D / 32; ++i) {
                multiply(s[n], {q[i].pair[0], 0, q[i].pair[1], 0}, key[n][i].pair[0], key[n][i].pair[1]);
                multiply(s[n], {q[i].pair[2], 0, q[i].pair[3], 0}, key[n][i].pair[2], key[n][i].pair[3]);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                if (first + n * 8 + 2 * t + i >= keys) s[n][i] = -INFINITY;
                top = fmaxf(top, s[n][i]);
            }
        }
        // The first of the 16 keys exists, so the largest score is finite.
        top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
        top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
        const float shrink = exp2_fast((most - top) * SCALE_LOG2), shift = -top * SCALE_LOG2;
        most = top;
        sum *= shrink;
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                s[n][i] = exp2_fast(fmaf(s[n][i], SCALE_LOG2, shift));
                sum += s[n][i];
            }
        }
        const uint32_t weights[4] = {pack(s[0][0], s[0][1]), 0, pack(s[1][0], s[1][1]), 0};
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const uint32_t halves = j % 2 == 0 ? 0x5410 : 0x7632;
                o[h][j][0] *= shrink;
                o[h][j][1] *= shrink;
                multiply(o[h][j], weights, __byte_perm(value[0][h].pair[j / 2], value[1][h].pair[j / 2], halves),
                    __byte_perm(value[2][h].pair[j / 2], value[3][h].pair[j / 2], halves));
            }
        }
    }
    sum += __shfl_xor_sync(ALL_LANES, sum, 1);
    sum += __shfl_xor_sync(ALL_LANES, sum, 2);

    // Lane (g, t) holds elements 64h + 16t … +15 of head g.
    if (t == 0) parts[warp][g] = {most, sum};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int j = i % 2 * 4, c = i / 2;
            const float* at = sums[warp] + g * HEAD_PLACES + spread(h * 64 + t * 16 + i / 2 * 8 + j);
            store4(shared_address(at), o[h][j][c], o[h][j + 1][c], o[h][j + 2][c], o[h][j + 3][c]);
        }
    }
    __syncthreads();
    const int d = threadIdx.x;
    for (int head = 0; head < group; ++head) {
        float top = parts[0][head].x;
        for (int w = 1; w < WARPS; ++w) top = fmaxf(top, parts[w][head].x);
        float total = 0.0f, all = 0.0f;
        for (int w = 0; w < WARPS; ++w) {
            const float weight = exp2_fast((parts[w][head].x - top) * SCALE_LOG2);
            total += parts[w][head].y * weight;
            all += sums[w][head * HEAD_PLACES + spread(d)] * weight;
        }
        const size_t at = size_t(row) * p.heads.q + kv * group + head;
        if (gridDim.x == 1) {
            p.o[at * D + d] = __float2bfloat16_rn(all * (1.0f / total));
        } else {
            p.partial[(at * gridDim.x + split) * D + d] = all;
            if (d == 0) p.stats[at * gridDim.x + split] = {top, total};
        }
    }
}

// Grid (Hq, rows), 128 threads: the splits of one head of one row. `splits` as many as the first kernel's grid had.
extern "C" __global__ void __launch_bounds__(D) attention_cached_join(const AttentionCached p, int splits) {
    const size_t at = size_t(blockIdx.y) * p.heads.q + blockIdx.x;
    const int used = int(p.positions[blockIdx.y]) / SPLIT + 1;
    float top = -INFINITY;
    for (int i = 0; i < used; ++i) top = fmaxf(top, p.stats[at * splits + i].x);
    float total = 0.0f, all = 0.0f;
    for (int i = 0; i < used; ++i) {
        const float2 part = p.stats[at * splits + i];
        const float weight = exp2_fast((part.x - top) * SCALE_LOG2);
        total += part.y * weight;
        all += p.partial[(at * splits + i) * D + threadIdx.x] * weight;
    }
    p.o[at * D + threadIdx.x] = __float2bfloat16_rn(all * (1.0f / total));
}
