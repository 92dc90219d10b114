//! Element types and scratch of the CUDA backend, known without a device.

use super::{attention, rows};
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
        // Statistics of the attention backward pass.
        let stats = attention::backward_scratch(s.rows, s.heads);
        // Partial dA and dB of one fused linear, f32, one for each block of rows.
        let partials = s.rows.div_ceil(SPLIT_ROWS) * s.rank * s.widest * DType::F32.size();
        // Partial sums of squares of the gradient norm, f32, one for each 1024 parameters.
        let norm = rows::global_norm_scratch(s.adapter);
        // Losses of the rows of a chunk of logits.
        let losses = s.logit_rows * DType::F32.size();
        weight.max(stats).max(partials).max(norm).max(losses)
    }
}
