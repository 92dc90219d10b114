//! Files too large to be in memory at once.

use super::{Disk, Existing, OpenFile, parent, put, temporary};
use crate::{Error, Result};
use std::{
    io::{BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Bytes gathered before they are given to the system.
const BUFFER: usize = 1 << 20;

/// A file written piece by piece. Nothing of it is durable before [`Stream::finish`].
pub struct Stream {
    path: PathBuf,
    file: BufWriter<Box<dyn OpenFile>>,
}

impl Stream {
    pub(super) fn create(disk: &dyn Disk, path: &Path) -> Result<Self> {
        Ok(Self { path: path.into(), file: BufWriter::with_capacity(BUFFER, disk.create(path)?) })
    }

    /// Appends at the present position.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))
    }

    /// Goes on at byte `offset`. What is skipped reads as zeros until it is written.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn seek(&mut self, offset: u64) -> Result<()> {
        self.file.seek(SeekFrom::Start(offset)).map(drop).map_err(Error::io("write", &self.path))
    }

    /// Ends the file: its content is durable, its name not yet.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(Error::io("write", &self.path))?;
        self.file.get_mut().sync().map_err(Error::io("sync", &self.path))
    }
}

/// A file written piece by piece under a temporary name; [`StreamedFile::commit`] gives it its own. Dropped before that, it
/// removes what it wrote.
pub struct StreamedFile<'d> {
    disk: &'d dyn Disk,
    stream: Option<Stream>,
    temporary: PathBuf,
    place: PathBuf,
    existing: Existing,
}

impl<'d> StreamedFile<'d> {
    /// Begins a file that shall stand at `place`.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(disk: &'d dyn Disk, place: &Path, existing: Existing) -> Result<Self> {
        let temporary = temporary(place);
        let stream = Some(Stream::create(disk, &temporary)?);
        Ok(Self { disk, stream, temporary, place: place.into(), existing })
    }

    /// Appends at the present position.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.as_mut().map_or(Ok(()), |s| s.write(bytes))
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// Any failure of the disk, and with [`Existing::Refuse`] a file of that name.
    pub fn commit(mut self) -> Result<()> {
        if let Some(stream) = self.stream.take() {
            let put = stream.finish().and_then(|()| put(self.disk, &self.temporary, &self.place, self.existing));
            if put.is_err() {
                let _ = self.disk.remove_file(&self.temporary);
            }
            put?;
        }
        self.disk.sync_dir(parent(&self.place))
    }
}

impl Drop for StreamedFile<'_> {
    fn drop(&mut self) {
        if self.stream.take().is_some() {
            let _ = self.disk.remove_file(&self.temporary);
        }
    }
}
