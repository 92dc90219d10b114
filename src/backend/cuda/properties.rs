//! Element types, scratch and limits of the CUDA backend, known without a device.

use super::{
    context::Nf4Path,
    launches::{
        self,
        attention::HEAD_DIM,
        cache::MAX_GROUP,
        linear::{RANK_MAX, RANK_MULTIPLE},
        norm::MAX_HIDDEN,
    },
};
use crate::{
    Error, Result,
    backend::{DType, Demands, Op, Properties, Unpacking},
    error::Setting,
    quant::nf4,
};

/// Properties of the CUDA backend: activations in bf16; scratch for the partial sums of reductions that are split over blocks,
/// and for one dequantised weight matrix where the path needs it.
#[derive(Debug, Clone, Copy, Default)]
pub struct CudaProperties {
    /// How packed weights are multiplied.
    pub nf4: Nf4Path,
}

impl CudaProperties {
    /// Packed weights are decoded by the product's kernel.
    pub const FUSED: Self = Self { nf4: Nf4Path::Fused };
}

impl Properties for CudaProperties {
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
        launches::scratch(op, self.nf4)
    }

    fn check(&self, s: &Demands) -> Result<()> {
        check_model(s).map_err(|message| {
            Error::setting(Setting::new("device", "cuda"), message).advise([Setting::new("device", "cpu")])
        })?;
        if s.lora_rank > RANK_MAX || !s.lora_rank.is_multiple_of(RANK_MULTIPLE) {
            return Err(Error::setting(
                Setting::new("lora-r", s.lora_rank),
                format!("on CUDA the rank is a multiple of {RANK_MULTIPLE}, at most {RANK_MAX}"),
            ));
        }
        if s.quantized && s.compute != DType::Bf16 {
            return Err(Error::setting(
                Setting::new("bnb-4bit-compute-dtype", "float32"),
                "on CUDA quantised weights are rounded to bfloat16",
            )
            .advise([Setting::new("device", "cpu")]));
        }
        if s.dense != DType::Bf16 {
            return Err(Error::internal(format!("dense weights on CUDA are Bf16, this layout asks for {:?}", s.dense)));
        }
        Ok(())
    }
}

/// Fails if the kernels do not take a model of this shape: what is wrong, in words.
fn check_model(s: &Demands) -> Result<(), String> {
    let heads = s.heads;
    if heads.dim != HEAD_DIM {
        return Err(format!("the CUDA kernels are for a head_dim of {HEAD_DIM}, the model has {}", heads.dim));
    }
    let multiple = |quantized: bool| if quantized { nf4::BLOCK } else { 8 };
    for (name, width, multiple) in [
        ("hidden_size", s.hidden, multiple(s.quantized)),
        ("intermediate_size", s.intermediate, multiple(s.quantized)),
        ("vocab_size", s.vocab, multiple(s.quantized_head)),
    ] {
        if !width.is_multiple_of(multiple) {
            return Err(format!("the CUDA kernels need a {name} that is a multiple of {multiple}, not {width}"));
        }
    }
    if s.hidden > MAX_HIDDEN {
        return Err(format!("the CUDA kernels take a hidden_size of at most {MAX_HIDDEN}, not {}", s.hidden));
    }
    let group = heads.q / heads.kv;
    if s.kv_slots > 0 && group > MAX_GROUP {
        return Err(format!(
            "generation on CUDA takes at most {MAX_GROUP} query heads a key/value head, the model has {group}"
        ));
    }
    Ok(())
}
