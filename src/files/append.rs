//! A log: the one kind of file that is not written whole.

use crate::{Error, Result};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// A file that grows by records. Each is handed to the system in one piece, so a killed process leaves at most one that is
/// cut off, the last; it is durable only after [`Appender::sync`]. Who reads the file leaves out a record without its end.
#[derive(Debug)]
pub struct Appender {
    path: PathBuf,
    file: File,
}

impl Appender {
    /// Opens a file that is there already (made by [`super::write()`]) at its end.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io("open", path))?;
        Ok(Self { path: path.into(), file })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, record: &[u8]) -> Result<()> {
        self.file.write_all(record).map_err(Error::io("write", &self.path))
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// If the device fails.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }
}
