// C = A * B^T for bf16 A [m, k] and B [n, k], f32 C [m, n], row-major; any m and n, k a multiple of 8.
//
// Block tile 128 x 128 x 64, four warps of 64 x 64. Two stages by cp.async; rows of a stage are 128 bytes, eight chunks
// of 16, chunk c of row r lies at c ^ (r & 7): every cp.async write and every ldmatrix row group touches all banks once.
#include <cuda_bf16.h>
#include <stdint.h>

static constexpr int BM = 128, BN = 128, BK = 64, STAGES = 2;

__device__ __forceinline__ uint32_t chunk_at(int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

__device__ __forceinline__ void copy16(uint32_t to, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0));
}

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from));
}

__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

extern "C" __global__ void __launch_bounds__(128) gemm(const __nv_bfloat16* __restrict__ a, const __nv_bfloat16* __restrict__ b,
                                                       float* __restrict__ c, int m, int n, int k) {
    extern __shared__ __align__(128) char tiles[];
    const uint32_t base = (uint32_t)__cvta_generic_to_shared(tiles);
    const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
    const int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
    const int wm = (warp >> 1) * 64, wn = (warp & 1) * 64;
    constexpr int BYTES = (BM + BN) * 128;

    auto fill = [&](int stage, int k0) {
        const uint32_t at = base + stage * BYTES;
        const int chunk = tid & 7;
        const bool in_k = k0 + chunk * 8 < k;
#pragma unroll
        for (int i = 0; i < BM / 16; ++i) {
            const int row = (tid >> 3) + 16 * i;
            const bool in = in_k && m0 + row < m;
            copy16(at + chunk_at(row, chunk), in ? a + (size_t)(m0 + row) * k + k0 + chunk * 8 : a, in);
        }
#pragma unroll
        for (int i = 0; i < BN / 16; ++i) {
            const int row = (tid >> 3) + 16 * i;
            const bool in = in_k && n0 + row < n;
            copy16(at + BM * 128 + chunk_at(row, chunk), in ? b + (size_t)(n0 + row) * k + k0 + chunk * 8 : b, in);
        }
        asm volatile("cp.async.commit_group;");
    };

    float acc[4][8][4] = {};
    const int steps = (k + BK - 1) / BK;
    fill(0, 0);
    for (int s = 0; s < steps; ++s) {
        if (s + 1 < steps) {
            fill((s + 1) % STAGES, (s + 1) * BK);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
        const uint32_t at = base + (s % STAGES) * BYTES;
#pragma unroll
        for (int kk = 0; kk < BK / 16; ++kk) {
            uint32_t fa[4][4], fb[4][4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                load_matrices(fa[i], at + chunk_at(wm + 16 * i + (lane & 15), 2 * kk + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < 4; ++j)
                load_matrices(fb[j], at + BM * 128 + chunk_at(wn + 16 * j + (lane & 7) + ((lane >> 4) << 3), 2 * kk + ((lane >> 3) & 1)));
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) multiply(acc[i][j], fa[i], fb[j >> 1][2 * (j & 1)], fb[j >> 1][2 * (j & 1) + 1]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int row = m0 + wm + 16 * i + 8 * h + (lane >> 2), col = n0 + wn + 8 * j + 2 * (lane & 3);
                if (row < m) {
                    if (col < n) c[(size_t)row * n + col] = acc[i][j][2 * h];
                    if (col + 1 < n) c[(size_t)row * n + col + 1] = acc[i][j][2 * h + 1];
                }
            }
}
