// The skinny products of the adapters, deterministic: no atomics, every sum in a fixed order.
//
//   project    u = drop(z)·Aᵀ           v = scale·dy·B = scale·dy·(Bᵀ)ᵀ
//   gradient   dA += vᵀ·drop(z)         dB += scale·dyᵀ·u
//   transpose  Bᵀ, once a call, for v: both operands of a projection then run along the inner dimension
//
// All are bound by reading z or dy, which happens once for all parts of a fused layer (z), or by parts that share nothing
// (dy; blockIdx.z is the part). Kernels are named by parts × columns of the rank they take in one pass; a larger rank is
// blockIdx.y (projection) or part of blockIdx.z (gradient), and those passes read x again, side by side out of L2.
//
// project: 16 rows a block, eight warps that take 64 (or 32) of the inner dimension in turn. Fragments come straight from global
// memory, 16 bytes a lane: which inner index a lane's elements have does not matter as long as both operands agree, so lane
// c of four takes 8 consecutive ones for two mma. A lane thus has whole quads of a row and makes its mask without waste. The
// eight warps' sums are added in their order through shared memory. With dropout the masks are most of the work, and 16
// rows make enough blocks to share it out evenly.
// Traffic: x once; A or Bᵀ once a block (from L2); u or v.
//
// gradient: 64 columns of x × up to 512 rows a block, four warps of 16 columns. x and u or v pass through registers into
// shared memory, x once for each part's mask; ldmatrix.trans, since the inner dimension is the rows. Partial sums
// f32 [split][r][depth] to scratch; reduce adds the splits in order onto the gradient, for dB transposing.
// Traffic: x once, u or v once a column tile (from L2), partial sums written and read.
//
// Bank layouts: x 128 bytes a row, chunk c of row r at c ^ (r % 8); u and v 32 bytes a row, chunk c at c ^ (r / 4 % 2), or
// 64 bytes a row, chunk c at c ^ (r / 2 % 4); the warps' sums 32-byte groups, XORed likewise: no conflicts.
#include "mma.cuh"
#include "parts.cuh"
#include "philox.cuh"

// One module in a product.
struct LoraPart {
    // u or v [T, r]: written by project, read by gradient.
    bf16* narrow;
    // A or Bᵀ [r, depth]; project only.
    const bf16* wide;
    // [splits, r, depth]; gradient only.
    float* partial;
    // The columns of x that it sees.
    int column, depth;
    int rank;
    uint32_t module;
    // Of what project makes.
    float scale;
    int unused;
};

OFFSET(LoraPart, narrow, 0);
OFFSET(LoraPart, wide, 8);
OFFSET(LoraPart, partial, 16);
OFFSET(LoraPart, column, 24);
OFFSET(LoraPart, depth, 28);
OFFSET(LoraPart, rank, 32);
OFFSET(LoraPart, module, 36);
OFFSET(LoraPart, scale, 40);
SIZE(LoraPart, 48);

// Parameters of project and gradient.
struct Lora {
    // z or dy, rows `pitch` elements apart.
    const bf16* x;
    // Of each row, for dropout; null without.
    const uint32_t* samples;
    const uint32_t* positions;
    int rows, pitch;
    // Rows of a partial sum.
    int split;
    Dropout drop;
    int parts, unused;
    LoraPart part[PARTS];
};

OFFSET(Lora, x, 0);
OFFSET(Lora, samples, 8);
OFFSET(Lora, positions, 16);
OFFSET(Lora, rows, 24);
OFFSET(Lora, pitch, 28);
OFFSET(Lora, split, 32);
OFFSET(Lora, drop, 36);
OFFSET(Lora, parts, 56);
OFFSET(Lora, part, 64);
SIZE(Lora, 208);

__device__ __forceinline__ LoraPart pick(const Lora& p, int i) {
    return {select(p.part, i, &LoraPart::narrow),  select(p.part, i, &LoraPart::wide),
            select(p.part, i, &LoraPart::partial), select(p.part, i, &LoraPart::column),
            select(p.part, i, &LoraPart::depth),   select(p.part, i, &LoraPart::rank),
            select(p.part, i, &LoraPart::module),  select(p.part, i, &LoraPart::scale),
            0};
}

// The columns of eight consecutive elements.
struct Quads {
    DropoutQuad quad[2];

    __device__ __forceinline__ Quads(const Dropout& d, uint32_t module, uint32_t column)
        : quad{{d, module, column / 4}, {d, module, column / 4 + 1}} {}
};

