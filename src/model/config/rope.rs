//! What config.json says of rotary positions, put in order as transformers puts it: an old `rope_scaling` stands in place of
//! `rope_parameters`; what those lack is taken from the fields beside them, and a base that is nowhere is 10000.

use super::{quantization::asks, read::Fields};
use crate::{Result, model::rope::RopeScaling};
use serde_json::{Map, Value};

/// The base of a Qwen3 that names none.
const DEFAULT_THETA: f64 = 10_000.0;

/// Fields of every kind.
const COMMON: [&str; 4] = ["rope_theta", "rope_type", "type", "partial_rotary_factor"];

/// The object that counts, and what it is called.
struct Parameters<'a, 'f> {
    fields: &'a Fields<'f>,
    name: &'static str,
    object: Map<String, Value>,
}

impl Fields<'_> {
    /// Base and scaling of the rotary frequencies; fields that their kind does not have go to `remarks`.
    pub fn rope(&self, head_dim: usize, positions: usize, remarks: &mut Vec<String>) -> Result<(f64, RopeScaling)> {
        let object = |name: &'static str| match self.json.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(o)) => Ok(Some((name, o.clone())).filter(|(_, o)| !o.is_empty())),
            Some(v) => Err(self.wrong(name, format!("is {v}, expected an object"))),
        };
        let (new, old) = (object("rope_parameters")?, object("rope_scaling")?);
        let (name, object) = old.or(new).unwrap_or(("rope_parameters", Map::new()));
        let p = Parameters { fields: self, name, object };
        let theta = match p.number("rope_theta")? {
            Some(theta) => theta,
            None => self.number(self.json, "rope_theta")?.unwrap_or(DEFAULT_THETA),
        };
        let scaling = p.scaling(positions, remarks)?;
        p.whole_head(head_dim)?;
        // Of parameters far outside of what anybody trains, the frequencies may be no numbers.
        if scaling.frequencies(head_dim, theta).iter().any(|f| !f.is_finite()) || !scaling.attention().is_finite() {
            return Err(self.wrong(name, "gives rotary frequencies that are no numbers"));
        }
        Ok((theta, scaling))
    }
}

impl Parameters<'_, '_> {
    fn at(&self, field: &str) -> String {
        format!("{}.{field}", self.name)
    }

    /// A positive number.
    fn number(&self, field: &str) -> Result<Option<f64>> {
        self.fields.positive(self.object.get(field), &self.at(field))
    }

    fn needed(&self, field: &str) -> Result<f64> {
        self.number(field)?.ok_or_else(|| self.fields.wrong(&self.at(field), "is missing"))
    }

    /// The kind: `rope_type`, or `type` in old files.
    fn kind(&self) -> Result<String> {
        for field in ["rope_type", "type"] {
            match self.object.get(field) {
                None | Some(Value::Null) => {}
                Some(Value::String(kind)) => return Ok(kind.clone()),
                Some(v) => return Err(self.fields.wrong(&self.at(field), format!("is {v}, expected a name"))),
            }
        }
        Ok("default".into())
    }

    fn scaling(&self, positions: usize, remarks: &mut Vec<String>) -> Result<RopeScaling> {
        if let Some(layers) = self.object.keys().find(|k| k.ends_with("_attention")) {
            let message = "gives a kind of layer its own positions; irori's layers are all alike";
            return Err(self.fields.wrong(&self.at(layers), message));
        }
        let (scaling, own): (_, &[&str]) = match self.kind()?.as_str() {
            "default" => (RopeScaling::Default, &[]),
            "linear" => (RopeScaling::Linear { factor: self.needed("factor")? }, &["factor"]),
            "dynamic" => (RopeScaling::Dynamic { factor: self.needed("factor")? }, &["factor"]),
            "llama3" => (
                RopeScaling::Llama3 {
                    factor: self.needed("factor")?,
                    low: self.needed("low_freq_factor")?,
                    high: self.needed("high_freq_factor")?,
                    original: self.original(positions)?,
                },
                &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
            ),
            "yarn" => (
                self.yarn(positions)?,
                &[
                    "factor",
                    "original_max_position_embeddings",
                    "attention_factor",
                    "mscale",
                    "mscale_all_dim",
                    "beta_fast",
                    "beta_slow",
                    "truncate",
                ],
            ),
            other => {
                let message = format!("asks for `{other}`; irori computes default, linear, dynamic, llama3 and yarn");
                return Err(self.fields.wrong(self.name, message));
            }
        };
        let unknown =
            |(k, v): &(&String, &Value)| !COMMON.contains(&k.as_str()) && !own.contains(&k.as_str()) && asks(v);
        remarks.extend(self.object.iter().filter(unknown).map(|(k, _)| self.fields.unused(&self.at(k))));
        Ok(scaling)
    }

    /// Positions that the model was made for before they were scaled. A field at the top wins.
    fn original(&self, positions: usize) -> Result<f64> {
        const FIELD: &str = "original_max_position_embeddings";
        let (value, at) = match self.fields.number(self.fields.json, FIELD)? {
            Some(value) => (value, FIELD.to_owned()),
            None => (self.number(FIELD)?.unwrap_or(positions as f64), self.at(FIELD)),
        };
        if value.fract() == 0.0 {
            Ok(value)
        } else {
            Err(self.fields.wrong(&at, format!("is {value}, expected a whole number")))
        }
    }

    fn yarn(&self, positions: usize) -> Result<RopeScaling> {
        let original = self.original(positions)?;
        let factor = match self.object.get("factor") {
            Some(Value::Null) => positions as f64 / original,
            _ => self.needed("factor")?,
        };
        // 0 stands for "not given" where transformers asks for truth.
        let given = |field: &str| -> Result<Option<f64>> {
            let zero = self.object.get(field).and_then(Value::as_f64) == Some(0.0);
            if zero { Ok(None) } else { self.number(field) }
        };
        let scale = |factor: f64, scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let attention = match (self.number("attention_factor")?, given("mscale")?, given("mscale_all_dim")?) {
            (Some(factor), ..) => factor,
            (None, Some(m), Some(all)) => scale(factor, m) / scale(factor, all),
            _ => scale(factor, 1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original,
            beta_fast: given("beta_fast")?.unwrap_or(32.0),
            beta_slow: given("beta_slow")?.unwrap_or(1.0),
            truncate: match self.object.get("truncate") {
                None => true,
                Some(Value::Bool(truncate)) => *truncate,
                Some(v) => {
                    return Err(self.fields.wrong(&self.at("truncate"), format!("is {v}, expected true or false")));
                }
            },
            attention,
        })
    }

    /// Refuses heads of which only a part turns.
    fn whole_head(&self, head_dim: usize) -> Result<()> {
        const FIELD: &str = "partial_rotary_factor";
        let (value, at) = match self.number(FIELD)? {
            Some(value) => (Some(value), self.at(FIELD)),
            None => (self.fields.number(self.fields.json, FIELD)?, FIELD.to_owned()),
        };
        match value.filter(|&x| x != 1.0) {
            None => Ok(()),
            Some(x) => {
                let message = format!("is {x}; irori turns all {head_dim} elements of a head");
                Err(self.fields.wrong(&at, message))
            }
        }
    }
}
