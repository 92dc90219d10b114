//! Element types, scratch and limits of the CUDA backend, known without a device.

use super::{
    attention::{self, HEAD_DIM, MAX_GROUP},
    linear::{RANK_MAX, RANK_MULTIPLE},
    rows::{self, MAX_HIDDEN},
    skinny::SPLIT_ROWS,
};
use crate::{
    Error, Result,
    backend::{DType, Demands, Op, Sizes, Unpacking, Weight},
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

    fn scratch(&self, op: &Op) -> usize {
        let dequantized = |w: &Weight| match self.nf4 {
            Nf4Path::Scratch if w.is_packed() => w.n * w.k * DType::Bf16.size(),
            _ => 0,
        };
        match op {
            Op::LoadDense(_) | Op::LoadNf4(_) | Op::MakeNf4(_) => LOAD_CHUNK,
            Op::Linear(op) => dequantized(&op.w),
            Op::LinearBackward(op) => dequantized(&op.w),
            Op::LoraBackward(op) => {
                let rank: usize = op.parts.iter().map(|p| p.r).sum();
                let wide: usize = op.parts.iter().map(|p| p.r * p.out.len()).sum();
                // Partial dA and then dB, f32, one for each block of rows; before them Bᵀ of all parts.
                let partials = op.rows().div_ceil(SPLIT_ROWS) * wide.max(rank * op.k) * DType::F32.size();
                partials.max(wide * DType::Bf16.size())
            }
            // Statistics of the rows.
            Op::AttentionBackward(op) => attention::backward_scratch(op.rows.count, op.heads),
            Op::AttentionCached(op) => attention::cached_scratch(op.rows.count, op.heads, op.cache.capacity),
            // Partial sums of squares, f32, one for each 1024 parameters.
            Op::GlobalNorm(op) => rows::global_norm_scratch(op.grad.len()),
            // Losses of the rows.
            Op::CrossEntropy(op) => op.rows() * DType::F32.size(),
            _ => 0,
        }
    }

    fn check(&self, s: &Demands) -> Result<()> {
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