// Eight consecutive elements of a row with those dropped zeroed; survivors are scaled where the sum ends.
__device__ __forceinline__ Bf16x8 dropped(Bf16x8 v, const Dropout& d, const DropoutRow& row, const Quads& columns) {
#pragma unroll
    for (int q = 0; q < 2; ++q) {
        const uint4 b = dropout_bits(d, row, columns.quad[q]);
        v.pair[2 * q] &= (b.x >= d.threshold ? 0x0000ffffu : 0) | (b.y >= d.threshold ? 0xffff0000u : 0);
        v.pair[2 * q + 1] &= (b.z >= d.threshold ? 0x0000ffffu : 0) | (b.w >= d.threshold ? 0xffff0000u : 0);
    }
    return v;
}

// TOGETHER parts go through x in one pass.
template <int TOGETHER, int TILES>
__device__ __forceinline__ void project(const Lora& p) {
    constexpr int WARPS = 8, ROWS = 16, WIDTH = TILES * 8;
    // A warp's turn: 64 of the inner dimension where registers allow, else 32.
    constexpr int HALVES = TOGETHER * TILES > 8 ? 1 : 2, CHUNK = HALVES * 32;
    __shared__ float2 sums[WARPS * ROWS * WIDTH / 2];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int g = lane / 4, c = lane % 4;
    const int row0 = blockIdx.x * ROWS, rank0 = blockIdx.y * WIDTH;
    LoraPart part[TOGETHER];
#pragma unroll
    for (int i = 0; i < TOGETHER; ++i) part[i] = pick(p, TOGETHER == 1 ? blockIdx.z : i);
    const int depth = part[0].depth;
    const bool masked = p.drop.threshold > 0;
    DropoutRow of_row[2];
    const bf16* at[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int row = row0 + i * 8 + g;
        const bool inside = row < p.rows;
        at[i] = inside ? p.x + size_t(row) * p.pitch + part[0].column + c * 8 : nullptr;
        of_row[i] = masked && inside ? DropoutRow(p.drop, p.samples[row], p.positions[row]) : DropoutRow{};
    }

    float acc[TOGETHER][TILES][4] = {};
#pragma unroll 1
    for (int k0 = warp * CHUNK; k0 < depth; k0 += WARPS * CHUNK) {
        Bf16x8 x[HALVES][2];
#pragma unroll
        for (int half = 0; half < HALVES; ++half)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int k = k0 + half * 32;
                x[half][i] = Bf16x8{};
                if (at[i] != nullptr && k + c * 8 < depth) x[half][i] = load8(at[i] + k);
            }
#pragma unroll
        for (int half = 0; half < HALVES; ++half) {
            const int k = k0 + half * 32 + c * 8;
#pragma unroll
            for (int q = 0; q < TOGETHER; ++q) {
                Bf16x8 left[2] = {x[half][0], x[half][1]};
                if (masked) {
                    const Quads columns(p.drop, part[q].module, k);
#pragma unroll
                    for (int i = 0; i < 2; ++i) left[i] = dropped(left[i], p.drop, of_row[i], columns);
                }
#pragma unroll
                for (int n = 0; n < TILES; ++n) {
                    const int r = rank0 + n * 8 + g;
                    Bf16x8 right{};
                    if (r < part[q].rank && k < depth) right = load8(part[q].wide + size_t(r) * depth + k);
#pragma unroll
                    for (int s = 0; s < 4; s += 2) {
                        const uint32_t a[4] = {left[0].pair[s], left[1].pair[s], left[0].pair[s + 1], left[1].pair[s + 1]};
                        multiply(acc[q][n], a, right.pair[s], right.pair[s + 1]);
                    }
                }
            }
        }
    }

    // Group n of four pairs in a row of the sums.
    auto place = [](int row, int n) { return row * (WIDTH / 2) + (TILES == 2 ? n ^ (row / 2 & 1) : n ^ (row & 3)) * 4; };
#pragma unroll
    for (int q = 0; q < TOGETHER; ++q) {
        if (q > 0) __syncthreads();
#pragma unroll
        for (int n = 0; n < TILES; ++n)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                sums[warp * (ROWS * WIDTH / 2) + place(h * 8 + g, n) + c] =
                    make_float2(acc[q][n][2 * h], acc[q][n][2 * h + 1]);
            }
        __syncthreads();
        for (int i = threadIdx.x; i < ROWS * WIDTH / 2; i += WARPS * WARP) {
            const int row = i / (WIDTH / 2), pair = i % (WIDTH / 2);
            float2 total = make_float2(0.0f, 0.0f);
#pragma unroll
            for (int w = 0; w < WARPS; ++w) {
                const float2 s = sums[w * (ROWS * WIDTH / 2) + place(row, pair / 4) + pair % 4];
                total.x += s.x;
                total.y += s.y;
            }
            const int r = rank0 + pair * 2;
            if (row0 + row < p.rows && r < part[q].rank) {
                *reinterpret_cast<uint32_t*>(part[q].narrow + size_t(row0 + row) * part[q].rank + r) =
                    pack(part[q].scale * total.x, part[q].scale * total.y);
            }
        }
    }
}

