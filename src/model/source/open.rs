//! What the setting `model` may be: a directory, a Hugging Face id (`ID` or `ID@REVISION`) in the local cache, or `synthetic:SIZE[@SEED]`.

use super::{HfDirectory, ModelConfig, Synthetic, WeightSource, cache};
use crate::{Error, Result, error::Setting, files::stand_in};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A model ready to be read.
pub struct Opened {
    /// Its weights.
    pub source: Box<dyn WeightSource>,
    /// Where its tokenizer and templates lie; a synthetic model has none.
    pub dir: Option<PathBuf>,
}

/// Opens the model called `name`. irori never downloads.
///
/// # Errors
/// If there is no such model (the message says where it was looked for), or it is malformed or unsupported.
pub fn open(name: &str) -> Result<Opened> {
    if let Some(size) = name.strip_prefix("synthetic:") {
        return synthetic(size);
    }
    let path =
        cache::locate("model", Path::new(name)).map_err(|e| e.advise([Setting::new("model", "synthetic:tiny")]))?;
    stand_in::check(&path)?;
    if path.is_dir() {
        return directory(path);
    }
    Err(wrong(name, "is a file; give the directory that holds config.json"))
}

/// What is wrong with the name of a model.
fn wrong(name: impl std::fmt::Display, message: impl Into<String>) -> Error {
    Error::setting(Setting::new("model", name), message)
}

/// The name of a base model as an adapter says it, `name` as a user gave it: `ORGANISATION/NAME` and the revision of
/// `ORGANISATION/NAME@REVISION`; a path stays as it is.
pub fn base_name(name: &str) -> (&str, Option<&str>) {
    match name.split_once('@') {
        Some((id, revision)) if !name.starts_with("synthetic:") && !stand_in::exists(Path::new(name)) => {
            (id, Some(revision))
        }
        _ => (name, None),
    }
}

impl Opened {
    /// How the linears are stored, in words.
    ///
    /// # Errors
    /// If config.json cannot be read.
    pub fn stored(&self) -> Result<&'static str> {
        if !self.source.is_quantized() {
            return Ok("dense");
        }
        let double = &self.config_json()?["quantization_config"]["bnb_4bit_use_double_quant"];
        Ok(if double.as_bool() == Some(true) { "NF4 with double quantisation" } else { "NF4" })
    }

    /// config.json as the model's directory holds it; a synthetic model has none and gets one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn config_json(&self) -> Result<Value> {
        let Some(dir) = &self.dir else {
            return Ok(self.source.config().to_json(self.source.dense_dtype().torch()));
        };
        stand_in::read_json(&dir.join("config.json"))
    }
}

fn directory(dir: PathBuf) -> Result<Opened> {
    Ok(Opened { source: Box::new(HfDirectory::open(&dir)?), dir: Some(dir) })
}

fn synthetic(text: &str) -> Result<Opened> {
    let (size, seed) = match text.split_once('@') {
        None => (text, 0),
        Some((size, seed)) => {
            let name = format!("synthetic:{text}");
            let seed = seed.parse().map_err(|_| wrong(name, format!("`{seed}` is not a seed")))?;
            (size, seed)
        }
    };
    let config = ModelConfig::preset(size).ok_or_else(|| {
        let known = crate::model::config::PRESETS.join(", ");
        wrong(format!("synthetic:{text}"), format!("no such size; known are {known}"))
    })?;
    Ok(Opened { source: Box::new(Synthetic::new(size, config, seed)), dir: None })
}
