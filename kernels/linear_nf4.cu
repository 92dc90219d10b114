// Linear layer from packed NF4 weights, with low-rank adapters, forward and backward: linear.cu without its W in bf16.
//
//   forward   y  = z·Wᵀ + Σ scale·u·Bᵀ (+ add)      packed W [n, k/2]: columns = n, depth = k
//   backward  dz = dy·W + Σ drop'(v·A)              packed W [n, k/2]: columns = k, depth = n
//
// The weights of a step are decoded once per block into bf16 in shared memory, f32 code × f32 absmax rounded once, while the
// tensor cores work on the step before; from there on everything is linear.cu's: same steps, same order, same bits.
//
// Decoding. The codebook lies in the registers of a warp, lane l holds code l % 16, and shfl fetches by nibble: a lookup
// that knows no bank conflicts. A weight costs a shift, a shfl, a multiplication and half a conversion: 56 instructions a
// thread and step for a 256×128 tile, beside 64 mma.
//
// Pipeline, in step s: packed weights and absmax of step s + 2 have been asked for, those of s + 1 have arrived and are
// decoded into buffer (s + 1) % 2, step s is multiplied out of buffer s % 2; one barrier. x is fetched STAGES − 1 steps
// ahead, packed weights one more, since they are decoded a step before they are used.
//
// Packed weights in shared memory:
// - forward: units of 64 of the inner dimension (two steps: whole sectors of 32 bytes), a row's two 16-byte chunks swapped
//   where row / 4 is odd; a thread reads 8 bytes, 16 weights. absmax in units of 512 (8 blocks, a sector): [block][row],
//   rows of BN + 4 floats, so that the 4-byte copies of 4 rows × 8 blocks fall into 32 banks.
// - backward: a step's 32 rows × 64 bytes as two halves of 32 bytes a row, the second half 64 bytes further; a thread reads
//   4 bytes of each half, 8 weights of two blocks. absmax [row][2].
//
// Counted: docs/kernel-costs.md. Decoding costs the same for 64 rows as for 256, hence the large tile; with 128 rows and
// fewer shared memory is the bound. Traffic of a block: x once, 4.5 bits a weight (backward: a sector of absmax a row for
// 8 bytes of it; neighbouring column tiles find it in L2).
#include "linear.cuh"
#include "nf4.cuh"

template <class T, bool BACKWARD>
struct Packed {
    static constexpr int BN = T::BN;
    static_assert(BN == 128, "the layouts of packed weights are for 128 columns");
    // Bytes of a unit, units in the ring.
    static constexpr int UNIT = BACKWARD ? 2 * 32 * 32 + 64 : BN * 32, UNITS = BACKWARD ? 3 : 2;
    static constexpr int MAX_UNIT = BACKWARD ? 32 * 8 : 8 * (BN + 4) * 4, MAX_UNITS = BACKWARD ? 3 : 2;
    static constexpr int BYTES = UNITS * UNIT + MAX_UNITS * MAX_UNIT;
};