template <int TOGETHER, int TILES>
__device__ __forceinline__ void gradient(const Lora& p) {
    constexpr int THREADS = 128, ROWS = 64, COLUMNS = 64, WIDTH = TILES * 8;
    __shared__ __align__(128) unsigned char wide[TOGETHER][ROWS * COLUMNS * 2];
    __shared__ __align__(128) unsigned char narrow[TOGETHER][ROWS * WIDTH * 2];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int column0 = blockIdx.x * COLUMNS;
    const int passes = (p.part[0].rank + WIDTH - 1) / WIDTH;
    const int rank0 = blockIdx.z % passes * WIDTH;
    LoraPart part[TOGETHER];
#pragma unroll
    for (int i = 0; i < TOGETHER; ++i) part[i] = pick(p, TOGETHER == 1 ? blockIdx.z / passes : i);
    const int depth = part[0].depth;
    if (column0 >= depth) return;
    const int first = blockIdx.y * p.split, last = min(p.rows, first + p.split);
    const bool masked = p.drop.threshold > 0;

    // A thread's pieces: of x, chunk `chunk` of rows row + 16i; of u or v, TILES chunks a row.
    const int row = threadIdx.x / 8, chunk = threadIdx.x % 8;
    const int narrow_row = threadIdx.x / TILES, narrow_chunk = threadIdx.x % TILES;
    constexpr int NARROW_ROWS = THREADS / TILES;
    const bool inside = column0 + chunk * 8 < depth;
    Bf16x8 x[4], left[TOGETHER][TILES / 2];
    auto fetch = [&](int t0) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int t = t0 + row + 16 * i;
            x[i] = Bf16x8{};
            if (inside && t < last) x[i] = load8(p.x + size_t(t) * p.pitch + part[0].column + column0 + chunk * 8);
        }
#pragma unroll
        for (int q = 0; q < TOGETHER; ++q)
#pragma unroll
            for (int i = 0; i < TILES / 2; ++i) {
                const int t = t0 + narrow_row + NARROW_ROWS * i, r = rank0 + narrow_chunk * 8;
                left[q][i] = Bf16x8{};
                if (t < last && r < part[q].rank) left[q][i] = load8(part[q].narrow + size_t(t) * part[q].rank + r);
            }
    };
    auto wide_place = [](int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); };
    auto narrow_place = [](int row, int chunk) {
        return row * (WIDTH * 2) + ((TILES == 2 ? chunk ^ (row / 4 & 1) : chunk ^ (row / 2 & 3)) << 4);
    };

    float acc[TOGETHER][TILES / 2][2][4] = {};
    fetch(first);
#pragma unroll 1
    for (int t0 = first; t0 < last; t0 += ROWS) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int t = t0 + row + 16 * i;
            const bool real = masked && t < last;
            const DropoutRow of_row = real ? DropoutRow(p.drop, p.samples[t], p.positions[t]) : DropoutRow{};
#pragma unroll
            for (int q = 0; q < TOGETHER; ++q) {
                if (q > 0 && !masked) break;
                const Bf16x8 v = masked ? dropped(x[i], p.drop, of_row, Quads(p.drop, part[q].module, column0 + chunk * 8))
                                        : x[i];
                store_shared16(shared_address(wide[q]) + wide_place(row + 16 * i, chunk), v);
            }
        }
#pragma unroll
        for (int q = 0; q < TOGETHER; ++q)
#pragma unroll
            for (int i = 0; i < TILES / 2; ++i) {
                store_shared16(shared_address(narrow[q]) + narrow_place(narrow_row + NARROW_ROWS * i, narrow_chunk),
                               left[q][i]);
            }
        __syncthreads();
        if (t0 + ROWS < last) fetch(t0 + ROWS);
#pragma unroll
        for (int k = 0; k < ROWS; k += 16)
