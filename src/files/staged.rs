//! Directories of several files that appear as one.

use super::{Disk, Existing, Stream, create_dirs_above, parent, temporary};
use crate::{Error, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A directory being made. Its files are written and synced in a directory with a [`temporary`] name; [`Self::commit`] puts
/// that in its place with one rename. Dropped before that, it removes what it wrote.
///
/// A directory that is to be replaced is moved aside first, because a rename does not replace directories: a kill between the
/// two leaves it as `NAME.old.tmp-PID` and nothing under its name.
///
/// Where the place is an empty directory already, that directory stays (it may be a mounted disk, and its neighbours another
/// one): the files are staged inside it and moved out one by one, the one that makes the directory valid last.
pub struct StagedDir<'d> {
    disk: &'d dyn Disk,
    staging: PathBuf,
    place: PathBuf,
    existing: Existing,
    /// Files so far.
    names: Vec<String>,
    /// Folders that they lie in.
    folders: Vec<String>,
    committed: bool,
}

impl<'d> StagedDir<'d> {
    /// Begins a directory that shall stand at `place`, making those above it where they are missing.
    ///
    /// # Errors
    /// - [`Error::Usage`] with [`Existing::Refuse`] if there is a file, or a directory that is not empty;
    /// - any failure of the disk.
    pub fn begin(disk: &'d dyn Disk, place: &Path, existing: Existing) -> Result<Self> {
        let staging = if existing == Existing::Refuse && is_there(place)? {
            place.join(temporary(Path::new("irori")))
        } else {
            create_dirs_above(place)?;
            temporary(place)
        };
        // Of an earlier process with this one's number.
        if staging.exists() {
            disk.remove_dir(&staging)?;
        }
        disk.create_dir(&staging)?;
        Ok(Self {
            disk,
            staging,
            place: place.into(),
            existing,
            names: Vec::new(),
            folders: Vec::new(),
            committed: false,
        })
    }

    /// Writes a file of the directory, or as `FOLDER/NAME` of a folder in it.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        if let Some((folder, _)) = name.split_once('/')
            && !self.folders.iter().any(|made| made == folder)
        {
            self.disk.create_dir(&self.staging.join(folder))?;
            self.folders.push(folder.into());
        }
        self.disk.write(&self.staging.join(name), bytes)?;
        self.names.push(name.into());
        Ok(())
    }

    /// Begins a file of the directory to be written in pieces; end it with [`Stream::finish`].
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn stream(&mut self, name: &str) -> Result<Stream> {
        let stream = Stream::create(self.disk, &self.staging.join(name))?;
        self.names.push(name.into());
        Ok(stream)
    }

    /// Gives a file of the directory another name.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(&self.staging.join(from), &self.staging.join(to))?;
        for name in self.names.iter_mut().filter(|n| *n == from) {
            *name = to.into();
        }
        Ok(())
    }

    /// Puts the directory in its place and makes it durable. `last` is the file without which the directory is nothing.
    ///
    /// # Errors
    /// Any failure of the disk. What was at the place is then untouched (or, if only the last sync failed, replaced).
    pub fn commit(mut self, last: &str) -> Result<()> {
        for folder in &self.folders {
            self.disk.sync_dir(&self.staging.join(folder))?;
        }
        self.disk.sync_dir(&self.staging)?;
        if self.staging.parent() == Some(&self.place) {
            self.move_out(last)?;
            self.disk.sync_dir(&self.place)?;
            self.disk.remove_dir(&self.staging)?;
            self.committed = true;
            return Ok(());
        }
        let old = match self.existing {
            Existing::Replace if self.place.exists() => Some(self.swap()?),
            _ => {
                self.disk.rename(&self.staging, &self.place)?;
                None
            }
        };
        self.committed = true;
        self.disk.sync_dir(parent(&self.place))?;
        old.map_or(Ok(()), |old| self.disk.remove_dir(&old))
    }

    /// Puts the directory in the place of another; says where that is now.
    fn swap(&self) -> Result<PathBuf> {
        let old = aside(&self.place);
        self.disk.rename(&self.place, &old)?;
        if let Err(e) = self.disk.rename(&self.staging, &self.place) {
            let _ = self.disk.rename(&old, &self.place);
            return Err(e);
        }
        Ok(old)
    }

    /// All files to the place, or none.
    fn move_out(&mut self, last: &str) -> Result<()> {
        self.names.sort_by_key(|n| n == last);
        let (mut made, mut moved) = (0, 0);
        let mut all = || -> Result<()> {
            for folder in &self.folders {
                self.disk.create_dir(&self.place.join(folder))?;
                made += 1;
            }
            for name in &self.names {
                self.disk.rename_new(&self.staging.join(name), &self.place.join(name))?;
                moved += 1;
            }
            self.folders.iter().try_for_each(|folder| self.disk.sync_dir(&self.place.join(folder)))
        };
        let done = all();
        if done.is_err() {
            for name in &self.names[..moved] {
                let _ = self.disk.remove_file(&self.place.join(name));
            }
            for folder in &self.folders[..made] {
                let _ = self.disk.remove_dir(&self.place.join(folder));
            }
        }
        done
    }
}

impl Drop for StagedDir<'_> {
    fn drop(&mut self) {
        if !self.committed {
            let _ = self.disk.remove_dir(&self.staging);
        }
    }
}

/// Removes a directory and all in it. It loses its name first, so that a kill half-way leaves nothing that looks whole.
///
/// # Errors
/// If it cannot be removed.
pub fn remove_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let old = aside(dir);
    disk.rename(dir, &old).and_then(|()| disk.remove_dir(&old))
}

/// Where what is replaced waits for its removal: `NAME.old.tmp-PID`.
pub(super) fn aside(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_os_string();
    name.push(".old");
    temporary(&dir.with_file_name(name))
}

/// False if nothing is there, true if an empty directory is.
fn is_there(place: &Path) -> Result<bool> {
    if place.symlink_metadata().is_err() {
        return Ok(false);
    }
    if !place.is_dir() {
        return Err(Error::usage(format!("{} is a file: name a directory", place.display())));
    }
    match fs::read_dir(place).map_err(Error::io("read", place))?.next() {
        None => Ok(true),
        Some(_) => {
            Err(Error::usage(format!("{} is not empty: choose a new directory, or remove it first", place.display())))
        }
    }
}
