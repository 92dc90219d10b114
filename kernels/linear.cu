// Dense linear layer with low-rank adapters, forward and backward, and the head.
//
//   forward   y  = z·Wᵀ + Σ scale·u·Bᵀ (+ add)      W [n, k]: columns = n, depth = k
//   backward  dz = dy·W + Σ drop'(v·A)              W [n, k]: columns = k, depth = n
//
// A block makes 256×128, 128×128 or 64×128 of the output, a warp 64×64 of it (32×64 of the smallest, so that a block on
// its own keeps four tensor cores busy), in steps of 32 of the depth. The low-rank products
// come first, 16 of the rank at a time: each is scaled, or masked, in f32 and put under the main loop's sums, so it costs no
// pass over memory and no rounding. A part's columns may begin and end anywhere in a tile. Every output is one chain of mma
// in a fixed order, rounded once: tile shape, grid order and schedule change no bit.
//
// Edges: rows are any number; columns, depth and ranks are multiples of 8. What lies outside is copied as zeros (cp.async
// with a source size of 0) and not stored.
//
// Pipeline: four stages of both operands by cp.async, three steps ahead; one barrier a step. Fragments are read one mma
// step ahead, across the barrier too, so that the tensor cores run on while the next operands come out of shared memory.
//
// Traffic of a block: (BM + BN)·depth·2 B of operands, each byte once; BM·BN·2 B out, and as much in with `add`. Blocks run
// in columns of `group` row tiles, so that what is resident at one time covers about a square of the output and shares its
// operands in L2: 32 B (128×128) or 24 B (256×128) a cycle and multiprocessor when the tensor cores are saturated.
//
// Shared memory: layouts "rows" and "depth" of linear.cuh, no bank conflict anywhere. A step of 256×128 needs 512
// wavefronts of ldmatrix and 192 of cp.async in 1024 cycles of mma; one of 128×128 needs 256 and 128 in 512.
//
// Instructions, wavefronts and cycles of every tile, counted on the virtual machine: docs/kernel-costs.md. The tensor cores
// are the bound.
#include "linear.cuh"

template <int BM, int BN, int WM, int STAGES, bool BACKWARD>
__device__ __forceinline__ void linear(const Linear& p) {
    using T = Tile<BM, BN, WM>;
    constexpr int STAGE = T::LEFT + T::RIGHT;
    extern __shared__ __align__(128) unsigned char shared[];
    const uint32_t memory = shared_address(shared);
    const T t(p);
    const Reader<T, BACKWARD> reader(t);
    const bf16* const w = static_cast<const bf16*>(p.w);
    const int steps = (p.depth + STEP - 1) / STEP;

    auto fetch = [&](int step) {
        if (step < steps) {
            const uint32_t stage = memory + step % STAGES * STAGE;
            const int at = step * STEP;
            copy_rows<BM, T::THREADS>(stage, p.x + size_t(t.row0) * p.depth + at, p.depth, 0, p.rows - t.row0,
                                      p.depth - at);
            if constexpr (BACKWARD) {
                copy_depth<BN, T::THREADS>(stage + T::LEFT, w + size_t(at) * p.columns + t.column0, p.columns,
                                           p.depth - at, p.columns - t.column0);
            } else {
                copy_rows<BN, T::THREADS>(stage + T::LEFT, w + size_t(t.column0) * p.depth + at, p.depth, 0,
                                          p.columns - t.column0, p.depth - at);
            }
        }
        copies_commit();
    };
#pragma unroll
    for (int s = 0; s < STAGES - 1; ++s) fetch(s);

    Accumulators<T::M> acc = {};
    low_rank<T, BACKWARD>(acc, t, p, reader, memory + (STAGES - 1) * STAGE);

    copies_wait<STAGES - 2>();
    __syncthreads();
    Fragments<T::M> f[2];
    reader.load(f[0], memory, memory + T::LEFT, 0);
#pragma unroll 1
    for (int s = 0; s < steps; ++s) {
        const uint32_t stage = memory + s % STAGES * STAGE;
        reader.load(f[1], stage, stage + T::LEFT, 1);
        // Into the stage that all warps have left at the last barrier.
        fetch(s + STAGES - 1);
        multiply(acc, f[0]);
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (s + 1 < steps) {
            const uint32_t next = memory + (s + 1) % STAGES * STAGE;
            reader.load(f[0], next, next + T::LEFT, 0);
        }
        multiply(acc, f[1]);
    }
    copies_wait<0>();
    store(acc, t, p, memory);
}

#define LINEAR(name, bm, bn, wm, stages, backward, blocks)                                                             \
    extern "C" __global__ void __launch_bounds__((bm) / (wm) * (bn) / 2, blocks) name(const __grid_constant__ Linear p) { \
        linear<bm, bn, wm, stages, backward>(p);                                                                       \
    }

LINEAR(linear_64x128, 64, 128, 32, 4, false, 3)
LINEAR(linear_128x128, 128, 128, 64, 4, false, 2)
LINEAR(linear_256x128, 256, 128, 64, 4, false, 1)
LINEAR(linear_backward_64x128, 64, 128, 32, 4, true, 3)
LINEAR(linear_backward_128x128, 128, 128, 64, 4, true, 2)
LINEAR(linear_backward_256x128, 256, 128, 64, 4, true, 1)
