//! `adapter_config.json`, written and read.

use super::{CONFIG, WEIGHTS};
use crate::{
    Error, Result,
    files::stand_in,
    model::{
        LoraConfig, Module, Targets,
        lora::MAX_RANK,
        safetensors::MappedFile,
        source::base_name,
        targets::{self, Names, Selection},
    },
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Fields that say nothing about what the adapter computes once its weights exist.
const HARMLESS: [&str; 12] = [
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Fields that [`read_config`] understands.
const KNOWN: [&str; 13] = [
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
];

/// The content of `adapter_config.json`, ending in a newline. `base` is the model as a user named it, which
/// `base_model_name_or_path` and, for `ID@REVISION`, `revision` shall say.
pub fn config_file(lora: &LoraConfig, base: &str) -> Vec<u8> {
    let (base, revision) = base_name(base);
    let config = json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": lora.targets.layers(),
        "loftq_config": {},
        "lora_alpha": number(lora.alpha),
        "lora_dropout": number(lora.dropout),
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.r,
        "rank_pattern": {},
        "revision": revision,
        "target_modules": lora.targets.names(),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": lora.rslora,
    });
    let mut text = format!("{config:#}").into_bytes();
    text.push(b'\n');
    text
}

/// An f32 with the digits it needs and no more: 32 as 32, 0.05 as 0.05.
fn number(x: f32) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e9 { json!(x as i64) } else { json!(x.to_string().parse::<f64>().unwrap_or(0.0)) }
}

/// Reads the configuration of the adapter in `dir`, made for a model of `layers` layers.
///
/// # Errors
/// If a file is missing or malformed or asks for something irori does not compute; the field is named.
pub fn read_config(dir: &Path, layers: usize) -> Result<LoraConfig> {
    Ok(config_and_base(dir, &MappedFile::open(&dir.join(WEIGHTS))?, layers)?.0)
}

pub(super) fn config_and_base(dir: &Path, weights: &MappedFile, layers: usize) -> Result<(LoraConfig, Option<String>)> {
    let path = dir.join(CONFIG);
    let json = stand_in::read_json(&path)?;
    let fields = Fields { path, json };
    let lora = fields.lora(&present(weights), layers)?;
    Ok((lora, fields.json.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned)))
}

/// Modules that any tensor of the file belongs to, ascending.
fn present(weights: &MappedFile) -> Vec<Module> {
    let has = |m: &Module| weights.entries().any(|(name, _)| name.contains(&format!(".{}.lora_", m.path())));
    Module::ALL.into_iter().filter(has).collect()
}

/// Fields of one adapter_config.json, with errors that name them.
struct Fields {
    path: PathBuf,
    json: Value,
}

impl Fields {
    fn wrong(&self, field: &str, message: impl Into<String>) -> Error {
        Error::content(&self.path, format!("field `{field}`"), message)
    }

