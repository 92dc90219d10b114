//! A packed cache being written while the checkpoint is loaded.

use super::{Kept, Linear, SOURCE, absmax_name, packed_name};
use crate::{
    Error, Result,
    files::{Disk, Existing, StreamedFile},
    model::{safetensors::write::Header, sink::PackedSink},
    tensor::DType,
};
use std::{
    iter::Peekable,
    path::{Path, PathBuf},
    vec,
};

/// The tensors begin at a multiple of this many bytes.
const ALIGNMENT: usize = 64;

/// Takes the linears in their order. What goes wrong is kept for the end, since the run does not depend on it.
pub(super) struct Writer<'d> {
    /// Or why it cannot be finished.
    file: Result<StreamedFile<'d>>,
    path: PathBuf,
    missing: Peekable<vec::IntoIter<Linear>>,
    identity: String,
    /// Of the whole file.
    bytes: u64,
}

impl<'d> Writer<'d> {
    /// Begins the file.
    pub fn create(disk: &'d dyn Disk, path: &Path, identity: String, linears: Vec<Linear>) -> Self {
        let begun = header(&identity, &linears).and_then(|header| {
            let front = header.aligned(ALIGNMENT);
            let mut file = StreamedFile::create(disk, path, Existing::Replace)?;
            file.write(&front)?;
            Ok((file, (front.len() + header.end()) as u64))
        });
        let (file, bytes) = match begun {
            Ok((file, bytes)) => (Ok(file), bytes),
            Err(e) => (Err(e), 0),
        };
        Self { file, path: path.into(), missing: linears.into_iter().peekable(), identity, bytes }
    }

    /// Makes the file whole and gives it its name.
    pub fn finish(mut self) -> Result<Kept> {
        let mut file = self.file?;
        if let Some(linear) = self.missing.peek() {
            return Err(Error::internal(format!("the packed cache lacks {}", linear.path)));
        }
        file.write(self.identity.as_bytes())?;
        file.commit()?;
        Ok(Kept::Written(self.path, self.bytes))
    }
}

fn header(identity: &str, linears: &[Linear]) -> Result<Header> {
    let mut header = Header::default();
    for l in linears {
        header.push(&packed_name(&l.path), DType::U8, &[l.packed])?;
        header.push(&absmax_name(&l.path), DType::F32, &[l.absmax / DType::F32.size()])?;
    }
    header.push(SOURCE, DType::U8, &[identity.len()])?;
    Ok(header)
}

impl PackedSink for Writer<'_> {
    fn keep(&mut self, path: &str, packed: &[u8], absmax: &[u8]) {
        let Ok(file) = &mut self.file else { return };
        let given = Linear { path: path.into(), packed: packed.len(), absmax: absmax.len() };
        let taken = match self.missing.next() {
            Some(expected) if expected == given => file.write(packed).and_then(|()| file.write(absmax)),
            expected => Err(Error::internal(format!("{given:?} came where the packed cache expected {expected:?}"))),
        };
        if let Err(e) = taken {
            self.file = Err(e);
        }
    }
}
