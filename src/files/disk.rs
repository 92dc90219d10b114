//! The operations that writing is made of.

use crate::{Error, Result};
use std::{
    fs::{self, File},
    io::{self, ErrorKind, Seek, Write},
    path::Path,
};

/// File operations that either happened or failed. [`Disk::write`] and [`OpenFile::sync`] make a file's content durable,
/// [`Disk::sync_dir`] the names in a directory.
pub trait Disk {
    /// Creates one directory.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; so with every method here.
    fn create_dir(&self, path: &Path) -> Result<()>;

    /// Writes a whole file and syncs it to the device.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()>;

    /// Opens a new, empty file to be written in pieces.
    fn create(&self, path: &Path) -> Result<Box<dyn OpenFile>>;

    /// Syncs a directory: its entries are durable.
    fn sync_dir(&self, path: &Path) -> Result<()>;

    /// Renames. Replaces a file; a directory only goes where nothing or an empty directory is.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Renames a file to a name that nothing has.
    fn rename_new(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a directory and all in it.
    fn remove_dir(&self, path: &Path) -> Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> Result<()>;
}

/// A file that is open for writing.
pub trait OpenFile: Write + Seek {
    /// Syncs what was written to the device.
    fn sync(&mut self) -> io::Result<()>;
}

impl OpenFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Syncs a directory's entries.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    // Elsewhere a directory cannot be opened as a file.
    if cfg!(not(unix)) {
        return Ok(());
    }
    match File::open(path).and_then(|d| d.sync_all()) {
        // Some network file systems cannot sync a directory; their server decides when a name is durable.
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// The file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> Result<()> {
        fs::create_dir(path).map_err(Error::io("create", path))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut file = File::create(path).map_err(Error::io("create", path))?;
        file.write_all(bytes).map_err(Error::io("write", path))?;
        file.sync_all().map_err(Error::io("sync", path))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn OpenFile>> {
        Ok(Box::new(File::create(path).map_err(Error::io("create", path))?))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        sync_dir(path).map_err(Error::io("sync", path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(Error::io("rename", from))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        // Rename replaces in silence; a second name for the file does not.
        match fs::hard_link(from, to) {
            Ok(()) => self.remove_file(from),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(Error::io("create", to)(e)),
            // A file system without second names: between the look and the rename lies an instant.
            Err(_) if to.symlink_metadata().is_ok() => Err(Error::io("create", to)(ErrorKind::AlreadyExists.into())),
            Err(_) => self.rename(from, to),
        }
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        fs::remove_dir_all(path).map_err(Error::io("remove", path))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(Error::io("remove", path))
    }
}
