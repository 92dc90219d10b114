//! Element types and scratch of the CUDA backend, known without a device.

use crate::backend::{DType, ScratchShape, Sizes};

/// Sizes of the CUDA backend: activations in bf16; scratch for one dequantised weight matrix and for the partial sums of
/// the reductions that are split over blocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct CudaSizes;

/// Rows of a block that makes one partial sum of dA and dB.
const SPLIT_ROWS: usize = 256;

impl Sizes for CudaSizes {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn activation(&self) -> DType {
        DType::Bf16
    }

    fn scratch_bytes(&self, s: &ScratchShape) -> usize {
        // Path one of the linear product: the whole matrix in bf16.
        let weight = s.largest_weight.0 * s.largest_weight.1 * DType::Bf16.size();
        if !s.training {
            return weight;
        }
        // D = rowsum(do∘o) of the attention backward pass, f32 [T, Hq].
        let delta = s.rows * s.heads.q * DType::F32.size();
        // Partial dA and dB of one fused linear, f32, one for each block of rows.
        let partials = s.rows.div_ceil(SPLIT_ROWS) * s.rank * s.widest * DType::F32.size();
        // Partial sums of squares of the gradient norm, f32, one for each 1024 parameters.
        let norm = s.adapter.div_ceil(1024) * DType::F32.size();
        weight.max(delta).max(partials).max(norm)
    }
}