// What becomes available with step `step` (and has been asked for STAGES − 1 steps before): weights of the step after it.
template <class T, bool BACKWARD>
__device__ __forceinline__ void fetch_packed(uint32_t memory, const T& t, const Linear& p, int step) {
    using P = Packed<T, BACKWARD>;
    constexpr int THREADS = T::THREADS, BN = T::BN;
    const auto* const w = static_cast<const uint8_t*>(p.w);
    const uint32_t scales = memory + P::UNITS * P::UNIT;
    if constexpr (BACKWARD) {
        // A step's 32 rows of 64 bytes, and of each row the absmax of its two blocks.
        const uint32_t unit = memory + step % P::UNITS * P::UNIT, scale = scales + step % P::UNITS * P::MAX_UNIT;
        const int pitch = p.columns / 2, blocks = p.columns / 64;
        for (int i = threadIdx.x; i < 32 * 4; i += THREADS) {
            const int row = i / 4, chunk = i % 4, depth = step * STEP + row;
            const bool inside = depth < p.depth && t.column0 + chunk * 32 < p.columns;
            copy16(unit + chunk / 2 * (32 * 32 + 64) + row * 32 + chunk % 2 * 16,
                   w + size_t(depth) * pitch + t.column0 / 2 + chunk * 16, inside);
        }
        if (threadIdx.x < 64) {
            const int row = threadIdx.x / 2, block = threadIdx.x % 2, depth = step * STEP + row;
            const bool inside = depth < p.depth && t.column0 + block * 64 < p.columns;
            copy4(scale + row * 8 + block * 4, p.absmax + size_t(depth) * blocks + t.column0 / 64 + block, inside);
        }
    } else {
        const int blocks = p.depth / 64;
        // Every second step the 32 bytes of each of 128 rows that two steps need.
        if (step % 2 == 0) {
            const uint32_t unit = memory + step / 2 % P::UNITS * P::UNIT;
#pragma unroll
            for (int i = 0; i < BN * 2; i += THREADS) {
                const int row = (i + threadIdx.x) / 2, chunk = threadIdx.x % 2;
                copy16(unit + row * 32 + ((chunk ^ (row / 4 % 2)) << 4),
                       w + size_t(t.column0 + row) * (p.depth / 2) + step * 16 + chunk * 16, t.column0 + row < p.columns);
            }
        }
        // Every 16 steps the absmax of eight blocks of each row.
        if (step % 16 == 0) {
            const uint32_t unit = scales + step / 16 % 2 * P::MAX_UNIT;
#pragma unroll 1
            for (int i = 0; i < BN * 8; i += THREADS) {
                const int row = (i + threadIdx.x) / 8, block = threadIdx.x % 8;
                copy4(unit + (block * (BN + 4) + row) * 4, p.absmax + size_t(t.column0 + row) * blocks + step / 2 + block,
                      t.column0 + row < p.columns && step / 2 + block < blocks);
            }
        }
    }
}

// Decodes the weights of `step` into `to`, layout "rows" (forward) or "depth" (backward).
template <class T, bool BACKWARD>
__device__ __forceinline__ void decode(uint32_t to, uint32_t memory, float code, int step) {
    using P = Packed<T, BACKWARD>;
    constexpr int THREADS = T::THREADS, BN = T::BN;
    const uint32_t scales = memory + P::UNITS * P::UNIT;
    if constexpr (BACKWARD) {
        // Eight threads a row: each 8 weights of the first block and 8 of the second.
        const uint32_t unit = memory + step % P::UNITS * P::UNIT, scale = scales + step % P::UNITS * P::MAX_UNIT;
#pragma unroll
        for (int i = 0; i < STEP * 8; i += THREADS) {
            const int row = (i + threadIdx.x) / 8, chunk = threadIdx.x % 8;
            const uint2 absmax = load_shared8(scale + row * 8);
            const uint32_t at = unit + row * 32 + chunk * 4;
            store_shared16(to + in_depth<BN>(row, chunk), nf4_decode(load_shared(at), code, __uint_as_float(absmax.x)));
            store_shared16(to + in_depth<BN>(row, chunk + 8),
                           nf4_decode(load_shared(at + 32 * 32 + 64), code, __uint_as_float(absmax.y)));
        }
    } else {
        // Two threads a row: each 16 of its 32 weights, which are of one block.
        const uint32_t unit = memory + step / 2 % P::UNITS * P::UNIT;
        const uint32_t scale = scales + step / 16 % 2 * P::MAX_UNIT + step / 2 % 8 * ((BN + 4) * 4);
#pragma unroll 1
        for (int i = 0; i < BN * 2; i += THREADS) {
            const int row = (i + threadIdx.x) / 2, half = threadIdx.x % 2;
            const float absmax = __uint_as_float(load_shared(scale + row * 4));
            const uint2 words = load_shared8(unit + row * 32 + (((step % 2) ^ (row / 4 % 2)) << 4) + half * 8);
            store_shared16(to + in_rows(row, 2 * half), nf4_decode(words.x, code, absmax));
            store_shared16(to + in_rows(row, 2 * half + 1), nf4_decode(words.y, code, absmax));
        }
    }
}

