//! Adapters in PEFT's format: `adapter_config.json` beside `adapter_model.safetensors`.
//!
//! What irori writes, `peft.PeftModel.from_pretrained` loads, and the other way round. The same adapter always becomes the
//! same bytes, because checkpoints are compared by their digests. A foreign adapter is taken only if irori computes all of
//! what it says: every field of its configuration that is set and that irori does not know refuses it by name, and so does
//! every tensor that has no place.

mod names;
mod record;
#[cfg(test)]
mod tests;

use super::{
    LoraConfig, ModelConfig,
    lora::AdapterSlot,
    safetensors::{
        MappedFile,
        write::{self, Header},
    },
};
use crate::{
    Error, Result,
    files::stand_in,
    rng::{Rng, mix64},
    tensor::{DType, Tensor},
};
pub use record::{config_file, read_config};
use std::{
    ops::Range,
    path::{Path, PathBuf},
};

/// File name of the configuration.
pub const CONFIG: &str = "adapter_config.json";
/// File name of the weights.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// A and B of one linear: the name, shape and place in the flat vector of each.
fn pair(slot: &AdapterSlot) -> [(String, [usize; 2], Range<usize>); 2] {
    let path = slot.peft_path();
    [
        (format!("{path}.lora_A.weight"), [slot.r, slot.k], slot.a_range()),
        (format!("{path}.lora_B.weight"), [slot.n, slot.r], slot.b_range()),
    ]
}

/// The content of `adapter_model.safetensors`: every A [r, k] and B [n, r] as F32, in the order of their names.
///
/// # Errors
/// If `flat` has not as many values as the adapter has parameters.
pub fn weights_file(lora: &LoraConfig, model: &ModelConfig, flat: &[f32]) -> Result<Vec<u8>> {
    if flat.len() != lora.parameters(model) {
        let message = format!("an adapter of {} values, expected {}", flat.len(), lora.parameters(model));
        return Err(Error::internal(message));
    }
    let slots = lora.slots(model);
    let mut tensors: Vec<(String, Tensor)> = slots
        .iter()
        .flat_map(pair)
        .map(|(name, shape, range)| (name, Tensor::new(DType::F32, shape, bytemuck::cast_slice(&flat[range]))))
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    write::file(Header::of_torch(), tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))
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

/// The first folder in `dir` that holds an adapter: PEFT saves one that has a name into a folder of that name.
fn named_adapter(dir: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found.into_iter().find(|path| path.join(WEIGHTS).is_file())
}

/// An adapter's files, looked at but not read.
struct Found {
    lora: LoraConfig,
    base: Option<String>,
    file: MappedFile,
    /// Name, shape and place in the flat vector of each tensor.
    tensors: Vec<(String, [usize; 2], Range<usize>)>,
}

impl Found {
    fn open(dir: &Path, model: &ModelConfig) -> Result<Self> {
        let weights = dir.join(WEIGHTS);
        if !stand_in::exists(&weights) && dir.join("adapter_model.bin").is_file() {
            let message = format!("holds a pickled adapter_model.bin; irori reads {WEIGHTS} only");
            return Err(Error::content(dir, "", message));
        }
        if !stand_in::exists(&weights)
            && let Some(named) = named_adapter(dir)
        {
            let message = format!("holds no {WEIGHTS}, and its folder {} does: name that one", named.display());
            return Err(Error::content(dir, "", message));
        }
        let file = MappedFile::open(&weights)?;
        let (lora, base) = record::config_and_base(dir, &file, model.layers)?;
        let mut names = names::by_peft(&file)?;
        let mut tensors = Vec::new();
        for (name, shape, range) in lora.slots(model).iter().flat_map(pair) {
            let name = names.remove(&name).unwrap_or(name);
            file.unread_floats(&name, &shape)?;
            tensors.push((name, shape, range));
        }
        if let Some(stray) = names.values().next() {
            let message = format!("has no place in a model of {} layers with this configuration", model.layers);
            return Err(file.wrong(stray, message));
        }
        Ok(Self { lora, base, file, tensors })
    }

    fn read(&self, model: &ModelConfig) -> Result<Vec<f32>> {
        let mut flat = vec![0.0; self.lora.parameters(model)];
        for (name, shape, range) in &self.tensors {
            self.file.floats(name, shape)?.floats()?.read(0, &mut flat[range.clone()]);
        }
        Ok(flat)
    }
}

/// Reads the adapter in `dir`, made for `model`.
///
/// # Errors
/// If a file is missing or malformed, asks for something irori does not compute, or has other shapes than the model.
pub fn load(dir: &Path, model: &ModelConfig) -> Result<Adapter> {
    let found = Found::open(dir, model)?;
    let flat = found.read(model)?;
    Ok(Adapter { lora: found.lora, flat, base: found.base })
}

/// Rank, scale and targets of the adapter in `dir`, made for `model`: everything but the values is checked, and takes no
/// time and no memory to speak of.
///
/// # Errors
/// As [`load`], but for values that are not finite.
pub fn shape(dir: &Path, model: &ModelConfig) -> Result<LoraConfig> {
    Found::open(dir, model).map(|found| found.lora)
}

/// The values of the adapter in `dir` that was found to be `lora` (whatever its dropout), in the order of
/// [`LoraConfig::slots`].
///
/// # Errors
/// As [`load`], and if it has become another one since.
pub fn values(dir: &Path, model: &ModelConfig, lora: &LoraConfig) -> Result<Vec<f32>> {
    let found = Found::open(dir, model)?;
    if (LoraConfig { dropout: lora.dropout, ..found.lora.clone() }) != *lora {
        return Err(Error::content(dir.join(CONFIG), "", "has changed since the run began: start it again"));
    }
    found.read(model)
}
