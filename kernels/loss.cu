// Softmax over rows of logits: cross-entropy with its gradient in place, log-probabilities of chosen columns, argmax.
//
// One block of 1024 threads a row. Maximum and sum are found in one pass (each thread keeps a running maximum and rescales
// its sum when it grows), so a row of 151,936 bf16, which no shared memory holds, is read once for the statistics; the
// gradient reads and writes it once more. Traffic: cross-entropy 3·R·V·2 B, the others R·V·2 B. The order of every sum
// is fixed.
#include "common.cuh"

constexpr int THREADS = 1024;

struct Softmax {
    float most, sum;
};

__device__ __forceinline__ Softmax join(Softmax a, Softmax b) {
    const float most = fmaxf(a.most, b.most);
    // Nothing seen yet is (-inf, 0); the guard keeps inf − inf out.
    const float sum = (a.sum == 0.0f ? 0.0f : a.sum * __expf(a.most - most)) +
                      (b.sum == 0.0f ? 0.0f : b.sum * __expf(b.most - most));
    return {most, sum};
}

// Statistics of a row, the same bits in every thread.
__device__ __forceinline__ Softmax row_softmax(const bf16* __restrict__ row, int vocab) {
    __shared__ Softmax shared[THREADS / WARP];
    Softmax s = {-INFINITY, 0.0f};
    for (int c = threadIdx.x * 8; c < vocab; c += THREADS * 8) {
        float x[8];
        unpack(load8(row + c), x);
        float most = s.most;
#pragma unroll
        for (int j = 0; j < 8; ++j) most = fmaxf(most, x[j]);
        float sum = s.sum == 0.0f ? 0.0f : s.sum * __expf(s.most - most);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum += __expf(x[j] - most);
        s = {most, sum};
    }
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) {
        s = join(s, {__shfl_xor_sync(ALL_LANES, s.most, d), __shfl_xor_sync(ALL_LANES, s.sum, d)});
    }
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = s;
    __syncthreads();
    Softmax total = shared[0];
    for (int w = 1; w < THREADS / WARP; ++w) total = join(total, shared[w]);
    return total;
}

// nll[row] = −log softmax(logits)[target]; logits becomes (softmax − onehot)·scale. `vocab` is a multiple of 8.
extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy(bf16* logits, int vocab,
                                                                    const uint32_t* __restrict__ targets, float scale,
                                                                    float* __restrict__ nll) {
    bf16* row = logits + size_t(blockIdx.x) * vocab;
    const int target = targets[blockIdx.x];
    const float at_target = __bfloat162float(row[target]);
    const Softmax s = row_softmax(row, vocab);
    if (threadIdx.x == 0) nll[blockIdx.x] = logf(s.sum) + (s.most - at_target);
    __syncthreads();
    const float inverse = 1.0f / s.sum;
    for (int c = threadIdx.x * 8; c < vocab; c += THREADS * 8) {
        float x[8];
        unpack(load8(row + c), x);
#pragma unroll
        for (int j = 0; j < 8; ++j) x[j] = (__expf(x[j] - s.most) * inverse - (c + j == target ? 1.0f : 0.0f)) * scale;
        store8(row + c, pack(x));
    }
}

// loss[0] += Σ nll, in one block and a fixed order.
extern "C" __global__ void __launch_bounds__(THREADS) add_loss(const float* __restrict__ nll, int rows, float* loss) {
    __shared__ float shared[THREADS / WARP];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < rows; i += THREADS) sum += nll[i];
    sum = block_sum<THREADS>(sum, shared);
    if (threadIdx.x == 0) loss[0] += sum;
}

// out[row][i] = log softmax(logits)[ids[row][i]], i < c.
extern "C" __global__ void __launch_bounds__(THREADS) log_softmax_at(const bf16* __restrict__ logits, int vocab,
                                                                     const uint32_t* __restrict__ ids, int c,
                                                                     float* __restrict__ out) {
    const bf16* row = logits + size_t(blockIdx.x) * vocab;
    const Softmax s = row_softmax(row, vocab);
    for (int i = threadIdx.x; i < c; i += THREADS) {
        const size_t at = size_t(blockIdx.x) * c + i;
        out[at] = (__bfloat162float(row[ids[at]]) - s.most) - logf(s.sum);
    }
}

// Column of the largest logit, the lowest of equals.
extern "C" __global__ void __launch_bounds__(THREADS) argmax(const bf16* __restrict__ logits, int vocab,
                                                             uint32_t* __restrict__ out) {
    __shared__ float values[THREADS / WARP];
    __shared__ int columns[THREADS / WARP];
    const bf16* row = logits + size_t(blockIdx.x) * vocab;
    float best = -INFINITY;
    int column = vocab;
    auto take = [&](float x, int c) {
        if (x > best || (x == best && c < column)) best = x, column = c;
    };
    for (int c = threadIdx.x * 8; c < vocab; c += THREADS * 8) {
        float x[8];
        unpack(load8(row + c), x);
#pragma unroll
        for (int j = 0; j < 8; ++j) take(x[j], c + j);
    }
#pragma unroll
    for (int d = WARP / 2; d > 0; d /= 2) {
        const float x = __shfl_xor_sync(ALL_LANES, best, d);
        const int c = __shfl_xor_sync(ALL_LANES, column, d);
        take(x, c);
    }
    if (threadIdx.x % WARP == 0) values[threadIdx.x / WARP] = best, columns[threadIdx.x / WARP] = column;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < THREADS / WARP; ++w) take(values[w], columns[w]);
        out[blockIdx.x] = column < vocab ? column : 0;
    }
}
