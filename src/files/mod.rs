//! Every file that irori writes, so that what stands under a name is whole.
//!
//! | what is written | with | what a kill or a full disk leaves |
//! |---|---|---|
//! | a small file | [`write()`], [`replace`] | the file as it was before, or all of the new one |
//! | a large file, piece by piece | [`StreamedFile`] | the same |
//! | a directory of several files | [`StagedDir`] | nothing under its name, or all of it |
//! | files that belong together | [`write_together()`] | all or some of the old ones or of the new, never of both |
//! | a log | [`Appender`] | whole records, then at most one that is cut off |
//!
//! All but the log write under a [`temporary`] name beside the place, sync, rename, and sync the directory; then the new
//! content is durable. What fails removes its temporary; a killed process leaves it, and its name (`NAME.tmp-PID`) says
//! what it is. The caller says what is to happen where the name is taken already: [`Existing`].
//!
//! Where the user named a link, a pipe or a device, [`Place`] says what is written.
//!
//! What is read and is not what it should be is named by [`stand_in`].
//!
//! The operations are a trait, [`Disk`], so that tests can let each single one fail, or let the process die at it, and look
//! at what is left.

mod append;
mod disk;
#[cfg(test)]
pub(crate) mod faulty;
mod place;
mod staged;
pub mod stand_in;
mod stream;
#[cfg(test)]
mod tests;
mod together;

use crate::{Error, Result};
pub use append::Appender;
pub use disk::{Disk, OpenFile, RealDisk};
pub use place::{Place, write_to};
use serde::Serialize;
pub use staged::{StagedDir, remove_dir};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
pub use stream::{Stream, StreamedFile};
pub use together::write_together;

/// What is to happen with a file or directory that has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays and the write fails.
    Refuse,
    /// It is replaced: a file in one step, a directory in the two of [`StagedDir`].
    Replace,
}

/// What [`temporary`] puts between a name and the number of the process.
const MARK: &str = ".tmp-";

/// The name under which `path` is written until it is whole: `NAME.tmp-PID`, in the same directory.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!("{MARK}{}", std::process::id()));
    path.with_file_name(name)
}

/// NAME, if `name` is one that [`temporary`] gives to something called NAME.
pub fn of_temporary(name: &str) -> Option<&str> {
    let (stem, pid) = name.rsplit_once(MARK)?;
    (!pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit())).then_some(stem)
}

/// The directory that holds `path`.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Writes a file: at every instant `path` is what it was, or all of `bytes`.
///
/// # Errors
/// Any failure of the disk, and with [`Existing::Refuse`] a file of that name. What was there is then untouched and nothing
/// half-written is left.
pub fn write(disk: &dyn Disk, path: &Path, bytes: &[u8], existing: Existing) -> Result<()> {
    let temporary = temporary(path);
    let written = disk.write(&temporary, bytes).and_then(|()| put(disk, &temporary, path, existing));
    if written.is_err() {
        let _ = disk.remove_file(&temporary);
    }
    written?;
    disk.sync_dir(parent(path))
}

/// [`write()`] in the place of what is there, if anything is.
///
/// # Errors
/// Any failure of the disk.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<()> {
    write(disk, path, bytes, Existing::Replace)
}

/// Pretty JSON that ends in a newline, as every JSON file of irori is written.
///
/// # Errors
/// None that a user could cause.
pub fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| Error::internal(format!("writing JSON: {e}")))?;
    text.push(b'\n');
    Ok(text)
}

/// Gives a whole, synced file its name.
fn put(disk: &dyn Disk, temporary: &Path, place: &Path, existing: Existing) -> Result<()> {
    match existing {
        Existing::Replace => disk.rename(temporary, place),
        Existing::Refuse => disk.rename_new(temporary, place),
    }
}

/// Makes a directory and those above it where they are missing, durably.
///
/// # Errors
/// If one cannot be made; the error names `path`.
pub fn create_dirs(path: &Path) -> Result<()> {
    make_dirs(path).map_err(Error::io("create", path))
}

/// Makes the directories above `path`.
fn create_dirs_above(path: &Path) -> Result<()> {
    make_dirs(parent(path)).map_err(Error::io("create", path))
}

fn make_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if dir.exists() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    make_dirs(parent(dir))?;
    match fs::create_dir(dir) {
        Ok(()) => disk::sync_dir(parent(dir)),
        Err(_) if dir.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}
