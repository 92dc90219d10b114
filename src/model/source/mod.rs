//! Where base weights come from: a Hugging Face directory, the local cache, or made on the fly.

mod bnb;
mod hf;
mod open;
pub mod packed;
pub mod safetensors;
mod synthetic;

use super::ModelConfig;
use crate::{Result, backend::DType, quant::host::Floats, rng::Bell};
pub use hf::HfDirectory;
pub use open::{Opened, open};
use std::borrow::Cow;
pub use synthetic::Synthetic;

/// A tensor as its source holds it, row-major little-endian.
#[derive(Debug, Clone)]
pub struct TensorData<'a> {
    /// F32, Bf16 or F16.
    pub dtype: DType,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
    /// Elements; borrowed from a mapped file where possible. Not necessarily aligned.
    pub bytes: Cow<'a, [u8]>,
}

impl TensorData<'_> {
    /// The elements by type. A type that no weight comes in reads as nothing.
    pub fn floats(&self) -> Floats<'_> {
        match self.dtype {
            DType::Bf16 => Floats::Bf16(&self.bytes),
            DType::F16 => Floats::F16(&self.bytes),
            DType::F32 => Floats::F32(&self.bytes),
            DType::U8 | DType::U32 => Floats::F32(&[]),
        }
    }

    /// The elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let floats = self.floats();
        let mut out = vec![0.0; floats.len()];
        floats.read(0, &mut out);
        out
    }
}

/// The weight of a linear layer as its source holds it.
#[derive(Debug, Clone)]
pub enum LinearData<'a> {
    /// Dense [n, k].
    Dense(TensorData<'a>),
    /// Quantised by bitsandbytes (NF4, block 64); double quantisation is already decoded.
    Nf4 {
        /// [n·k/2] bytes, high nibble first.
        packed: Cow<'a, [u8]>,
        /// [n·k/64].
        absmax: Vec<f32>,
    },
}

/// A model's weights by their Hugging Face names ("model.layers.0.self_attn.q_proj" + ".weight").
pub trait WeightSource: Send + Sync {
    /// The configuration.
    fn config(&self) -> &ModelConfig;

    /// A dense tensor of exactly `shape`, by its full name. Errors name the file and the tensor.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorData<'_>>;

    /// The weight of the linear `path` (without ".weight"), [n, k].
    fn linear(&self, path: &str, n: usize, k: usize) -> Result<LinearData<'_>>;

    /// Type that dense weights are stored in: F32 where the embedding is, else Bf16 (F16 files are converted).
    fn dense_dtype(&self) -> DType;

    /// How the tensor called `name` can be made on a device, where it is not read from anywhere but made.
    fn recipe(&self, _name: &str) -> Option<Bell> {
        None
    }

    /// Whether [`WeightSource::keep_packed`] is wanted for every linear of the layers, in their order.
    fn keeps_packed(&self) -> bool {
        false
    }

    /// Is given the linear `path` as it was quantised: packed, and absmax in little-endian f32.
    fn keep_packed(&self, _path: &str, _packed: &[u8], _absmax: &[u8]) {}

    /// Whether the linears are quantised in the source already.
    fn is_quantized(&self) -> bool {
        false
    }

    /// Identifies the weights in checkpoints: the same for the same bytes, cheap to get (sizes, headers and sampled
    /// content; not a pass over 16 GB).
    fn fingerprint(&self) -> Result<String>;

    /// Says that the tensor `name` was used and will not be read again soon: a mapped file may give its pages back, so
    /// that loading needs the quantised model plus one tensor, not a second copy.
    fn release(&self, _name: &str) {}

    /// For messages: the directory, or "synthetic:qwen3-8b".
    fn describe(&self) -> String;
}
