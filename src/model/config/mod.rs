//! `config.json` of a Qwen3 model, in both generations that transformers writes: top-level `rope_theta` and `torch_dtype`
//! in version 4, `rope_parameters` and `dtype` in version 5.

mod read;

use super::catalogue::{ModelTensor, tensors};
use crate::{Result, backend::Heads, files::stand_in};
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
    /// Epsilon of every RMSNorm.
    pub rms_eps: f32,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Longest sequence the model was made for.
    pub max_positions: usize,
}

/// That a checkpoint's linears are NF4 in bitsandbytes' format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantization {
    /// Whether the absmax values are quantised too.
    pub double_quant: bool,
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
        let Self { hidden, intermediate, layers, heads, vocab, rope_theta, rms_eps, tied, max_positions } = self;
        let Heads { q, kv, dim } = heads;
        format!(
            "ModelConfig {{ hidden: {hidden}, intermediate: {intermediate}, layers: {layers}, heads: Heads {{ q: {q}, \
             kv: {kv}, dim: {dim} }}, vocab: {vocab}, rope_theta: {rope_theta:?}, rms_eps: {rms_eps:?}, tied: {tied}, \
             max_positions: {max_positions} }}"
        )
    }

    /// Reads `path`, and how the checkpoint is quantised if it is.
    ///
    /// # Errors
    /// If it is not JSON, not Qwen3 dense, or asks for something irori does not compute. Fields are named.
    pub fn read(path: &Path) -> Result<(Self, Option<Quantization>)> {
        let json = stand_in::read_json(path)?;
        let fields = Fields { path, json: &json };
        Ok((fields.config()?, fields.quantization()?))
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
            "rope_parameters": {"rope_theta": self.rope_theta, "rope_type": "default"},
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &Value) -> Result<(ModelConfig, Option<Quantization>)> {
        Fields { path: Path::new("config.json"), json }
            .config()
            .and_then(|c| Ok((c, Fields { path: Path::new("config.json"), json }.quantization()?)))
    }

    #[test]
    fn both_generations_say_the_same() {
        let config = ModelConfig::preset("qwen3-8b").expect("a preset");
        let mut five = config.to_json("bfloat16");
        five.as_object_mut().expect("an object").remove("rope_theta");
        let mut four = config.to_json("bfloat16");
        four.as_object_mut().expect("an object").remove("rope_parameters");
        assert_eq!(read(&five).expect("version 5").0, config);
        assert_eq!(read(&four).expect("version 4").0, config);
        assert_eq!(four["rms_norm_eps"].to_string(), "1e-6");
    }

    /// Weights in the table of published sizes: 0.44, 1.41, 3.63, 6.946, 13.2 and 31.2 billion in the linears.
    #[test]
    fn presets_have_the_published_sizes() {
        for (name, billions) in PRESETS[1..].iter().zip([0.44, 1.41, 3.63, 6.946, 13.2, 31.2]) {
            let c = ModelConfig::preset(name).expect("a preset");
            let linears: usize = tensors(&c).iter().filter_map(ModelTensor::linear).map(|(n, k)| n * k).sum();
            let found = linears as f64 / 1e9;
            assert!((found - billions).abs() < 0.006 * billions, "{name}: {found}");
        }
    }

    #[test]
    fn what_irori_cannot_compute_is_refused_by_name() {
        let good = ModelConfig::preset("tiny").expect("a preset").to_json("float32");
        for (field, value) in [
            ("architectures", json!(["LlamaForCausalLM"])),
            ("architectures", json!(["Qwen3MoeForCausalLM"])),
            ("hidden_size", json!(0)),
            ("hidden_size", json!(-3)),
            ("hidden_size", json!(1e300)),
            ("num_hidden_layers", json!("two")),
            ("num_key_value_heads", json!(3)),
            ("head_dim", json!(63)),
            ("attention_bias", json!(true)),
            ("use_sliding_window", json!(true)),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})),
            ("hidden_act", json!("gelu")),
            ("rms_norm_eps", json!(-1.0)),
            ("quantization_config", json!({"quant_method": "gptq"})),
            ("quantization_config", json!({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "fp4"})),
        ] {
            let mut bad = good.clone();
            bad[field] = value.clone();
            let error = read(&bad).expect_err("refused").to_string();
            assert!(error.contains(field) && error.contains("config.json"), "{field} {value}: {error}");
        }
        assert!(read(&json!([1, 2])).is_err() && read(&json!({})).is_err());
    }
}
