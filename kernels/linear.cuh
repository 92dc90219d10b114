// The tile of a linear layer that linear.cu (dense W) and linear_nf4.cu (packed W) share: operands in shared memory, the
// product of one step, the low-rank step, the epilogue. See linear.cu for the equations.
//
// A warp owns 64×64 of the output, or 32×64. A step is 32 of the inner dimension, two mma deep.
//
// Layouts in shared memory, in chunks of 16 bytes (8 bf16), free of bank conflicts in every access:
// - "rows": an operand whose inner dimension is contiguous (z, dy, u, v; W forward; B). A row has 4 chunks, two rows make
//   a line of 128 bytes: chunk c of row r lies at line r / 2, place (r % 2)·4 + (c ^ (r / 2 % 4)). Eight consecutive rows at
//   one c, which an ldmatrix phase reads, are eight different places.
// - "depth": an operand whose inner dimension runs over rows (W backward; A). A row is 128 columns, 16 chunks: chunk c of
//   row r lies at place c ^ (r % 8).
// - output: 64 columns of a warp, 8 chunks a row, chunk c of row r at place c ^ (r % 8).
#pragma once

#include "mma.cuh"
#include "parts.cuh"
#include "philox.cuh"

constexpr int STEP = 32;

// One module's adapter.
struct Part {
    // u [T, r] forward, v [T, r] backward.
    const bf16* left;
    // B [end − start, r] forward, A [r, columns] backward.
    const bf16* right;
    // Columns of y that the module makes; forward only.
    int start, end;
    int rank;
    uint32_t module;
    // Of u·Bᵀ; forward only (v is scaled already).
    float scale;
    int unused;
};

OFFSET(Part, left, 0);
OFFSET(Part, right, 8);
OFFSET(Part, start, 16);
OFFSET(Part, end, 20);
OFFSET(Part, rank, 24);
OFFSET(Part, module, 28);
OFFSET(Part, scale, 32);
SIZE(Part, 40);

// Parameters of every linear kernel.
struct Linear {
    // z or dy, [rows, depth].
    const bf16* x;
    // Dense: bf16. Packed: NF4. [columns, depth] forward, [depth, columns] backward.
    const void* w;
    // Packed: absmax of each 64 weights.
    const float* absmax;
    // [rows, columns] or null; may be `out`.
    const bf16* add;
    bf16* out;
    // Of each row, for dropout; null without.
    const uint32_t* samples;
    const uint32_t* positions;
    int rows, columns, depth;
    // Row tiles that run side by side before the next column tile begins: what they share of W stays in L2.
    int group;
    // Number of the launch's first tile: another launch, of larger tiles, makes what comes before.
    int first;
    Dropout drop;
    int parts, unused;
    Part part[PARTS];
};

OFFSET(Linear, x, 0);
OFFSET(Linear, w, 8);
OFFSET(Linear, absmax, 16);
OFFSET(Linear, add, 24);
OFFSET(Linear, out, 32);
OFFSET(Linear, samples, 40);
OFFSET(Linear, positions, 48);
OFFSET(Linear, rows, 56);
OFFSET(Linear, columns, 60);
OFFSET(Linear, depth, 64);
OFFSET(Linear, group, 68);
OFFSET(Linear, first, 72);
OFFSET(Linear, drop, 76);
OFFSET(Linear, parts, 96);
OFFSET(Linear, part, 104);
SIZE(Linear, 224);

// A block's tile: BM×BN of the output, one warp for each WM×64.
template <int BM_, int BN_, int WM_>
struct Tile {
    static constexpr int BM = BM_, BN = BN_, WM = WM_;
    static constexpr int WARPS = BM / WM * (BN / 64), THREADS = WARPS * WARP;
    // Rows of 16 of a warp.
    static constexpr int M = WM / 16;
    // Bytes of one step's operands as bf16.
    static constexpr int LEFT = BM * STEP * 2, RIGHT = BN * STEP * 2;
    int row0, column0;
    // Of the warp, within the tile.
    int warp_row, warp_column;

