//! What the setting `model` may be: a directory, a Hugging Face id in the local cache, or `synthetic:SIZE[@SEED]`.

use super::{HfDirectory, ModelConfig, Synthetic, WeightSource};
use crate::{Error, Result, error::Setting};
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
    let path = Path::new(name);
    if path.is_dir() {
        return directory(path.to_path_buf());
    }
    if path.exists() {
        return Err(wrong(name, "is a file; give the directory that holds config.json"));
    }
    let looked = match cached(name) {
        Ok(snapshot) => return directory(snapshot),
        Err(looked) => looked,
    };
    let message = format!(
        "is neither a directory nor in the Hugging Face cache ({looked}); irori does not download: use \
         `huggingface-cli download` or wget"
    );
    Err(wrong(name, message).advise([Setting::new("model", "synthetic:tiny")]))
}

/// What is wrong with the name of a model.
fn wrong(name: impl std::fmt::Display, message: impl Into<String>) -> Error {
    Error::setting(Setting::new("model", name), message)
}

impl Opened {
    /// config.json as the model's directory holds it; a synthetic model has none and gets one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn config_json(&self) -> Result<Value> {
        let Some(dir) = &self.dir else {
            return Ok(self.source.config().to_json(self.source.dense_dtype().torch()));
        };
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        serde_json::from_str(&text).map_err(|e| Error::content(&path, "", format!("is not JSON: {e}")))
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

/// The snapshot of a Hugging Face id, or the place that was searched.
fn cached(id: &str) -> std::result::Result<PathBuf, String> {
    let hub = hub_cache();
    let Some(hub) = hub else { return Err("HF_HOME and HOME are not set".into()) };
    let plain = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && part != ".."
    };
    let parts: Vec<&str> = id.split('/').collect();
    let repository = hub.join(format!("models--{}", parts.join("--")));
    let looked = repository.display().to_string();
    if parts.len() > 2 || !parts.iter().all(|p| plain(p)) {
        return Err(format!("`{id}` is not an id of the form organisation/name"));
    }
    let revision = std::fs::read_to_string(repository.join("refs/main")).map_err(|_| looked.clone())?;
    let snapshot = repository.join("snapshots").join(revision.trim());
    if plain(revision.trim()) && snapshot.is_dir() { Ok(snapshot) } else { Err(looked) }
}

fn hub_cache() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    // Where HOME is not set, Windows has this.
    let home = || variable("HOME").or_else(|| variable("USERPROFILE"));
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HF_HOME").map(|h| h.join("hub")))
        .or_else(|| home().map(|h| h.join(".cache/huggingface/hub")))
}
