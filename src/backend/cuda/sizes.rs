//! Element types, scratch and limits of the CUDA backend, known without a device.

use super::{
    attention::{self, HEAD_DIM, MAX_GROUP},
    linear::{RANK_MAX, RANK_MULTIPLE},
    rows::{self, MAX_HIDDEN},
    skinny::SPLIT_ROWS,
};
use crate::{
    Error, Result,
    backend::{DType, ScratchShape, Sizes, Unpacking},
    quant::nf4,
};

/// How a product with packed NF4 weights is computed. The bits of the result are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nf4Path {
    /// The product's kernel decodes the weights itself.
    #[default]
    Fused,
    /// The weight is dequantised to scratch first, and multiplied densely.
    Scratch,
}

/// Bytes of a chunk of a tensor that is converted on its way to the device.
pub(super) const LOAD_CHUNK: usize = 8 << 20;

/// Sizes of the CUDA backend: activations in bf16; scratch for the partial sums of the reductions that are split over
/// blocks, and for one dequantised weight matrix where the path needs it.
#[derive(Debug, Clone, Copy, Default)]
pub struct CudaSizes {
    /// How packed weights are multiplied.
    pub nf4: Nf4Path,
}

impl CudaSizes {
    /// The default: packed weights are decoded by the product's kernel.
    pub const FUSED: Self = Self { nf4: Nf4Path::Fused };
}

impl Sizes for CudaSizes {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn own_memory(&self) -> bool {
        true
    }

    fn unpacking(&self) -> Unpacking {
        match self.nf4 {
            // By counted instructions the dense kernels reach 94–98 % of the tensor cores' bound, those that decode 89–98 %.
            Nf4Path::Fused => Unpacking::InProduct(0.05),
            Nf4Path::Scratch => Unpacking::ToScratch(self.activation()),
        }
    }

    fn activation(&self) -> DType {
        DType::Bf16
    }

    fn scratch_bytes(&self, s: &ScratchShape) -> usize {
        let weight = match self.nf4 {
            Nf4Path::Fused => 0,
            Nf4Path::Scratch => s.largest_weight.0 * s.largest_weight.1 * DType::Bf16.size(),
        };
        let cached = if s.kv_slots > 0 { attention::cached_scratch(s.kv_slots, s.heads, s.kv_capacity) } else { 0 };
        let most = LOAD_CHUNK.max(weight).max(cached);
        if !s.training {
            return most;
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
        most.max(stats).max(partials).max(transposed).max(norm).max(losses)
    }

    fn check(&self, s: &ScratchShape) -> Result<()> {
        let refuse = |what: String| Err(Error::usage(format!("{what}; use --device cpu")));
        let heads = s.heads;
        if heads.dim != HEAD_DIM {
            return refuse(format!("the CUDA kernels are for a head_dim of {HEAD_DIM}, the model has {}", heads.dim));
        }
        let multiple = if s.quantized { nf4::BLOCK } else { 8 };
        for (name, width, multiple) in [
            ("hidden_size", s.hidden, multiple),
            ("intermediate_size", s.intermediate, multiple),
            ("vocab_size", s.vocab, if s.quantized_head { nf4::BLOCK } else { 8 }),
        ] {
            if !width.is_multiple_of(multiple) {
                return refuse(format!("the CUDA kernels need a {name} that is a multiple of {multiple}, not {width}"));
            }
        }
        if s.hidden > MAX_HIDDEN {
            return refuse(format!("the CUDA kernels take a hidden_size of at most {MAX_HIDDEN}, not {}", s.hidden));
        }
        if s.lora_rank > RANK_MAX || !s.lora_rank.is_multiple_of(RANK_MULTIPLE) {
            return Err(Error::usage(format!(
                "--lora-r {}: on CUDA the rank must be a multiple of {RANK_MULTIPLE}, at most {RANK_MAX}",
                s.lora_rank
            )));
        }
        if s.kv_slots > 0 && heads.q / heads.kv > MAX_GROUP {
            return refuse(format!(
                "generation on CUDA takes at most {MAX_GROUP} query heads a key/value head, the model has {}",
                heads.q / heads.kv
            ));
        }
        if s.quantized && s.compute != DType::Bf16 {
            return Err(Error::usage(
                "--bnb-4bit-compute-dtype float32 is for the CPU: on CUDA quantised weights are rounded to bfloat16",
            ));
        }
        if s.dense != DType::Bf16 {
            return Err(Error::failed("dense weights on CUDA are bf16: this layout asks for another type"));
        }
        Ok(())
    }
}
