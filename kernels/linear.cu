// Dense linear layer with low-rank adapters, forward and backward.
//
//   forward   y  = z·Wᵀ + Σ scale·u·Bᵀ (+ add)      W [n, k]: columns = n, depth = k
//   backward  dz = dy·W + Σ drop'(v·A)              W [n, k]: columns = k, depth = n
//
#include "linear.cuh"

template <int BM, int BN, int STAGES, bool BACKWARD>
__device__ __forceinline__ void linear(const Linear& p) {
    using T = Tile<BM, BN>;
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

    Accumulators acc = {};
    low_rank<T, BACKWARD>(acc, t, p, reader, memory + (STAGES - 1) * STAGE);

    copies_wait<STAGES - 2>();
    __syncthreads();
    Fragments f[2];
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

#define LINEAR(name, bm, bn, stages, backward, blocks)                                                                \
    extern "C" __global__ void __launch_bounds__((bm) * (bn) / 128, blocks) name(const __grid_constant__ Linear p) { \
        linear<bm, bn, stages, backward>(p);                                                                           \
    }

LINEAR(linear_128x128, 128, 128, 4, false, 2)
LINEAR(linear_256x128, 256, 128, 4, false, 1)
LINEAR(linear_backward_128x128, 128, 128, 4, true, 2)
LINEAR(linear_backward_256x128, 256, 128, 4, true, 1)
