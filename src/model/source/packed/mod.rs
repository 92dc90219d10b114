//! The packed cache: the linears of a dense checkpoint as irori quantised them, kept beside it so that the next start reads
//! a quarter of the bytes and quantises nothing. The weights are the same, bit for bit.
//!
//! One safetensors file, [`FILE`], in the model's directory. `{path}.packed` U8 [n·k/2] and `{path}.absmax` F32 [n·k/64] for
//! every linear that is quantised, in the order of the catalogue, then tensor `source` (U8) with the checkpoint's fingerprint: a cache of other
//! weights is not used. A file of this name is whole.

mod read;
#[cfg(test)]
mod tests;
mod write;

use super::WeightSource;
use crate::{
    Error, Result,
    files::{Disk, RealDisk},
    model::{catalogue::tensors, safetensors::MappedFile, sink::PackedSink},
    quant::nf4,
};
use read::Reader;
use std::path::{Path, PathBuf};
use write::Writer;

/// Name of the cache in the model's directory.
pub const FILE: &str = "irori-nf4.safetensors";

/// Names the layout of the file; another version of it is another text.
/// Caches of the first version were quantised out of weights that nothing had looked through for NaN.
const FORMAT: &str = "irori packed NF4 2, ";

/// The cache of a dense checkpoint: it is read where it is whole and of these weights, and written while they are loaded where
/// it is not.
pub struct Cache<'a>(State<'a>);

enum State<'a> {
    Read(Reader<'a>),
    Write { source: &'a dyn WeightSource, writer: Box<Writer<'a>> },
}

/// What became of a cache that was to be written.
#[derive(Debug)]
pub enum Kept {
    /// It was there already.
    Read,
    /// It is there now: its path and bytes.
    Written(PathBuf, u64),
    /// It could not be written, which does not matter for the run.
    Not(Error),
}

impl<'a> Cache<'a> {
    /// The cache of `source` in `dir`.
    ///
    /// # Errors
    /// If the checkpoint cannot be read. A cache that cannot be is no error: see [`Cache::finish`].
    pub fn open(source: &'a dyn WeightSource, dir: &Path) -> Result<Self> {
        Self::open_on(&RealDisk, source, dir)
    }

    fn open_on(disk: &'a dyn Disk, source: &'a dyn WeightSource, dir: &Path) -> Result<Self> {
        let identity = format!("{FORMAT}{}", source.fingerprint()?);
        let path = dir.join(FILE);
        let linears = linears(source);
        Ok(Self(match MappedFile::open(&path) {
            Ok(file) if holds(&file, &identity, &linears) => State::Read(Reader::new(source, file)),
            _ => State::Write { source, writer: Box::new(Writer::create(disk, &path, identity, linears)) },
        }))
    }

    /// What to load from, and what to give the linears to as they are quantised.
    pub fn parts(&mut self) -> (&dyn WeightSource, Option<&mut dyn PackedSink>) {
        match &mut self.0 {
            State::Read(reader) => (reader, None),
            State::Write { source, writer } => (*source, Some(writer.as_mut())),
        }
    }

    /// Ends the cache once everything is loaded.
    pub fn finish(self) -> Kept {
        match self.0 {
            State::Read(_) => Kept::Read,
            State::Write { writer, .. } => writer.finish().unwrap_or_else(Kept::Not),
        }
    }
}

/// A linear's place in the cache.
#[derive(Debug, PartialEq, Eq)]
struct Linear {
    path: String,
    /// Bytes.
    packed: usize,
    /// Bytes.
    absmax: usize,
}

/// Every linear of the layers that is quantised, in the order in which they are loaded.
fn linears(source: &dyn WeightSource) -> Vec<Linear> {
    let all = tensors(source.config());
    let linears = all
        .iter()
        .filter(|t| !source.stays_dense(t.path()))
        .filter_map(|t| t.linear().map(|(n, k)| (t.path().to_owned(), n * k)));
    linears.map(|(path, len)| Linear { path, packed: len / 2, absmax: len / nf4::BLOCK * 4 }).collect()
}

/// Name of the packed values of the linear `path`.
fn packed_name(path: &str) -> String {
    format!("{path}.packed")
}

/// Name of their absmax.
fn absmax_name(path: &str) -> String {
    format!("{path}.absmax")
}

/// Name of the tensor that says of which checkpoint the cache is.
const SOURCE: &str = "source";

/// Whether the file is a whole cache of the checkpoint with this identity.
fn holds(file: &MappedFile, identity: &str, linears: &[Linear]) -> bool {
    let len = |name: String| file.entry(&name).map(|e| file.bytes(e).len());
    file.entry(SOURCE).is_some_and(|e| file.bytes(e) == identity.as_bytes())
        && linears
            .iter()
            .all(|l| len(packed_name(&l.path)) == Some(l.packed) && len(absmax_name(&l.path)) == Some(l.absmax))
}
