//! What a config.json says, field by field.

use super::{ConfigFile, ModelConfig, fields, quantization::asks};
use crate::{Error, Result, backend::Heads};
use serde_json::Value;
use std::path::Path;

/// Fields of one config.json, with errors that name them.
pub(super) struct Fields<'a> {
    pub path: &'a Path,
    pub json: &'a Value,
}

impl Fields<'_> {
    pub(super) fn wrong(&self, field: &str, message: impl Into<String>) -> Error {
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

    /// A positive number at the top.
    pub(super) fn number(&self, object: &Value, field: &str) -> Result<Option<f64>> {
        self.positive(object.get(field), field)
    }

    /// A positive number, called `at` in errors.
    pub(super) fn positive(&self, value: Option<&Value>, at: &str) -> Result<Option<f64>> {
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(v) => match v.as_f64() {
                Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x)),
                _ => Err(self.wrong(at, format!("is {v}, expected a positive number"))),
            },
        }
    }

    fn truth(&self, field: &str) -> Result<bool> {
        self.truth_in(self.json, field, field)
    }

    /// Whether `field` of `object`, called `at` in errors, is true.
    pub(super) fn truth_in(&self, object: &Value, field: &str, at: &str) -> Result<bool> {
        match object.get(field) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
            Some(v) => Err(self.wrong(at, format!("is {v}, expected true or false"))),
        }
    }

    /// That `field` has no effect, for [`ConfigFile::remarks`].
    pub(super) fn unused(&self, field: &str) -> String {
        format!("{}: field `{field}` is not one that irori knows of Qwen3, and is not used", self.path.display())
    }

    /// All of it.
    pub fn file(&self) -> Result<ConfigFile> {
        let Some(object) = self.json.as_object() else {
            return Err(Error::content(self.path, "", "is not a JSON object"));
        };
        let mut remarks = Vec::new();
        self.architecture()?;
        self.refuse_other_mathematics()?;
        let model = self.config(&mut remarks)?;
        self.layer_types(model.layers)?;
        let quantization = self.quantization(&mut remarks)?;
        if let Some(p) = self.json.get("attention_dropout").filter(|p| asks(p) && p.as_f64() != Some(0.0)) {
            remarks.push(format!(
                "{}: field `attention_dropout` is {p}, and irori trains without dropout in attention",
                self.path.display()
            ));
        }
        if self.json.get("auto_map").is_some_and(asks) {
            remarks.push(format!(
                "{}: field `auto_map` names code of the model's own, which is not run: it is computed as a Qwen3 of transformers",
                self.path.display()
            ));
        }
        let unknown = object.iter().filter(|(name, value)| !fields::known(name) && asks(value));
        remarks.extend(unknown.map(|(name, _)| self.unused(name)));
        Ok(ConfigFile { model, quantization, remarks })
    }

    /// Refuses what would make another function of the same weights.
    fn refuse_other_mathematics(&self) -> Result<()> {
        for field in ["attention_bias", "mlp_bias"] {
            if self.truth(field)? {
                return Err(self.wrong(field, "is true; irori's Qwen3 has no biases"));
            }
        }
        // "swish" is its other name in transformers.
        let act = self.json.get("hidden_act").filter(|a| !matches!(a.as_str(), Some("silu" | "swish")));
        if let Some(act) = act {
            return Err(self.wrong("hidden_act", format!("is {act}; irori computes silu")));
        }
        for (field, computes) in [
            ("attn_logit_softcapping", "attention without a cap"),
            ("final_logit_softcapping", "logits without a cap"),
            ("num_experts", "one MLP in each layer"),
        ] {
            if let Some(value) = self.json.get(field).filter(|v| asks(v) && v.as_f64() != Some(0.0)) {
                return Err(self.wrong(field, format!("is {value}; irori computes {computes}")));
            }
        }
        Ok(())
    }

    /// Refuses layers that attend to a part of the document only.
    fn layer_types(&self, layers: usize) -> Result<()> {
        let whole = "irori attends to the whole document";
        if let Some(types) = self.json.get("layer_types").filter(|t| !t.is_null()) {
            let Some(list) = types.as_array().filter(|list| list.len() == layers) else {
                return Err(
                    self.wrong("layer_types", format!("is not a list of {layers}, as many as `num_hidden_layers`"))
                );
            };
            let other = list.iter().position(|t| !matches!(t.as_str(), Some("full_attention" | "attention")));
            return match other {
                None => Ok(()),
                Some(i) => Err(self.wrong(&format!("layer_types.{i}"), format!("is {}; {whole}", list[i]))),
            };
        }
        // Without a list, layers from `max_window_layers` on have the window.
        let size = |field: &str, default: u64| match self.json.get(field) {
            None => Ok(Some(default)),
            Some(Value::Null) => Ok(None),
            Some(v) => {
                v.as_u64().map(Some).ok_or_else(|| self.wrong(field, format!("is {v}, expected a whole number")))
            }
        };
        let (window, first) = (size("sliding_window", 4096)?, size("max_window_layers", 28)?);
        if self.truth("use_sliding_window")? && window.is_some() && first.is_none_or(|first| first < layers as u64) {
            return Err(self.wrong("use_sliding_window", format!("is true; {whole}")));
        }
        Ok(())
    }

    fn config(&self, remarks: &mut Vec<String>) -> Result<ModelConfig> {
        // What is missing is as in transformers' Qwen3Config.
        let heads = Heads {
            q: self.size("num_attention_heads", 1 << 10)?,
            kv: match self.json.get("num_key_value_heads") {
                None => 32,
                Some(Value::Null) => self.size("num_attention_heads", 1 << 10)?,
                Some(_) => self.size("num_key_value_heads", 1 << 10)?,
            },
            dim: match self.json.get("head_dim") {
                None => 128,
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
        let max_positions = match self.json.get("max_position_embeddings") {
            None => 32_768,
            Some(_) => self.size("max_position_embeddings", 1 << 31)?,
        };
        let (rope_theta, rope_scaling) = self.rope(heads.dim, max_positions, remarks)?;
        Ok(ModelConfig {
            hidden: self.size("hidden_size", 1 << 17)?,
            intermediate: self.size("intermediate_size", 1 << 19)?,
            layers: self.size("num_hidden_layers", 1 << 10)?,
            heads,
            vocab: self.size("vocab_size", 1 << 24)?,
            rope_theta,
            rope_scaling,
            rms_eps: self.number(self.json, "rms_norm_eps")?.unwrap_or(1e-6) as f32,
            tied: self.truth("tie_word_embeddings")?,
            max_positions,
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
}
