//! The file operations of checkpoints and results. A trait, so that tests can let each single one fail, or let the
//! process "die" at it, and look at what is left.

use crate::{Error, Result};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// File operations that either happened durably or failed.
pub trait Disk {
    /// Creates one directory.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; so with every method here.
    fn create_dir(&self, path: &Path) -> Result<()>;

    /// Writes a whole file and syncs it to the device.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()>;

    /// Syncs a directory: its entries are durable.
    fn sync_dir(&self, path: &Path) -> Result<()>;

    /// Renames; replaces a file, not a directory.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a directory and all in it.
    fn remove_dir(&self, path: &Path) -> Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> Result<()>;
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

    fn sync_dir(&self, path: &Path) -> Result<()> {
        File::open(path).and_then(|d| d.sync_all()).map_err(Error::io("sync", path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(Error::io("rename", from))
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        fs::remove_dir_all(path).map_err(Error::io("remove", path))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(Error::io("remove", path))
    }
}

/// A name beside `path` that no other process uses: `path.tmp-PID`.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(format!(".tmp-{}", std::process::id()));
    name.into()
}

/// Writes a file so that `path` is at every instant either what it was or all of `bytes`.
///
/// # Errors
/// Any failure of the disk; the old file is then untouched and no half-written one is left.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<()> {
    let tmp = beside(path);
    let written = disk.write(&tmp, bytes).and_then(|()| disk.rename(&tmp, path));
    if let Err(e) = written {
        let _ = disk.remove_file(&tmp);
        return Err(e);
    }
    disk.sync_dir(parent(path))
}

/// The directory that holds `path`.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}
