//! `config.json` of a Qwen3 model, in both generations that transformers writes (FACTS: top-level `rope_theta` and
//! `torch_dtype` in 4.x, `rope_parameters` and `dtype` in 5.x).

use crate::backend::Heads;

/// Shape and constants of a Qwen3 dense model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the SwiGLU.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: Heads,
    /// Rows of the embedding and the head.
    pub vocab: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Epsilon of every RMSNorm.
    pub rms_eps: f32,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Longest sequence the model was made for.
    pub max_positions: usize,
}

impl ModelConfig {
    /// Number of weights, embedding and head included.
    pub fn parameters(&self) -> usize {
        let linears: usize = super::Module::ALL.iter().map(|m| m.shape(self)).map(|(n, k)| n * k).sum();
        let layer = linears + 2 * self.hidden + 2 * self.heads.dim;
        let ends = if self.tied { 1 } else { 2 };
        self.layers * layer + ends * self.vocab * self.hidden + self.hidden
    }
}