    // Column tiles outside, row tiles inside, `group` rows of tiles at a time.
    __device__ explicit Tile(const Linear& p) {
        const int down = (p.rows + BM - 1) / BM, across = (p.columns + BN - 1) / BN;
        const int per_group = p.group * across, tile = p.first + blockIdx.x;
        const int first = tile / per_group * p.group, within = tile % per_group;
        const int height = min(p.group, down - first);
        row0 = (first + within % height) * BM;
        column0 = within / height * BN;
        const int warp = threadIdx.x / WARP;
        warp_row = warp / (BN / 64) * WM;
        warp_column = warp % (BN / 64) * 64;
    }
};

__device__ __forceinline__ int lane_id() { return threadIdx.x % WARP; }

// Byte offset of a chunk in layout "rows".
__device__ __forceinline__ uint32_t in_rows(int row, int chunk) {
    return row * 64 + ((chunk ^ (row >> 1 & 3)) << 4);
}

// The same in layout "depth" with BN columns.
template <int BN>
__device__ __forceinline__ uint32_t in_depth(int row, int chunk) {
    return row * (BN * 2) + ((chunk ^ (row & 7)) << 4);
}

// Copies ROWS rows of 32 elements, layout "rows". `from` is row 0; rows outside [first, last) and elements from `depth` on
// become zero.
template <int ROWS, int THREADS>
__device__ __forceinline__ void copy_rows(uint32_t to, const bf16* from, int pitch, int first, int last, int depth) {
    const int chunk = threadIdx.x % 4, row = threadIdx.x / 4;
    const bf16* at = from + ptrdiff_t(row) * pitch + chunk * 8;
    to += in_rows(row, chunk);
    const bool deep = chunk * 8 < depth;
#pragma unroll
    for (int i = 0; i < ROWS; i += THREADS / 4) {
        const bool inside = deep && row + i >= first && row + i < last;
        copy16(to + i * 64, at + ptrdiff_t(i) * pitch, inside);
    }
}

// Copies 32 rows of BN elements, layout "depth". Rows from `depth` on and columns from `columns` on become zero.
template <int BN, int THREADS>
__device__ __forceinline__ void copy_depth(uint32_t to, const bf16* from, int pitch, int depth, int columns) {
    constexpr int CHUNKS = BN / 8, ROWS = THREADS / CHUNKS;
    static_assert(ROWS % 8 == 0, "a thread's rows share their place");
    const int chunk = threadIdx.x % CHUNKS, row = threadIdx.x / CHUNKS;
    const bf16* at = from + ptrdiff_t(row) * pitch + chunk * 8;
    to += in_depth<BN>(row, chunk);
    const bool wide = chunk * 8 < columns;
#pragma unroll
    for (int i = 0; i < STEP; i += ROWS) {
        copy16(to + i * (BN * 2), at + ptrdiff_t(i) * pitch, wide && row + i < depth);
    }
}

// What a warp multiplies in one mma step: 16·M rows × 16 and 16 × 64 columns.
template <int M>
struct Fragments {
    uint32_t left[M][4];
    uint32_t right[4][4];
};

// Where a lane finds its matrix rows; everything that does not change from step to step.
template <class T, bool BACKWARD>
struct Reader {
    uint32_t left;
    uint32_t right[BACKWARD ? 4 : 1];

    __device__ explicit Reader(const T& t) {
        const int lane = lane_id();
        left = in_rows(t.warp_row + lane % 16, lane / 16);
        if constexpr (BACKWARD) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                right[j] = in_depth<T::BN>(lane % 16, t.warp_column / 8 + 2 * j + lane / 16);
            }
        } else {
            right[0] = in_rows(t.warp_column + lane % 8 + lane / 16 * 8, lane / 8 % 2);
        }
    }

    // `half`: which 16 of the step's 32. In layout "rows" they differ in bit 1 of the chunk, that is 32 bytes.
    __device__ __forceinline__ void load_left(uint32_t (&f)[4], uint32_t tile, int half, int i) const {
        load_matrices(f, tile + (left ^ half * 32) + i * 16 * 64);
    }

    __device__ __forceinline__ void load_right(uint32_t (&f)[4][4], uint32_t tile, int half) const {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if constexpr (BACKWARD) {
                load_matrices_transposed(f[j], tile + right[j] + half * 16 * T::BN * 2);
            } else {
                load_matrices(f[j], tile + (right[0] ^ half * 32) + j * 16 * 64);
            }
        }
    }

    __device__ __forceinline__ void load(Fragments<T::M>& f, uint32_t left_tile, uint32_t right_tile, int half) const {
#pragma unroll
        for (int i = 0; i < T::M; ++i) load_left(f.left[i], left_tile, half, i);
        load_right(f.right, right_tile, half);
    }
};

