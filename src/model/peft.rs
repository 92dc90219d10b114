//! LoRA adapters in PEFT's format: `adapter_config.json` beside `adapter_model.safetensors`.
//!
//! What irori writes, `peft.PeftModel.from_pretrained` loads, and the other way round. The same adapter always becomes the
//! same bytes, because checkpoints are compared by their digests. A foreign adapter is taken only if irori computes all of
//! what it says: every field of its configuration that is set and that irori does not know refuses it by name, and so does
//! every tensor that has no place.

use super::{
    LoraConfig, ModelConfig, Module,
    export::{Element, safetensors_bytes},
    source::safetensors::MappedFile,
};
use crate::{
    Error, Result,
    rng::{Rng, mix64},
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// File name of the configuration.
pub const CONFIG: &str = "adapter_config.json";
/// File name of the weights.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// Largest rank.
pub const MAX_RANK: usize = 256;

/// Fields that say nothing about what the adapter computes once its weights exist.
const HARMLESS: [&str; 13] = [
    "arrow_config",
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
const KNOWN: [&str; 8] =
    ["bias", "init_lora_weights", "lora_alpha", "lora_dropout", "peft_type", "r", "target_modules", "use_rslora"];

/// The content of `adapter_config.json`, ending in a newline. `base` is what `base_model_name_or_path` shall say.
pub fn config_file(lora: &LoraConfig, base: &str) -> Vec<u8> {
    let targets: Vec<&str> = lora.targets.iter().map(|m| m.name()).collect();
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
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": number(lora.alpha),
        "lora_dropout": number(lora.dropout),
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.r,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets,
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

/// The content of `adapter_model.safetensors`: every A [r, k] and B [n, r] as F32, in the order of their names.
///
/// # Errors
/// If `flat` has not as many values as the adapter has parameters.
pub fn weights_file(lora: &LoraConfig, model: &ModelConfig, flat: &[f32]) -> Result<Vec<u8>> {
    if flat.len() != lora.parameters(model) {
        let message = format!("an adapter of {} values, expected {}", flat.len(), lora.parameters(model));
        return Err(Error::failed(message));
    }
    let mut tensors = Vec::new();
    for slot in lora.slots(model) {
        let path = slot.peft_path();
        tensors.push((format!("{path}.lora_A.weight"), vec![slot.r, slot.k], &flat[slot.a_range()]));
        tensors.push((format!("{path}.lora_B.weight"), vec![slot.n, slot.r], &flat[slot.b_range()]));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, shape, values)| (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    safetensors_bytes(tensors.iter().map(|(n, s, b)| (n.as_str(), Element::F32, s.as_slice(), b.as_slice())))
}

/// A fresh adapter: A uniform in ±1/√in (PEFT's Kaiming initialisation with a = √5), B zero. A value depends on the seed,
/// its module and its place only.
pub fn initial(lora: &LoraConfig, model: &ModelConfig, seed: u64) -> Vec<f32> {
    let mut flat = vec![0.0; lora.parameters(model)];
    for slot in lora.slots(model) {
        let purpose = slot.peft_path().bytes().fold(0x10_4A, |h, b| mix64(h ^ u64::from(b)));
        let mut rng = Rng::new(seed, purpose);
        let bound = 1.0 / (slot.k as f32).sqrt();
        for a in &mut flat[slot.a_range()] {
            *a = (2.0 * rng.uniform() - 1.0) * bound;
        }
    }
    flat
}

/// An adapter as read from a directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// Rank, scale, targets.
    pub lora: LoraConfig,
    /// Weights in the order of [`LoraConfig::slots`].
    pub flat: Vec<f32>,
    /// What `base_model_name_or_path` says, if anything.
    pub base: Option<String>,
}

/// Reads the adapter in `dir`, made for `model`.
///
/// # Errors
/// If a file is missing or malformed, asks for something irori does not compute, or has other shapes than the model.
pub fn load(dir: &Path, model: &ModelConfig) -> Result<Adapter> {
    let weights = dir.join(WEIGHTS);
    if !weights.is_file() && dir.join("adapter_model.bin").is_file() {
        return Err(Error::content(dir, "", format!("holds a pickled adapter_model.bin; irori reads {WEIGHTS} only")));
    }
    let file = MappedFile::open(&weights)?;
    let (lora, base) = config_and_base(dir, &file)?;
    let mut flat = vec![0.0; lora.parameters(model)];
    let mut expected = 0;
    for slot in lora.slots(model) {
        let path = slot.peft_path();
        for (part, shape, range) in
            [("lora_A", [slot.r, slot.k], slot.a_range()), ("lora_B", [slot.n, slot.r], slot.b_range())]
        {
            let name = format!("{path}.{part}.weight");
            let tensor = file.floats(&name, &shape)?;
            tensor.floats().read(0, &mut flat[range.clone()]);
            if let Some(i) = flat[range].iter().position(|x| !x.is_finite()) {
                let message = format!("element {i} is not a finite number");
                return Err(Error::content(&weights, format!("tensor `{name}`"), message));
            }
            expected += 1;
        }
    }
    if file.entries().count() != expected {
        let known: std::collections::HashSet<String> = lora.slots(model).iter().map(|s| s.peft_path()).collect();
        let stray = file.entries().map(|(name, _)| name).find(|name| {
            let path = name.strip_suffix(".lora_A.weight").or_else(|| name.strip_suffix(".lora_B.weight"));
            !path.is_some_and(|p| known.contains(p))
        });
        let message = format!("has no place in a model of {} layers with this configuration", model.layers);
        return Err(Error::content(&weights, format!("tensor `{}`", stray.unwrap_or("?")), message));
    }
    Ok(Adapter { lora, flat, base })
}

/// Reads the configuration of the adapter in `dir`. Which modules carry an adapter is taken from the tensors, so that a
/// `target_modules` that is a pattern needs no pattern matching.
///
/// # Errors
/// If a file is missing or malformed or asks for something irori does not compute; the field is named.
pub fn read_config(dir: &Path) -> Result<LoraConfig> {
    Ok(config_and_base(dir, &MappedFile::open(&dir.join(WEIGHTS))?)?.0)
}

fn config_and_base(dir: &Path, weights: &MappedFile) -> Result<(LoraConfig, Option<String>)> {
    let path = dir.join(CONFIG);
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let json: Value =
        serde_json::from_str(&text).map_err(|e| Error::content(&path, "", format!("is not JSON: {e}")))?;
    let fields = Fields { path, json };
    let lora = fields.lora(present(weights))?;
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

    fn lora(&self, present: Vec<Module>) -> Result<LoraConfig> {
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
        self.check_targets(&present)?;
        Ok(LoraConfig { r, alpha, dropout, rslora, targets: present })
    }

    /// A list must name the modules whose tensors there are; a string is a pattern, "all-linear" included.
    fn check_targets(&self, present: &[Module]) -> Result<()> {
        let field = "target_modules";
        match self.json.get(field) {
            Some(Value::String(_)) => {}
            Some(Value::Array(names)) => {
                for name in names {
                    let last = name.as_str().and_then(|n| n.rsplit('.').next());
                    let Some(module) = last.and_then(Module::from_name) else {
                        let known = Module::ALL.map(Module::name).join(", ");
                        return Err(self.wrong(field, format!("names {name}; irori adapts {known}")));
                    };
                    if !present.contains(&module) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn case() -> (LoraConfig, ModelConfig) {
        let targets = vec![Module::QProj, Module::VProj, Module::DownProj];
        let lora = LoraConfig { r: 4, alpha: 8.0, dropout: 0.05, rslora: true, targets };
        (lora, ModelConfig::preset("tiny").expect("a preset"))
    }

    fn saved(edit: impl FnOnce(&mut Value)) -> (tempfile::TempDir, Vec<f32>) {
        let (lora, model) = case();
        let flat: Vec<f32> = initial(&lora, &model, 3).iter().enumerate().map(|(i, a)| a + i as f32 * 1e-6).collect();
        let dir = tempfile::tempdir().expect("a directory");
        let mut config: Value = serde_json::from_slice(&config_file(&lora, "base")).expect("JSON");
        edit(&mut config);
        std::fs::write(dir.path().join(CONFIG), config.to_string()).expect("written");
        std::fs::write(dir.path().join(WEIGHTS), weights_file(&lora, &model, &flat).expect("bytes")).expect("written");
        (dir, flat)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (lora, model) = case();
        for targets in [json!(["q_proj", "v_proj", "down_proj"]), json!("all-linear"), json!(".*(q|v|down)_proj")] {
            let (dir, flat) = saved(|c| c["target_modules"] = targets);
            let adapter = load(dir.path(), &model).expect("loads");
            assert_eq!(adapter, Adapter { lora: lora.clone(), flat, base: Some("base".into()) });
            assert_eq!(read_config(dir.path()).expect("reads"), lora);
        }
        let flat = vec![0.5; lora.parameters(&model)];
        assert_eq!(weights_file(&lora, &model, &flat).expect("a"), weights_file(&lora, &model, &flat).expect("b"));
        assert!(weights_file(&lora, &model, &flat[1..]).is_err());
    }

    #[test]
    fn a_fresh_adapter_changes_nothing_and_depends_on_its_seed() {
        let (lora, model) = case();
        let flat = initial(&lora, &model, 1);
        assert_eq!(flat, initial(&lora, &model, 1));
        assert_ne!(flat, initial(&lora, &model, 2));
        for slot in lora.slots(&model) {
            let (a, bound) = (&flat[slot.a_range()], 1.0 / (slot.k as f32).sqrt());
            assert!(flat[slot.b_range()].iter().all(|&b| b == 0.0));
            assert!(a.iter().all(|x| x.abs() <= bound));
            // Uniform in ±bound has variance bound²/3; of n values it is within 5 standard errors √(4/(5n)) of that.
            let variance = a.iter().map(|x| x * x).sum::<f32>() / a.len() as f32 / (bound * bound / 3.0);
            assert!((variance - 1.0).abs() < 5.0 * (0.8 / a.len() as f32).sqrt(), "{variance}");
        }
    }

    #[test]
    fn what_irori_cannot_honour_is_refused_by_name() {
        let (_, model) = case();
        for (field, value) in [
            ("use_dora", json!(true)),
            ("modules_to_save", json!(["lm_head"])),
            ("rank_pattern", json!({"q_proj": 8})),
            ("alpha_pattern", json!({"q_proj": 8})),
            ("bias", json!("all")),
            ("layers_to_transform", json!([0])),
            ("init_lora_weights", json!("pissa")),
            ("some_future_field", json!(1)),
            ("peft_type", json!("IA3")),
            ("r", json!(0)),
            ("r", json!(257)),
            ("r", json!("sixteen")),
            ("lora_dropout", json!(1.0)),
            ("lora_alpha", json!([1])),
            ("target_modules", json!(["lm_head"])),
            ("target_modules", json!(["o_proj"])),
            ("target_modules", json!(7)),
        ] {
            let (dir, _) = saved(|c| c[field] = value.clone());
            let error = load(dir.path(), &model).expect_err("refused").to_string();
            assert!(error.contains(&format!("`{field}`")) && error.contains(CONFIG), "{field} {value}: {error}");
        }
    }

    #[test]
    fn broken_files_and_other_models_are_errors_that_name_the_tensor() {
        let (_, model) = case();
        let (dir, _) = saved(|_| ());
        let more = ModelConfig { layers: 3, ..model.clone() };
        let error = load(dir.path(), &more).expect_err("a layer is missing").to_string();
        assert!(error.contains("layers.2.self_attn.q_proj.lora_A"), "{error}");
        let fewer = ModelConfig { layers: 1, ..model.clone() };
        let error = load(dir.path(), &fewer).expect_err("a layer too many").to_string();
        assert!(error.contains("layers.1."), "{error}");
        let wider = ModelConfig { hidden: 256, ..model.clone() };
        let error = load(dir.path(), &wider).expect_err("another width").to_string();
        assert!(error.contains("[4, 128]") && error.contains("[4, 256]"), "{error}");
        let path = dir.path().join(WEIGHTS);
        let whole = std::fs::read(&path).expect("bytes");
        for len in (0..whole.len()).step_by(977) {
            std::fs::write(&path, &whole[..len]).expect("written");
            assert!(load(dir.path(), &model).expect_err("cut").to_string().contains(WEIGHTS));
        }
        let (dir, _) = saved(|c| *c = json!([1]));
        assert!(load(dir.path(), &model).is_err());
    }

    /// Adapters that PEFT itself wrote.
    #[test]
    fn adapters_of_peft_load() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
        for name in ["tied", "untied"] {
            let (model, _) = ModelConfig::read(&root.join("models").join(name).join("config.json")).expect("a model");
            let adapter = load(&root.join("adapters").join(name), &model).expect("an adapter");
            assert_eq!((adapter.lora.r, adapter.flat.len()), (8, adapter.lora.parameters(&model)));
            assert!(adapter.flat.iter().any(|&x| x != 0.0));
        }
    }
}
