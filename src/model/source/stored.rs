//! What a checkpoint's files hold, against what its configuration says: which linears are quantised and which stay dense, and
//! that every tensor has a place.

use super::ModelConfig;
use crate::{
    Result,
    model::{
        catalogue::{EMBEDDING, HEAD, Role, tensors},
        config::Quantization,
        safetensors::{Entry, MappedFile},
    },
    quant::state,
    tensor::{DType, Tensor},
};
use rayon::prelude::*;
use std::collections::BTreeSet;

/// Records that bitsandbytes puts beside a packed weight, behind its name.
const RECORDS: [&str; 5] =
    [state::ABSMAX, state::QUANT_MAP, state::NESTED_ABSMAX, state::NESTED_QUANT_MAP, state::QUANT_STATE];

/// Endings of tensors that every reader passes over: they are computed from the configuration.
const COMPUTED: [&str; 3] = ["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached"];

/// What stands in the names of an adapter's tensors.
const OF_ADAPTERS: [&str; 4] = [".lora_", "lora_magnitude_vector", ".base_layer.", ".modules_to_save."];

/// How the linears are stored.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Paths of linears, and of the head, that are packed.
    packed: BTreeSet<String>,
    /// Paths of linears of layers that no base in 4 bits quantises.
    dense: BTreeSet<String>,
    /// Where files and configuration do not say the same.
    remarks: Vec<String>,
}

impl Stored {
    /// What `entry` says of the model's linears.
    ///
    /// # Errors
    /// As [`Quantization::skips`].
    pub fn new<'a>(
        config: &ModelConfig,
        quantization: Option<&Quantization>,
        entry: impl Fn(&str) -> Option<&'a Entry>,
    ) -> Result<Self, String> {
        let mut stored = Self::default();
        let Some(quantization) = quantization else { return Ok(stored) };
        let matrices = || tensors(config).into_iter().filter(|t| matches!(t.role, Role::Linear(..) | Role::Head));
        let is_packed = |name: &str| {
            let record = format!("{name}.{}", state::QUANT_STATE);
            entry(name).is_some_and(|e| e.dtype == Some(DType::U8)) || entry(&record).is_some()
        };
        stored.packed = matrices().filter(|t| is_packed(&t.name)).map(|t| t.path().to_owned()).collect();
        let linears = || matrices().filter(|t| t.linear().is_some()).map(|t| t.path().to_owned());
        let mut excepted = BTreeSet::new();
        for t in matrices() {
            if quantization.skips(t.path())? {
                excepted.insert(t.path().to_owned());
            }
        }
        if stored.packed.is_empty() {
            // A dense model whose configuration says how it is to be quantised.
            stored.dense = linears().filter(|path| excepted.contains(path)).collect();
            stored.remarks.push(
                "config.json says that the linears are in 4 bits (field `quantization_config`), and the files hold them all \
                 dense: they are taken as a dense model's, without quantising those of `llm_int8_skip_modules`"
                    .into(),
            );
            return Ok(stored);
        }
        stored.dense = linears().filter(|path| !stored.packed.contains(path)).collect();
        let unlisted: Vec<&String> = stored.dense.difference(&excepted).collect();
        let listed: Vec<&String> = stored.packed.intersection(&excepted).collect();
        let mut say = |paths: &[&String], held: &str, said: &str| {
            if let [first, rest @ ..] = paths {
                let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
                stored.remarks.push(format!(
                    "the files hold {first}{more} {held} although `llm_int8_skip_modules` in config.json {said}: taken as \
                     stored"
                ));
            }
        };
        say(&unlisted, "dense", "does not name it");
        say(&listed, "in 4 bits", "names it");
        Ok(stored)
    }

    pub fn is_packed(&self, path: &str) -> bool {
        self.packed.contains(path)
    }

    pub fn stays_dense(&self, path: &str) -> bool {
        self.dense.contains(path)
    }

    /// Paths of linears of layers that stay dense, in order.
    pub fn dense(&self) -> impl Iterator<Item = &str> {
        self.dense.iter().map(String::as_str)
    }

    pub fn any_packed(&self) -> bool {
        !self.packed.is_empty()
    }

    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Looks for a place for every tensor of `files`. Those outside of the decoder (a value head, a picture encoder) are
    /// returned; a tied model's own head is not looked at.
    ///
    /// # Errors
    /// If one would be part of the decoder, and irori's has no such part.
    pub fn unused<'a>(&self, config: &ModelConfig, files: &'a [MappedFile]) -> Result<Vec<&'a str>> {
        let all = tensors(config);
        let weights: BTreeSet<&str> = all.iter().map(|t| t.name.as_str()).collect();
        let record = |name: &str| {
            RECORDS.iter().any(|end| {
                let weight = name.strip_suffix(end).and_then(|n| n.strip_suffix(".weight."));
                weight.is_some_and(|path| self.is_packed(path))
            })
        };
        let mut unused = Vec::new();
        for file in files {
            for (name, _) in file.entries() {
                let own_head = config.tied && name.strip_prefix(HEAD).is_some_and(|rest| rest.starts_with('.'));
                if weights.contains(name) || record(name) || own_head || COMPUTED.iter().any(|end| name.ends_with(end))
                {
                    continue;
                }
                match misplaced(config, name) {
                    Some(message) => return Err(file.wrong(name, message)),
                    None => unused.push(name),
                }
            }
        }
        Ok(unused)
    }
}