    fn number(&self, field: &str, default: f64) -> Result<f64> {
        match self.json.get(field) {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| self.wrong(field, format!("is {v}, expected a number"))),
        }
    }

    fn lora(&self, present: &[Module], layers: usize) -> Result<LoraConfig> {
        let Some(object) = self.json.as_object() else {
            return Err(Error::content(&self.path, "", "is not a JSON object"));
        };
        if self.json.get("peft_type").and_then(Value::as_str) != Some("LORA") {
            let found = self.json.get("peft_type").unwrap_or(&Value::Null);
            return Err(self.wrong("peft_type", format!("is {found}; irori reads LORA adapters")));
        }
        if let Some(bias) = object.get("bias").filter(|b| b.as_str() != Some("none")) {
            return Err(self.wrong("bias", format!("is {bias}; irori trains no biases (\"none\")")));
        }
        // These initialisations change the base weights too, so the adapter is nothing without its changed base.
        if let Some(Value::String(s)) = object.get("init_lora_weights")
            && !matches!(s.as_str(), "gaussian" | "orthogonal" | "eva")
        {
            return Err(self.wrong("init_lora_weights", format!("is `{s}`, which changes the base model as well")));
        }
        for (field, value) in object {
            let unset = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(a) => a.is_empty(),
                Value::Object(o) => o.is_empty(),
                _ => false,
            };
            if !unset && !HARMLESS.contains(&field.as_str()) && !KNOWN.contains(&field.as_str()) {
                return Err(self.wrong(field, format!("is {value}, which irori does not support")));
            }
        }
        let r = match object.get("r").and_then(Value::as_u64) {
            Some(r) if (1..=MAX_RANK as u64).contains(&r) => r as usize,
            _ => {
                let found = object.get("r").unwrap_or(&Value::Null);
                return Err(self.wrong("r", format!("is {found}, expected a rank from 1 to {MAX_RANK}")));
            }
        };
        let alpha = self.number("lora_alpha", 8.0)? as f32;
        if !alpha.is_finite() {
            return Err(self.wrong("lora_alpha", "is not a finite number"));
        }
        let dropout = self.number("lora_dropout", 0.0)? as f32;
        if !(0.0..1.0).contains(&dropout) {
            return Err(self.wrong("lora_dropout", format!("is {dropout}, expected 0 or more and less than 1")));
        }
        let rslora = match object.get("use_rslora") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(b)) => *b,
            Some(v) => return Err(self.wrong("use_rslora", format!("is {v}, expected true or false"))),
        };
        self.check_pattern("rank_pattern", r as f64)?;
        self.check_pattern("alpha_pattern", alpha.into())?;
        Ok(LoraConfig { r, alpha, dropout, rslora, targets: self.targets(present, layers)? })
    }

    /// Other ranks and scales for some modules are read where they are none.
    fn check_pattern(&self, field: &str, everywhere: f64) -> Result<()> {
        let Some(Value::Object(pattern)) = self.json.get(field) else { return Ok(()) };
        match pattern.iter().find(|(_, value)| value.as_f64() != Some(everywhere)) {
            None => Ok(()),
            Some((module, value)) => {
                let message = format!("gives {module} {value}; irori gives every module {everywhere}");
                Err(self.wrong(field, message))
            }
        }
    }

    /// The linears that the adapter is for. Whether the file holds a tensor for each is seen when they are read.
    fn targets(&self, present: &[Module], layers: usize) -> Result<Targets> {
        self.check_targets(present)?;
        let only = match self.json.get("layers_to_transform").unwrap_or(&Value::Null) {
            Value::Null => None,
            Value::Array(list) if list.is_empty() => None,
            Value::Array(list) => Some(list.as_slice()),
            one => Some(std::slice::from_ref(one)),
        };
        let number = |value: &Value| {
            let message = format!("names {value}, which is no layer of a model of {layers}");
            let layer = value.as_u64().filter(|&layer| layer < layers as u64);
            layer.map(|layer| layer as usize).ok_or_else(|| self.wrong("layers_to_transform", message))
        };
        let layer_numbers = only.map(|list| list.iter().map(number).collect::<Result<Vec<_>>>()).transpose()?;
        match self.json.get("layers_pattern").unwrap_or(&Value::Null) {
            Value::Null => {}
            Value::String(name) if name == "layers" => {}
            Value::Array(names) if names.iter().all(|name| name == "layers") => {}
            other => return Err(self.wrong("layers_pattern", format!("is {other}; the layers are called \"layers\""))),
        }
        let targets = self.names("target_modules")?.unwrap_or(Names::All);
        let exclude = self.names("exclude_modules")?;
        let found = Selection { targets, exclude, layers: layer_numbers }.in_model(layers);
        if found.is_empty() {
            return Err(self.wrong("target_modules", format!("means no linear of a model of {layers} layers")));
        }
        Ok(found)
    }

    /// Modules by a list of names or by a pattern.
    fn names(&self, field: &str) -> Result<Option<Names>> {
        match self.json.get(field).unwrap_or(&Value::Null) {
            Value::Null => Ok(None),
            Value::Array(list) if list.is_empty() => Ok(None),
            Value::String(text) if text == "all-linear" => Ok(Some(Names::All)),
            Value::String(text) => {
                let wrong = |e| self.wrong(field, format!("is no regular expression: {e}"));
                Names::pattern(text).map(Some).map_err(wrong)
            }
            Value::Array(list) => {
                let name = |value: &Value| {
                    let message = format!("holds {value}, expected the name of a module");
                    value.as_str().map(str::to_owned).ok_or_else(|| self.wrong(field, message))
                };
                list.iter().map(name).collect::<Result<_>>().map(|names| Some(Names::Ends(names)))
            }
            other => Err(self.wrong(field, format!("is {other}, expected a list of module names or a pattern"))),
        }
    }

    /// A list must name the modules whose tensors there are; a string is a pattern, "all-linear" included.
    fn check_targets(&self, present: &[Module]) -> Result<()> {
        let field = "target_modules";
        let excludes = self.names("exclude_modules")?.is_some();
        match self.json.get(field) {
            Some(Value::String(_)) => {}
            Some(Value::Array(names)) => {
                for name in names {
                    let Some((_, module)) = name.as_str().and_then(targets::parse) else {
                        let known = Module::ALL.map(Module::name).join(", ");
                        return Err(self.wrong(field, format!("names {name}; irori adapts {known}")));
                    };
                    if !excludes && !present.contains(&module) {
                        return Err(self.wrong(field, format!("names {name}, of which {WEIGHTS} holds no tensor")));
                    }
                }
            }
            other => {
                let found = other.unwrap_or(&Value::Null);
                return Err(self.wrong(field, format!("is {found}, expected a list of module names or a pattern")));
            }
        }
        if present.is_empty() {
            return Err(self.wrong(field, format!("matches nothing: {WEIGHTS} holds no LoRA tensor of a linear layer")));
        }
        Ok(())
    }
}