template <int M>
using Accumulators = float[M][8][4];

template <int M>
__device__ __forceinline__ void multiply(Accumulators<M>& acc, const Fragments<M>& f) {
#pragma unroll
    for (int i = 0; i < M; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            // Every second row backwards: the operand just used stays in the register cache.
            const int jj = i % 2 == 0 ? j : 7 - j;
            multiply(acc[i][jj], f.left[i], f.right[jj / 2][jj % 2 * 2], f.right[jj / 2][jj % 2 * 2 + 1]);
        }
}

// Which of a thread's 32·M output elements survive dropout. Lanes 2m and 2m + 1 need the same quads of columns, two words
// each: one makes those of even column groups j, the other those of odd ones, and they swap.
template <int M>
struct Mask {
    uint32_t even[M], odd[M];

    template <class T>
    __device__ __forceinline__ Mask(const T& t, const Linear& p, uint32_t module) {
        const int lane = lane_id();
        uint32_t own[M] = {};
        // Not unrolled over: the words move through `own` four bits at a time, element (i, h, jp) ends at bit
        // 16h + 4jp of word i.
#pragma unroll 1
        for (int ih = 0; ih < 2 * M; ++ih) {
            const int row = t.row0 + t.warp_row + ih / 2 * 16 + ih % 2 * 8 + lane / 4;
            const bool inside = row < p.rows;
            const DropoutRow of_row(p.drop, inside ? p.samples[row] : 0, inside ? p.positions[row] : 0);
            const uint32_t quad = (t.column0 + t.warp_column) / 4 + lane % 2 * 2 + lane / 2 % 2;
#pragma unroll
            for (int jp = 0; jp < 4; ++jp) {
                const uint32_t keep = dropout_keep(p.drop, of_row, DropoutQuad(p.drop, module, quad + jp * 4));
#pragma unroll
                for (int w = 0; w < M - 1; ++w) own[w] = __funnelshift_r(own[w], own[w + 1], 4);
                own[M - 1] = own[M - 1] >> 4 | keep << 28;
            }
        }
        const bool second = lane % 2;
#pragma unroll
        for (int w = 0; w < M; ++w) {
            const uint32_t other = __shfl_xor_sync(ALL_LANES, own[w], 1);
            even[w] = (second ? other : own[w]) >> (second ? 2 : 0);
            odd[w] = (second ? own[w] : other) >> (second ? 2 : 0);
        }
    }

    __device__ __forceinline__ Mask() {
#pragma unroll
        for (int w = 0; w < M; ++w) even[w] = odd[w] = ~0u;
    }

    // Element e of accumulator (i, j): row half e / 2, column e % 2.
    __device__ __forceinline__ bool keeps(int i, int j, int e) const {
        return ((j % 2 ? odd[i] : even[i]) >> (e / 2 * 16 + j / 2 * 4 + e % 2)) & 1;
    }
};