/// Refuses weights with an adapter among them, which often stand under other names too.
///
/// # Errors
/// If there is a tensor of one.
pub(super) fn refuse_adapters(files: &[MappedFile]) -> Result<()> {
    for file in files {
        let of_adapter = |name: &&str| OF_ADAPTERS.iter().any(|part| name.contains(part));
        if let Some(name) = file.entries().map(|(name, _)| name).find(of_adapter) {
            let message = "is of an adapter that was not merged into these weights: save the merged model, or give the base \
                           model and its adapter apart";
            return Err(file.wrong(name, message));
        }
    }
    Ok(())
}

/// What is wrong with a tensor that has no place; nothing if it is outside of the decoder.
fn misplaced(config: &ModelConfig, name: &str) -> Option<String> {
    let below = name.strip_prefix("model.").or_else(|| name.strip_prefix(HEAD))?;
    let layer = below.strip_prefix("layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    Some(match layer {
        Some(layer) if layer >= config.layers => {
            format!(
                "is of layer {layer} (counted from 0), and config.json says `num_hidden_layers` = {}",
                config.layers
            )
        }
        _ if name.ends_with(".bias") => "is a bias; irori's Qwen3 has none".into(),
        _ => "is no part of the Qwen3 that config.json describes, as irori computes it".into(),
    })
}

/// Refuses a head that a tied model has beside its embedding, if it is another matrix. transformers 4 computes with the
/// embedding then, and transformers 5 with the head (`tie_weights`).
///
/// # Errors
/// If it is.
pub(super) fn refuse_other_head(embedding: &Tensor, file: &MappedFile, entry: &Entry) -> Result<()> {
    const PIECE: usize = 1 << 20;
    let same = if entry.dtype == Some(embedding.dtype) && entry.shape == embedding.shape {
        embedding.bytes.par_chunks(PIECE).eq(file.bytes(entry).par_chunks(PIECE))
    } else {
        let name = format!("{HEAD}.weight");
        entry.shape == embedding.shape
            && file
                .tensor(&name, &entry.shape)
                .is_ok_and(|t| matches!((t.to_f32(), embedding.to_f32()), (Ok(a), Ok(b)) if a == b))
    };
    if same {
        return Ok(());
    }
    let message = format!(
        "is not {EMBEDDING}.weight, and config.json ties the two (field `tie_word_embeddings`): transformers 4 takes the \
         embedding as the head, transformers 5 this. Set the field to false to have this, or take the tensor out"
    );
    Err(file.wrong(&format!("{HEAD}.weight"), message))
}

#[cfg(test)]
mod tests;
