//! What a config.json says, field by field.

use super::{ModelConfig, Quantization};
use crate::{Error, Result, backend::Heads};
use serde_json::Value;
use std::path::Path;

/// Fields of one config.json, with errors that name them.
pub(super) struct Fields<'a> {
    pub path: &'a Path,
    pub json: &'a Value,
}

impl Fields<'_> {
    fn wrong(&self, field: &str, message: impl Into<String>) -> Error {
        Error::content(self.path, format!("field `{field}`"), message)
    }

    /// A whole number in 1..=most.
    fn size(&self, field: &str, most: u64) -> Result<usize> {
        let value = self.json.get(field).ok_or_else(|| self.wrong(field, "is missing"))?;
        match value.as_u64() {
            Some(n) if (1..=most).contains(&n) => Ok(n as usize),
            _ => Err(self.wrong(field, format!("is {value}, expected a whole number from 1 to {most}"))),
        }
    }

    fn number(&self, object: &Value, field: &str) -> Result<Option<f64>> {
        match object.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => match v.as_f64() {
                Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x)),
                _ => Err(self.wrong(field, format!("is {v}, expected a positive number"))),
            },
        }
    }

    fn truth(&self, field: &str) -> Result<bool> {
        match self.json.get(field) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
            Some(v) => Err(self.wrong(field, format!("is {v}, expected true or false"))),
        }
    }

    pub fn config(&self) -> Result<ModelConfig> {
        if !self.json.is_object() {
            return Err(Error::content(self.path, "", "is not a JSON object"));
        }
        self.architecture()?;
        if self.truth("attention_bias")? {
            return Err(self.wrong("attention_bias", "is true; irori's Qwen3 has no biases"));
        }
        if self.truth("use_sliding_window")? {
            return Err(self.wrong("use_sliding_window", "is true; irori attends to the whole document"));
        }
        if let Some(act) = self.json.get("hidden_act").filter(|a| a.as_str() != Some("silu")) {
            return Err(self.wrong("hidden_act", format!("is {act}; irori computes silu")));
        }
        let heads = Heads {
            q: self.size("num_attention_heads", 1 << 10)?,
            kv: match self.json.get("num_key_value_heads") {
                None | Some(Value::Null) => self.size("num_attention_heads", 1 << 10)?,
                Some(_) => self.size("num_key_value_heads", 1 << 10)?,
            },
            dim: match self.json.get("head_dim") {
                None | Some(Value::Null) => 128,
                Some(_) => self.size("head_dim", 1 << 10)?,
            },
        };
        if !heads.q.is_multiple_of(heads.kv) {
            let message = format!("is {}, which does not divide num_attention_heads = {}", heads.kv, heads.q);
            return Err(self.wrong("num_key_value_heads", message));
        }
        if !heads.dim.is_multiple_of(2) {
            return Err(self.wrong("head_dim", format!("is {}; RoPE needs an even one", heads.dim)));
        }
        Ok(ModelConfig {
            hidden: self.size("hidden_size", 1 << 17)?,
            intermediate: self.size("intermediate_size", 1 << 19)?,
            layers: self.size("num_hidden_layers", 1 << 10)?,
            heads,
            vocab: self.size("vocab_size", 1 << 24)?,
            rope_theta: self.rope_theta()?,
            rms_eps: self.number(self.json, "rms_norm_eps")?.unwrap_or(1e-6) as f32,
            tied: self.truth("tie_word_embeddings")?,
            max_positions: match self.json.get("max_position_embeddings") {
                None => 40_960,
                Some(_) => self.size("max_position_embeddings", 1 << 31)?,
            },
        })
    }

    fn architecture(&self) -> Result<()> {
        let supported = "irori trains Qwen3 dense models (Qwen3ForCausalLM)";
        if let Some(name) = self.json.pointer("/architectures/0") {
            return match name.as_str() {
                Some("Qwen3ForCausalLM") => Ok(()),
                _ => Err(self.wrong("architectures", format!("is {name}; {supported}"))),
            };
        }
        match self.json.get("model_type").and_then(Value::as_str) {
            Some("qwen3") => Ok(()),
            Some(other) => Err(self.wrong("model_type", format!("is `{other}`; {supported}"))),
            None => Err(self.wrong("architectures", format!("is missing; {supported}"))),
        }
    }

    fn rope_theta(&self) -> Result<f64> {
        for (field, kind) in [("rope_parameters", "rope_type"), ("rope_scaling", "rope_type"), ("rope_scaling", "type")]
        {
            let scaling = self.json.get(field).and_then(|r| r.get(kind)).and_then(Value::as_str);
            if let Some(other) = scaling.filter(|&s| s != "default") {
                return Err(self.wrong(field, format!("asks for `{other}`; irori computes unscaled RoPE")));
            }
        }
        let nested = match self.json.get("rope_parameters") {
            Some(p) => self.number(p, "rope_theta")?,
            None => None,
        };
        match nested {
            Some(theta) => Ok(theta),
            None => self
                .number(self.json, "rope_theta")?
                .ok_or_else(|| self.wrong("rope_theta", "is missing, also in `rope_parameters`")),
        }
    }

    pub fn quantization(&self) -> Result<Option<Quantization>> {
        let Some(q) = self.json.get("quantization_config").filter(|q| !q.is_null()) else { return Ok(None) };
        let text = |field: &str| q.get(field).and_then(Value::as_str).unwrap_or("");
        let truth = |field: &str| q.get(field).and_then(Value::as_bool).unwrap_or(false);
        let at = |field: &str| format!("quantization_config.{field}");
        let nf4 = "irori reads bitsandbytes NF4";
        if text("quant_method") != "bitsandbytes" {
            return Err(self.wrong(&at("quant_method"), format!("is `{}`; {nf4}", text("quant_method"))));
        }
        if truth("load_in_8bit") || truth("_load_in_8bit") {
            return Err(self.wrong(&at("load_in_8bit"), format!("is true; {nf4}")));
        }
        if text("bnb_4bit_quant_type") != "nf4" {
            let found = text("bnb_4bit_quant_type");
            return Err(self.wrong(&at("bnb_4bit_quant_type"), format!("is `{found}`; {nf4}")));
        }
        Ok(Some(Quantization { double_quant: truth("bnb_4bit_use_double_quant") }))
    }
}
