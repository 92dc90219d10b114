//! `config.json` of a Qwen3 model, in both generations that transformers writes: top-level `rope_theta` and `torch_dtype`
//! in version 4, `rope_parameters` and `dtype` in version 5.

mod fields;
mod quantization;
mod read;
mod rope;
#[cfg(test)]
mod tests;

use super::{
    catalogue::{ModelTensor, tensors},
    rope::RopeScaling,
};
use crate::{Result, backend::Heads, files::stand_in};
pub use quantization::Quantization;
use read::Fields;
use serde_json::{Value, json};
use std::path::Path;

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
    /// How they are scaled.
    pub rope_scaling: RopeScaling,
    /// Epsilon of every RMSNorm.
    pub rms_eps: f32,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Longest sequence the model was made for.
    pub max_positions: usize,
}

/// What a config.json says.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// The model.
    pub model: ModelConfig,
    /// How the checkpoint is quantised, if it is.
    pub quantization: Option<Quantization>,
    /// What it says that is not used, each in a sentence that names the field.
    pub remarks: Vec<String>,
}

/// Sizes that [`ModelConfig::preset`] knows.
pub const PRESETS: [&str; 7] = ["tiny", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "qwen3-14b", "qwen3-32b"];

impl ModelConfig {
    /// A published size of Qwen3, or `tiny`: two layers of width 128 for trying things out.
    pub fn preset(name: &str) -> Option<Self> {
        let (hidden, intermediate, layers, q, kv, tied) = match name {
            "tiny" => {
                return Some(Self {
                    hidden: 128,
                    intermediate: 384,
                    layers: 2,
                    heads: Heads { q: 4, kv: 2, dim: 64 },
                    vocab: 512,
                    rope_theta: 1e6,
                    rope_scaling: RopeScaling::Default,
                    rms_eps: 1e-6,
                    tied: true,
                    max_positions: 4096,
                });
            }
            "qwen3-0.6b" => (1024, 3072, 28, 16, 8, true),
            "qwen3-1.7b" => (2048, 6144, 28, 16, 8, true),
            "qwen3-4b" => (2560, 9728, 36, 32, 8, true),
            "qwen3-8b" => (4096, 12288, 36, 32, 8, false),
            "qwen3-14b" => (5120, 17408, 40, 40, 8, false),
            "qwen3-32b" => (5120, 25600, 64, 64, 8, false),
            _ => return None,
        };
        Some(Self {
            hidden,
            intermediate,
            layers,
            heads: Heads { q, kv, dim: 128 },
            vocab: 151_936,
            rope_theta: 1e6,
            rope_scaling: RopeScaling::Default,
            rms_eps: 1e-6,
            tied,
            max_positions: 40_960,
        })
    }

    /// Number of weights, embedding and head included.
    pub fn parameters(&self) -> usize {
        tensors(self).iter().map(ModelTensor::elements).sum()
    }

    /// What identifies the model's shape in fingerprints. Checkpoints and caches hold digests of these words, so they stay as
    /// they are; a field that comes later is said only where it has another value than all earlier models had.
    pub fn identity(&self) -> String {
        let Self { hidden, intermediate, layers, heads, vocab, rope_theta, rope_scaling, rms_eps, tied, max_positions } =
            self;
        let Heads { q, kv, dim } = heads;
        let scaling = match rope_scaling {
            RopeScaling::Default => String::new(),
            scaling => format!(", rope_parameters: {}", scaling.to_json(*rope_theta)),
        };
        format!(
            "ModelConfig {{ hidden: {hidden}, intermediate: {intermediate}, layers: {layers}, heads: Heads {{ q: {q}, \
             kv: {kv}, dim: {dim} }}, vocab: {vocab}, rope_theta: {rope_theta:?}, rms_eps: {rms_eps:?}, tied: {tied}, \
             max_positions: {max_positions}{scaling} }}"
        )
    }

    /// Reads `path`.
    ///
    /// # Errors
    /// If it is not JSON, not Qwen3 dense, or asks for something irori does not compute. Fields are named.
    pub fn read(path: &Path) -> Result<ConfigFile> {
        Fields { path, json: &stand_in::read_json(path)? }.file()
    }

    /// The file's content for transformers of both generations; `dtype` is "bfloat16" or "float32".
    pub fn to_json(&self, dtype: &str) -> Value {
        json!({
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "dtype": dtype,
            "head_dim": self.heads.dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.max_positions,
            "max_window_layers": self.layers,
            "model_type": "qwen3",
            "num_attention_heads": self.heads.q,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.heads.kv,
            "rms_norm_eps": f64::from(self.rms_eps).to_string().parse::<f64>().map_or(1e-6, |e| round_to(e, 9)),
            "rope_parameters": self.rope_scaling.to_json(self.rope_theta),
            "rope_theta": self.rope_theta,
            "sliding_window": null,
            "tie_word_embeddings": self.tied,
            "torch_dtype": dtype,
            "use_cache": true,
            "use_sliding_window": false,
            "vocab_size": self.vocab,
        })
    }
}

/// `x` with `digits` significant decimal digits: 1e-6 as f32 is written as 1e-6 again.
fn round_to(x: f64, digits: usize) -> f64 {
    format!("{x:.*e}", digits - 2).parse().unwrap_or(x)
}
