// Linear layer for few rows (T ≤ 8, decoding), dense or from packed NF4 weights: bound by reading W once.
//
//   y = z·Wᵀ + Σ scale·u·Bᵀ (+ add)
//
// A block makes 16 columns with eight warps that share the inner dimension. On the tensor core W is the left operand
// (16 rows) and z the right one (8 columns, those beyond T zero). Fragments come straight from global memory, 16 bytes a
// lane: lane c of four takes consecutive inner elements, the same of both operands, so each warp reads whole sectors of W.
// Packed: 64 bytes of each of 16 rows a turn, 32 weights a lane and row, decoded as nf4.cuh says and rounded to bf16 as
// dequantising does; the sum runs in another order than linear.cu's.
// The warps' sums are added in their order; the low-rank term is 16 to 256 products an output in f32 on top.
// Traffic: W and absmax once, z once a block (from L2). No bank conflicts: sums lie [warp][column][row], read as they lie.
#include "linear.cuh"
#include "nf4.cuh"

constexpr int COLUMNS = 16, THREADS = 256, GEMV_WARPS = THREADS / WARP, MAX_ROWS = 8;

// acc += one 16×32 piece of W times z, both with permuted inner indices.
__device__ __forceinline__ void piece(float (&acc)[4], const Bf16x8& upper, const Bf16x8& lower, const Bf16x8& z) {
#pragma unroll
    for (int s = 0; s < 4; s += 2) {
        const uint32_t a[4] = {upper.pair[s], lower.pair[s], upper.pair[s + 1], lower.pair[s + 1]};
        multiply(acc, a, z.pair[s], z.pair[s + 1]);
    }
}

__device__ __forceinline__ void finish(const float (&acc)[4], const Linear& p) {
    __shared__ float2 sums[GEMV_WARPS * COLUMNS * MAX_ROWS / 2];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        sums[warp * (COLUMNS * MAX_ROWS / 2) + h * 32 + lane] = make_float2(acc[2 * h], acc[2 * h + 1]);
    }
    __syncthreads();
    const int column = blockIdx.x * COLUMNS + threadIdx.x / MAX_ROWS, row = threadIdx.x % MAX_ROWS;
    if (threadIdx.x >= COLUMNS * MAX_ROWS || row >= p.rows || column >= p.columns) return;
    float y = 0.0f;
#pragma unroll
    for (int w = 0; w < GEMV_WARPS; ++w) {
        y += reinterpret_cast<const float*>(sums)[w * (COLUMNS * MAX_ROWS) + threadIdx.x];
    }
#pragma unroll
    for (int i = 0; i < PARTS; ++i) {
        const Part& part = p.part[i];
        if (i >= p.parts || column < part.start || column >= part.end) continue;
        float sum = 0.0f;
        for (int r = 0; r < part.rank; r += 8) {
            float u[8], b[8];
            unpack(load8(part.left + size_t(row) * part.rank + r), u);
            unpack(load8(part.right + size_t(column - part.start) * part.rank + r), b);
#pragma unroll
            for (int j = 0; j < 8; ++j) sum += u[j] * b[j];
        }
        y += part.scale * sum;
    }
    const size_t at = size_t(row) * p.columns + column;
    if (p.add != nullptr) y += __bfloat162float(p.add[at]);
    p.out[at] = __float2bfloat16_rn(y);
}

extern "C" __global__ void __launch_bounds__(THREADS) gemv(const __grid_constant__ Linear p) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    const int column = blockIdx.x * COLUMNS + g;
    const bf16* const w = static_cast<const bf16*>(p.w) + size_t(column) * p.depth;
    const bool upper = column < p.columns, lower = column + 8 < p.columns;
    float acc[4] = {};
#pragma unroll 2
    for (int k0 = warp * 64; k0 < p.depth; k0 += GEMV_WARPS * 64) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int k = k0 + half * 32 + c * 8;
            const bool deep = k < p.depth;
            Bf16x8 a{}, b{}, z{};
            if (deep && upper) a = load8(w + k);
            if (deep && lower) b = load8(w + size_t(8) * p.depth + k);
            if (deep && g < p.rows) z = load8(p.x + size_t(g) * p.depth + k);
            piece(acc, a, b, z);
        }
    }
    finish(acc, p);
}

extern "C" __global__ void __launch_bounds__(THREADS) gemv_nf4(const __grid_constant__ Linear p) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    const int column = blockIdx.x * COLUMNS + g;
    const uint8_t* const w = static_cast<const uint8_t*>(p.w) + size_t(column) * (p.depth / 2);
    const float* const absmax = p.absmax + size_t(column) * (p.depth / 64);
    const bool upper = column < p.columns, lower = column + 8 < p.columns;
    const float code = nf4_code(lane % 16);
    float acc[4] = {};
#pragma unroll 1
    for (int k0 = warp * 128; k0 < p.depth; k0 += GEMV_WARPS * 128) {
        const int k = k0 + c * 32;
        const bool deep = k < p.depth;
        uint4 a{}, b{};
        float scale_a = 0.0f, scale_b = 0.0f;
        Bf16x8 z[4] = {};
        if (deep && upper) {
            a = *reinterpret_cast<const uint4*>(w + k / 2);
            scale_a = absmax[k / 64];
        }
        if (deep && lower) {
            b = *reinterpret_cast<const uint4*>(w + size_t(8) * (p.depth / 2) + k / 2);
            scale_b = absmax[8 * (p.depth / 64) + k / 64];
        }
        if (deep && g < p.rows) {
#pragma unroll
            for (int i = 0; i < 4; ++i) z[i] = load8(p.x + size_t(g) * p.depth + k + i * 8);
        }
        piece(acc, nf4_decode(a.x, code, scale_a), nf4_decode(b.x, code, scale_b), z[0]);
        piece(acc, nf4_decode(a.y, code, scale_a), nf4_decode(b.y, code, scale_b), z[1]);
        piece(acc, nf4_decode(a.z, code, scale_a), nf4_decode(b.z, code, scale_b), z[2]);
        piece(acc, nf4_decode(a.w, code, scale_a), nf4_decode(b.w, code, scale_b), z[3]);
    }
    finish(acc, p);
}
