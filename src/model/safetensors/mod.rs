//! Safetensors files. They are read mapped, and checked once: after [`MappedFile::open`] every tensor's place is known to be
//! inside the file. The format's own crate validates the header. What writes them is in [`mod@write`].

pub mod write;

use crate::{
    Error, Result,
    files::stand_in,
    tensor::{DType, Tensor},
};
use ::safetensors::{Dtype, SafeTensors};
use memmap2::Mmap;
use std::{
    collections::BTreeMap,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

/// Where a tensor lies.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Element type; `None` for one that is legal in the format and of no use here.
    pub dtype: Option<DType>,
    /// Shape.
    pub shape: Vec<usize>,
    /// The type as the header says it.
    stored: Dtype,
    range: Range<usize>,
}

/// What is wrong with a tensor whose element `i` is NaN or infinite.
pub fn not_finite(i: usize, value: f32) -> String {
    format!("element {i} is {value}, not a finite number: the file is damaged, or what wrote it diverged")
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
        // What stands in its place is named where it cannot be used.
        let or = |e: Error| stand_in::check(path).err().unwrap_or(e);
        let file = File::open(path).map_err(|e| or(Error::io("open", path)(e)))?;
        // SAFETY: the map is read-only. If another process cuts the file while it is mapped, reading it raises SIGBUS; as
        // with every program that maps its weights, the model must not be written while it is in use.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| or(Error::io("map", path)(e)))?;
        let parsed = SafeTensors::deserialize(&map)
            .map_err(|e| or(Error::content(path, "", format!("is not a whole safetensors file: {e}"))))?;
        let start = map.as_ptr() as usize;
        let entries = parsed
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let at = view.data().as_ptr() as usize - start;
                let range = at..at + view.data().len();
                let (dtype, shape, stored) =
                    (DType::from_safetensors(view.dtype()), view.shape().to_vec(), view.dtype());
                (name, Entry { dtype, shape, stored, range })
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

    /// The tensor `name`, of exactly this shape.
    ///
    /// # Errors
    /// If it is missing, or of another shape, or of a type that irori does not know.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        let entry = self.entry(name).ok_or_else(|| self.wrong(name, "is missing"))?;
        let dtype = entry.dtype.ok_or_else(|| {
            self.wrong(
                name,
                format!("is of type {:?}, which irori does not read: F32, BF16 or F16, or NF4", entry.stored),
            )
        })?;
        if entry.shape != shape {
            return Err(self.wrong(name, format!("has shape {:?}, expected {shape:?}", entry.shape)));
        }
        Ok(Tensor::new(dtype, shape, self.bytes(entry)))
    }

    /// A tensor of finite floats of exactly this shape. Every weight, scale and adapter that is read comes this way, so
    /// that one place keeps NaN out: quantising would hide it, and results would be made of it.
    ///
    /// # Errors
    /// As [`MappedFile::tensor`], and if it is of another type or an element is NaN or infinite.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        let tensor = self.unread_floats(name, shape)?;
        match tensor.floats()?.first_non_finite() {
            None => Ok(tensor),
            Some((i, value)) => Err(self.wrong(name, not_finite(i, value))),
        }
    }

    /// A tensor of floats of exactly this shape, none of which has been looked at: for checks before anything is read.
    ///
    /// # Errors
    /// As [`MappedFile::tensor`], and if it is of another type.
    pub fn unread_floats(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        let tensor = self.tensor(name, shape)?;
        if tensor.floats().is_err() {
            return Err(self.wrong(name, format!("is not of type F32, BF16 or F16 but {:?}", tensor.dtype)));
        }
        Ok(tensor)
    }

    /// All values of a tensor of any float type and any shape of `len` elements, as f32.
    ///
    /// # Errors
    /// As [`MappedFile::floats`], and if it has another number of elements.
    pub fn values(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let shape = self.entry(name).map_or(vec![len], |e| e.shape.clone());
        let tensor = self.floats(name, &shape)?;
        let found: usize = shape.iter().product();
        if found != len {
            return Err(self.wrong(name, format!("has {found} elements, expected {len}")));
        }
        tensor.to_f32()
    }

    /// What is wrong with a tensor of this file.
    pub fn wrong(&self, name: &str, message: impl Into<String>) -> Error {
        Error::content(&self.path, format!("tensor `{name}`"), message)
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
