//! Safetensors files, mapped and checked once: after [`MappedFile::open`] every tensor's place is known to be inside the
//! file. The format's own crate reads and validates the header.

use super::TensorData;
use crate::{Error, Result, backend::DType};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

/// Element type of a tensor in a file, as far as irori knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// A type that weights come in.
    Float(DType),
    /// Bytes.
    U8,
    /// Anything else: legal in the format, of no use here.
    Other,
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Element type.
    pub stored: Stored,
    /// Shape.
    pub shape: Vec<usize>,
    range: Range<usize>,
}

/// A mapped file and its tensors.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
    entries: BTreeMap<String, Entry>,
}

impl MappedFile {
    /// Maps `path` and checks its header.
    ///
    /// # Errors
    /// If it cannot be read, or is not a whole safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: the map is read-only. If another process cuts the file while it is mapped, reading it raises SIGBUS; as
        // with every program that maps its weights, the model must not be written while it is in use.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let parsed = SafeTensors::deserialize(&map)
            .map_err(|e| Error::content(path, "", format!("is not a whole safetensors file: {e}")))?;
        let start = map.as_ptr() as usize;
        let entries = parsed
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let stored = match view.dtype() {
                    Dtype::F32 => Stored::Float(DType::F32),
                    Dtype::BF16 => Stored::Float(DType::Bf16),
                    Dtype::F16 => Stored::Float(DType::F16),
                    Dtype::U8 => Stored::U8,
                    _ => Stored::Other,
                };
                let at = view.data().as_ptr() as usize - start;
                let range = at..at + view.data().len();
                (name, Entry { stored, shape: view.shape().to_vec(), range })
            })
            .collect();
        Ok(Self { path: path.to_path_buf(), map, entries })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and places, in the order of names.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(n, e)| (n.as_str(), e))
    }

    /// The tensor `name`, if the file has it.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Bytes of a tensor.
    pub fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.map[entry.range.clone()]
    }

    /// A tensor of floats of exactly this shape.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<TensorData<'_>> {
        let wrong = |message: String| Error::content(&self.path, format!("tensor `{name}`"), message);
        let entry = self.entry(name).ok_or_else(|| wrong("is missing".into()))?;
        let Stored::Float(dtype) = entry.stored else {
            return Err(wrong("is not of type F32, BF16 or F16".into()));
        };
        if entry.shape != shape {
            return Err(wrong(format!("has shape {:?}, the configuration says {shape:?}", entry.shape)));
        }
        Ok(TensorData { dtype, shape: shape.to_vec(), bytes: Cow::Borrowed(self.bytes(entry)) })
    }

    /// All values of a tensor of any float type and any shape of `len` elements, as f32.
    pub fn values(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let entry = self.entry(name);
        let shape = entry.map_or(vec![len], |e| e.shape.clone());
        let tensor = self.floats(name, &shape)?;
        let found: usize = shape.iter().product();
        if found != len {
            let at = format!("tensor `{name}`");
            return Err(Error::content(&self.path, at, format!("has {found} elements, expected {len}")));
        }
        Ok(tensor.to_f32())
    }

    /// Gives the pages of a tensor back to the system; they are read again from the file if they are needed again.
    pub fn release(&self, name: &str) {
        let Some(entry) = self.entry(name) else { return };
        #[cfg(unix)]
        // SAFETY: a read-only private mapping of a file: dropped pages come back with the same content.
        let _ = unsafe {
            self.map.unchecked_advise_range(
                memmap2::UncheckedAdvice::DontNeed,
                entry.range.start,
                entry.range.end - entry.range.start,
            )
        };
        #[cfg(not(unix))]
        let _ = entry;
    }
}