// acc += Σ over parts of scale·u·Bᵀ (forward) or of drop'(v·A) (backward), 16 of the rank at a time. Uses one step's
// memory at `memory`, waits for all copies in flight.
template <class T, bool BACKWARD>
__device__ __forceinline__ void low_rank(Accumulators<T::M>& acc, const T& t, const Linear& p,
                                         const Reader<T, BACKWARD>& reader, uint32_t memory) {
#pragma unroll 1
    for (int i = 0; i < p.parts; ++i) {
        const int start = select(p.part, i, &Part::start), end = select(p.part, i, &Part::end);
        const int rank = select(p.part, i, &Part::rank);
        if (!BACKWARD && (end <= t.column0 || start >= t.column0 + T::BN)) continue;
        const bf16* narrow = select(p.part, i, &Part::left);
        const bf16* wide = select(p.part, i, &Part::right);
        const bool masked = BACKWARD && p.drop.threshold > 0;
        const Mask<T::M> mask = masked ? Mask<T::M>(t, p, select(p.part, i, &Part::module)) : Mask<T::M>();
        const float factor = BACKWARD ? p.drop.scale : select(p.part, i, &Part::scale);
#pragma unroll 1
        for (int at = 0; at < rank; at += STEP) {
            __syncthreads();
            copy_rows<T::BM, T::THREADS>(memory, narrow + size_t(t.row0) * rank + at, rank, 0, p.rows - t.row0, rank - at);
            if constexpr (BACKWARD) {
                copy_depth<T::BN, T::THREADS>(memory + T::LEFT, wide + size_t(at) * p.columns + t.column0, p.columns,
                                              rank - at, p.columns - t.column0);
            } else {
                copy_rows<T::BN, T::THREADS>(memory + T::LEFT, wide + ptrdiff_t(t.column0 - start) * rank + at, rank,
                                             start - t.column0, end - t.column0, rank - at);
            }
            copies_commit();
            copies_wait<0>();
            __syncthreads();
#pragma unroll 1
            for (int half = 0; half < 2 && at + half * 16 < rank; ++half) {
                uint32_t right[4][4];
                reader.load_right(right, memory + T::LEFT, half);
#pragma unroll
                for (int r = 0; r < T::M; ++r) {
                    uint32_t left[4];
                    reader.load_left(left, memory, half, r);
#pragma unroll
                    for (int c = 0; c < 8; ++c) {
                        float product[4] = {};
                        multiply(product, left, right[c / 2][c % 2 * 2], right[c / 2][c % 2 * 2 + 1]);
#pragma unroll
                        for (int e = 0; e < 4; ++e) {
                            const float x = product[e] * factor;
                            acc[r][c][e] += !BACKWARD || mask.keeps(r, c, e) ? x : 0.0f;
                        }
                    }
                }
            }
        }
    }
}

// Rounds (acc + add) once and writes it, each warp through shared memory of its own, 128 bytes a row: 16-byte accesses to
// global memory. All copies have arrived and all warps have read their operands.
template <class T>
__device__ __forceinline__ void store(const Accumulators<T::M>& acc, const T& t, const Linear& p, uint32_t memory) {
    const int lane = lane_id();
    memory += threadIdx.x / WARP * (T::WM * 128);
    const int row0 = t.row0 + t.warp_row, column0 = t.column0 + t.warp_column;
    // For global accesses: eight lanes a row of 64 elements, four rows at a time.
    const int row = lane / 8, chunk = lane % 8;
    const bool wide = column0 + chunk * 8 < p.columns;
    const size_t at = size_t(row0 + row) * p.columns + column0 + chunk * 8;
    auto place = [](int row, int chunk) { return uint32_t(row * 128 + ((chunk ^ (row & 7)) << 4)); };
    if (p.add != nullptr) {
#pragma unroll
        for (int i = 0; i < T::WM; i += 4) {
            copy16(memory + place(row + i, chunk), p.add + at + size_t(i) * p.columns, wide && row0 + row + i < p.rows);
        }
        copies_commit();
        copies_wait<0>();
        __syncwarp();
    }
#pragma unroll
    for (int i = 0; i < T::M; ++i)
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const uint32_t word = memory + place(i * 16 + h * 8 + lane / 4, j) + lane % 4 * 4;
                float lo = acc[i][j][2 * h], hi = acc[i][j][2 * h + 1];
                if (p.add != nullptr) {
                    const uint32_t pair = load_shared(word);
                    lo += low(pair);
                    hi += high(pair);
                }
                store_shared(word, pack(lo, hi));
            }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < T::WM; i += 4) {
        if (wide && row0 + row + i < p.rows) {
            store8(p.out + at + size_t(i) * p.columns, load_shared16(memory + place(row + i, chunk)));
        }
    }
}