template <int BM, int BN, int WM, int STAGES, bool BACKWARD>
__device__ __forceinline__ void linear_nf4(const Linear& p) {
    using T = Tile<BM, BN, WM>;
    static_assert(STAGES == 3, "the rings of packed weights hold what is in flight then");
    extern __shared__ __align__(128) unsigned char shared[];
    // Shared memory, x: STAGES tiles; decoded W: 2; packed W and absmax.
    const uint32_t memory = shared_address(shared);
    const uint32_t decoded = memory + STAGES * T::LEFT, packed = decoded + 2 * T::RIGHT;
    const T t(p);
    const Reader<T, BACKWARD> reader(t);
    const float code = nf4_code(lane_id() % 16);
    const int steps = (p.depth + STEP - 1) / STEP;

    // One group of copies: x of this step, packed W of the next.
    auto fetch = [&](int step) {
        if (step < steps) {
            const int at = step * STEP;
            copy_rows<BM, T::THREADS>(memory + step % STAGES * T::LEFT, p.x + size_t(t.row0) * p.depth + at, p.depth, 0,
                                      p.rows - t.row0, p.depth - at);
        }
        if (step + 1 < steps) fetch_packed<T, BACKWARD>(packed, t, p, step + 1);
        copies_commit();
    };
    fetch_packed<T, BACKWARD>(packed, t, p, 0);
    fetch(0);

    // The low-rank steps come first in the sum. They borrow what is not in flight yet.
    Accumulators<T::M> acc = {};
    static_assert(STAGES * T::LEFT + 2 * T::RIGHT >= 2 * T::LEFT + T::RIGHT, "room beside x of step 0");
    low_rank<T, BACKWARD>(acc, t, p, reader, memory + T::LEFT);
    __syncthreads();
    // Fill the pipeline, and decode the first step.
#pragma unroll
    for (int s = 1; s < STAGES - 1; ++s) fetch(s);

    copies_wait<STAGES - 2>();
    __syncthreads();
    decode<T, BACKWARD>(decoded, packed, code, 0);
    __syncthreads();
    // A lone block reads its next operands under its own products; two of 128 rows on a multiprocessor hide each other's
    // reads, and the registers are needed to decode twice as much a thread.
    constexpr bool AHEAD = BM != 128;
    Fragments<T::M> f[AHEAD ? 2 : 1];
    if constexpr (AHEAD) reader.load(f[0], memory, decoded, 0);
    // Main loop: ask for step s + 2, decode s + 1, multiply s.
#pragma unroll 1
    for (int s = 0; s < steps; ++s) {
        const uint32_t left = memory + s % STAGES * T::LEFT, right = decoded + s % 2 * T::RIGHT;
        fetch(s + STAGES - 1);
        if (s + 1 < steps) decode<T, BACKWARD>(decoded + (s + 1) % 2 * T::RIGHT, packed, code, s + 1);
        if constexpr (AHEAD) {
            reader.load(f[1], left, right, 1);
            multiply(acc, f[0]);
        } else {
            reader.load(f[0], left, right, 0);
            multiply(acc, f[0]);
            reader.load(f[0], left, right, 1);
            multiply(acc, f[0]);
        }
        copies_wait<STAGES - 2>();
        __syncthreads();
        if constexpr (AHEAD) {
            if (s + 1 < steps) {
                reader.load(f[0], memory + (s + 1) % STAGES * T::LEFT, decoded + (s + 1) % 2 * T::RIGHT, 0);
            }
            multiply(acc, f[1]);
        }
    }
    // All of shared memory is free for the output.
    copies_wait<0>();
    __syncthreads();
    store(acc, t, p, memory);
}

#define LINEAR_NF4(name, bm, bn, wm, stages, backward, blocks)                                                         \
    extern "C" __global__ void __launch_bounds__((bm) / (wm) * (bn) / 2, blocks) name(const __grid_constant__ Linear p) { \
        linear_nf4<bm, bn, wm, stages, backward>(p);                                                                   \
    }

LINEAR_NF4(linear_nf4_64x128, 64, 128, 32, 3, false, 3)
LINEAR_NF4(linear_nf4_128x128, 128, 128, 64, 3, false, 2)
LINEAR_NF4(linear_nf4_256x128, 256, 128, 64, 3, false, 1)
LINEAR_NF4(linear_nf4_backward_64x128, 64, 128, 32, 3, true, 3)
LINEAR_NF4(linear_nf4_backward_128x128, 128, 128, 64, 3, true, 2)
LINEAR_NF4(linear_nf4_backward_256x128, 256, 128, 64, 3, true, 1)
