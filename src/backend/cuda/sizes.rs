//! Element types and scratch of the CUDA backend, known without a device.

use super::{attention, rows, skinny::SPLIT_ROWS};
use crate::backend::{DType, ScratchShape, Sizes, Unpacking};

/// Sizes of the CUDA backend: activations in bf16; scratch for one dequantised weight matrix and for the partial sums of
/// the reductions that are split over blocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct CudaSizes;

impl Sizes for CudaSizes {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn own_memory(&self) -> bool {
        true
    }

    fn unpacking(&self) -> Unpacking {
        // By counted instructions the dense kernels reach 94–98 % of the tensor cores' bound, those that decode 89–98 %.
        Unpacking::InProduct(0.05)
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
        // The transposed B of one fused linear's adapters, before the partial sums need the place.
        let transposed = s.rank * s.widest * DType::Bf16.size();
        // Partial sums of squares of the gradient norm, f32, one for each 1024 parameters.
        let norm = rows::global_norm_scratch(s.adapter);
        // Losses of the rows of a chunk of logits.
        let losses = s.logit_rows * DType::F32.size();
        weight.max(stats).max(partials).max(transposed).max(norm).max(losses)
    }
}
