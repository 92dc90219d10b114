//! Where base weights come from: a Hugging Face directory, the local cache, or made on the fly.

mod bnb;
pub mod cache;
mod hf;
mod likeness;
#[cfg(test)]
pub(crate) mod made;
mod open;
pub mod packed;
mod stored;
mod synthetic;
#[cfg(test)]
mod tests;

use super::ModelConfig;
use crate::{
    Result,
    quant::nf4::Nf4,
    rng::NearNormal,
    tensor::{DType, Tensor},
};
pub use hf::HfDirectory;
pub use open::{Opened, base_name, open};
pub use synthetic::Synthetic;

/// The weight of a linear layer as its source holds it.
#[derive(Debug, Clone)]
pub enum LinearData<'a> {
    /// Dense [n, k].
    Dense(Tensor<'a>),
    /// Quantised by bitsandbytes; double quantisation is already decoded.
    Nf4(Nf4<'a>),
}

/// A model's weights by the names of the [catalogue](super::catalogue).
pub trait WeightSource: Send + Sync {
    /// The configuration.
    fn config(&self) -> &ModelConfig;

    /// A dense tensor of exactly `shape`, of a floating-point type, by its full name. Errors name the file and the tensor.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>>;

    /// The weight of the linear `path` (without ".weight"), [n, k].
    fn linear(&self, path: &str, n: usize, k: usize) -> Result<LinearData<'_>>;

    /// Type that holds every matrix that is stored dense without rounding it: Bf16 where all are, else F32.
    fn dense_dtype(&self) -> DType;

    /// How the tensor called `name` can be made on a device, where it is not read from anywhere but made.
    fn recipe(&self, _name: &str) -> Option<NearNormal> {
        None
    }

    /// Whether linears are quantised in the source already.
    fn is_quantized(&self) -> bool {
        false
    }

    /// Whether the linear `path`, or the head, is quantised in the source.
    fn is_packed(&self, _path: &str) -> bool {
        false
    }

    /// Whether a base in 4 bits holds the linear `path` of a layer dense all the same: it is dense among quantised ones, or
    /// the configuration excepts it.
    fn stays_dense(&self, _path: &str) -> bool {
        false
    }

    /// Type that a quantised weight is rounded to in use, as the configuration asks: "bfloat16".
    fn compute(&self) -> Option<&str> {
        None
    }

    /// What of the source is not used, or not as its configuration says: each a sentence. May read the head once.
    ///
    /// # Errors
    /// If a tensor that must be looked at is malformed, or a tied head is another matrix.
    fn remarks(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Identifies the weights in checkpoints: the same for the same bytes, cheap to get (sizes, headers and sampled
    /// content; not a pass over 16 GB).
    fn fingerprint(&self) -> Result<String>;

    /// Identifies the weights whatever form they are held in and whatever is computed with them: the same for a dense model, for what quantising makes of
    /// it, and for a copy in a floating-point type that lost nothing. As cheap as the fingerprint. A source that does not
    /// know better says its fingerprint.
    fn likeness(&self) -> Result<String> {
        self.fingerprint()
    }

    /// Says that the tensor `name` was used and will not be read again soon: a mapped file may give its pages back, so
    /// that loading needs the quantised model plus one tensor, not a second copy.
    fn release(&self, _name: &str) {}

    /// For messages: the directory, or "synthetic:qwen3-8b".
    fn describe(&self) -> String;
}
