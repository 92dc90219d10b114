//! Where models go: what a [`super::source`] reads, a sink writes, tensor by tensor in the order of the
//! [catalogue](super::catalogue). A sink knows how its format says a thing; who writes into it does not.
//!
//! To add a format: implement [`WeightSink`] (what there is of a model comes in these four calls) and open it beside
//! [`HfSink`] where a command makes its output.

mod bnb;
mod hf;

use super::catalogue::ModelTensor;
use crate::{
    Error, Result,
    data::chat::MORE_TEMPLATES,
    files::{self, stand_in},
    quant::nf4::Nf4,
    tensor::{DType, Tensor},
};
pub use hf::{HfOptions, HfSink};
pub(super) use hf::{INDEX, SINGLE};
use std::{fs, path::Path};

/// A model being written: its files first, then its tensors in the order of the catalogue. Dropped before
/// [`WeightSink::commit`], it leaves nothing.
pub trait WeightSink {
    /// Takes the next tensor of the catalogue.
    ///
    /// # Errors
    /// If the disk is full or fails; so with every method here.
    fn tensor(&mut self, t: &ModelTensor, data: &Tensor) -> Result<()>;

    /// Takes the next tensor of the catalogue quantised; it was of type `original` before.
    fn nf4(&mut self, t: &ModelTensor, data: &Nf4, original: DType) -> Result<()>;

    /// Takes a file that belongs to the model beside its weights, by its name in a Hugging Face directory: config.json, the
    /// tokenizer's.
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()>;

    /// Ends the model: it is whole and durable.
    fn commit(self: Box<Self>) -> Result<()>;
}

/// Is given the linears of a model as they were quantised while it was loaded, in the order of the catalogue.
pub trait PackedSink {
    /// Takes the linear `path` ("model.layers.0.self_attn.q_proj"): packed U8 [n·k/2], and absmax F32 [n·k/64] as bytes.
    /// A failure is the sink's to keep: it does not matter for what is loaded.
    fn keep(&mut self, path: &str, packed: &[u8], absmax: &[u8]);
}

/// Gives the sink the tokenizer, template and generation files of a model directory: everything that is text except
/// config.json, the index of weights and adapters.
///
/// # Errors
/// If a file cannot be read or written.
pub fn copy_text_files(sink: &mut dyn WeightSink, from: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
        let path = entry.map_err(Error::io("read", from))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        let text = [".json", ".jinja", ".txt", ".model"].iter().any(|end| name.ends_with(end));
        let of_its_own = name == "config.json" || name.ends_with(".index.json") || name.starts_with("adapter_");
        if text && !of_its_own && !path.is_dir() {
            copy_file(sink, name, &path)?;
        }
    }
    copy_more_templates(sink, from)
}

/// Gives the sink the named chat templates of a model directory.
///
/// # Errors
/// If a file cannot be read or written.
pub fn copy_more_templates(sink: &mut dyn WeightSink, from: &Path) -> Result<()> {
    let folder = from.join(MORE_TEMPLATES);
    if !folder.is_dir() {
        return Ok(());
    }
    let entries = fs::read_dir(&folder).map_err(Error::io("read", &folder))?;
    let paths = entries.map(|entry| entry.map(|e| e.path()).map_err(Error::io("read", &folder)));
    let mut paths: Vec<_> = paths.collect::<Result<_>>()?;
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "jinja")) {
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            copy_file(sink, &format!("{MORE_TEMPLATES}/{name}"), path)?;
        }
    }
    Ok(())
}

/// Gives the sink the file `path` as `name`.
///
/// # Errors
/// If it cannot be read or written, or something else stands in its place ([`stand_in`]).
pub fn copy_file(sink: &mut dyn WeightSink, name: &str, path: &Path) -> Result<()> {
    let bytes = fs::read(path).map_err(|e| stand_in::check(path).err().unwrap_or(Error::io("read", path)(e)))?;
    if !bytes.is_empty() {
        stand_in::check(path)?;
    }
    sink.file(name, &bytes)
}

/// Gives the sink a file of pretty JSON.
///
/// # Errors
/// If it cannot be written.
pub fn json_file(sink: &mut dyn WeightSink, name: &str, value: &serde_json::Value) -> Result<()> {
    sink.file(name, &files::json(value)?)
}