#pragma unroll
            for (int q = 0; q < TOGETHER; ++q) {
                uint32_t right[4];
                load_matrices_transposed(right, shared_address(masked ? wide[q] : wide[0]) +
                                                    wide_place(k + lane % 16, warp * 2 + lane / 16));
#pragma unroll
                for (int m = 0; m < TILES / 2; ++m) {
                    uint32_t a[4];
                    load_matrices_transposed(a, shared_address(narrow[q]) +
                                                    narrow_place(k + lane / 16 * 8 + lane % 8, m * 2 + lane / 8 % 2));
                    multiply(acc[q][m][0], a, right[0], right[1]);
                    multiply(acc[q][m][1], a, right[2], right[3]);
                }
            }
        __syncthreads();
    }
#pragma unroll
    for (int q = 0; q < TOGETHER; ++q)
#pragma unroll
        for (int m = 0; m < TILES / 2; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h)
#pragma unroll
                for (int n = 0; n < 2; ++n) {
                    const int r = rank0 + m * 16 + h * 8 + lane / 4, column = column0 + warp * 16 + n * 8 + lane % 4 * 2;
                    if (r < part[q].rank && column < depth) {
                        const size_t at = (size_t(blockIdx.y) * part[q].rank + r) * depth + column;
                        *reinterpret_cast<float2*>(part[q].partial + at) =
                            make_float2(acc[q][m][n][2 * h], acc[q][m][n][2 * h + 1]);
                    }
                }
}

// gradient[i] += scale·Σ partial[split][i], four elements a thread.
extern "C" __global__ void __launch_bounds__(256)
    lora_reduce(const float* __restrict__ partial, float* gradient, int splits, int rank, int depth, float scale) {
    const size_t count = size_t(rank) * depth, at = (size_t(blockIdx.x) * 256 + threadIdx.x) * 4;
    if (at >= count) return;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int s = 0; s < splits; ++s) {
        const float4 v = *reinterpret_cast<const float4*>(partial + s * count + at);
        sum.x += v.x;
        sum.y += v.y;
        sum.z += v.z;
        sum.w += v.w;
    }
    float4* const to = reinterpret_cast<float4*>(gradient + at);
    float4 g = *to;
    g.x += scale * sum.x;
    g.y += scale * sum.y;
    g.z += scale * sum.z;
    g.w += scale * sum.w;
    *to = g;
}

// gradient[n][r] += scale·Σ partial[split][r][n]. A warp takes 8 n × 16 r: whole sectors on both sides.
extern "C" __global__ void __launch_bounds__(256)
    lora_reduce_transposed(const float* __restrict__ partial, float* gradient, int splits, int rank, int depth, float scale) {
    const int across = (rank + 15) / 16, groups = (depth + 7) / 8 * across, lane = threadIdx.x % WARP;
    for (int group = blockIdx.x * 8 + threadIdx.x / WARP; group < groups; group += gridDim.x * 8) {
        const int n = group / across * 8 + lane / 4, r = group % across * 16 + lane % 4 * 4;
        if (n >= depth || r >= rank) continue;
        float sum[4] = {};
        for (int s = 0; s < splits; ++s) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[i] += partial[(size_t(s) * rank + r + i) * depth + n];
        }
        float4* const to = reinterpret_cast<float4*>(gradient + size_t(n) * rank + r);
        float4 g = *to;
        g.x += scale * sum[0];
        g.y += scale * sum[1];
        g.z += scale * sum[2];
        g.w += scale * sum[3];
        *to = g;
    }
}

// to[r][n] = from[n][r], eight columns of the rank a thread.
extern "C" __global__ void __launch_bounds__(64) lora_transpose(const bf16* __restrict__ from, int n, int rank, bf16* to) {
    const int row = blockIdx.x * 64 + threadIdx.x, r = blockIdx.y * 8;
    if (row >= n) return;
    const Bf16x8 v = load8(from + size_t(row) * rank + r);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const uint16_t bits = uint16_t(v.pair[i / 2] >> (i % 2 * 16));
        reinterpret_cast<uint16_t*>(to)[size_t(r + i) * n + row] = bits;
    }
}

#define LORA(parts, tiles, width)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256, (parts) == 1 ? 2 : 1) lora_project_##parts##x##width(const __grid_constant__ Lora p) { \
        project<parts, tiles>(p);                                                                                         \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(128) lora_gradient_##parts##x##width(const __grid_constant__ Lora p) {    \
        gradient<parts, tiles>(p);                                                                                        \
    }

LORA(1, 2, 16)
LORA(2, 2, 16)
LORA(3, 2, 16)
LORA(1, 4, 32)
LORA(2, 4, 32)
LORA(3, 4, 32)
