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

/// Reads the adapter in `dir`, made for `model`.
///
/// # Errors
/// If a file is missing or malformed, asks for something irori does not compute, or has other shapes than the model.
pub fn load(dir: &Path, model: &ModelConfig) -> Result<Adapter> {
    let weights = dir.join(WEIGHTS);
    if !stand_in::exists(&weights) && dir.join("adapter_model.bin").is_file() {
        return Err(Error::content(dir, "", format!("holds a pickled adapter_model.bin; irori reads {WEIGHTS} only")));
    }
    if !stand_in::exists(&weights)
        && let Some(named) = named_adapter(dir)
    {
        let message = format!("holds no {WEIGHTS}, and its folder {} does: name that one", named.display());
        return Err(Error::content(dir, "", message));
    }
    let file = MappedFile::open(&weights)?;
    let (lora, base) = record::config_and_base(dir, &file, model.layers)?;
    let mut flat = vec![0.0; lora.parameters(model)];
    let slots = lora.slots(model);
    let mut names = names::by_peft(&file)?;
    for (name, shape, range) in slots.iter().flat_map(pair) {
        let name = names.remove(&name).unwrap_or(name);
        file.floats(&name, &shape)?.floats()?.read(0, &mut flat[range]);
    }
    if let Some(stray) = names.values().next() {
        let message = format!("has no place in a model of {} layers with this configuration", model.layers);
        return Err(file.wrong(stray, message));
    }
    Ok(Adapter { lora, flat, base })
}
