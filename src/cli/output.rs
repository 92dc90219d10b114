//! The file that a command writes where it was told to.

use crate::{
    Error, Result,
    files::{self, Existing, RealDisk},
};
use std::path::{Path, PathBuf};

/// A place for a file, looked at before long work begins.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    existing: Existing,
}

impl OutputFile {
    /// The file `path`; what is there is only replaced with `force`.
    ///
    /// # Errors
    /// If it is there and `force` is not set, if it is a directory, or if its directory does not exist.
    pub fn new(path: &Path, force: bool) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::usage(format!("{} is a directory: name a file", path.display())));
        }
        if !force && path.exists() {
            let message = format!("{} exists: choose another name, or overwrite it with --force", path.display());
            return Err(Error::usage(message));
        }
        let parent = files::parent(path);
        if !parent.is_dir() {
            return Err(Error::usage(format!("{} does not exist: create the directory first", parent.display())));
        }
        let existing = if force { Existing::Replace } else { Existing::Refuse };
        Ok(Self { path: path.to_path_buf(), existing })
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// Any failure of the disk, and a file that has come to be there meanwhile.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        files::write(&RealDisk, &self.path, bytes, self.existing)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten_without_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        OutputFile::new(&path, false).unwrap().write(b"one").unwrap();
        let again = OutputFile::new(&path, false).unwrap_err();
        assert!(again.to_string().contains("--force") && again.exit_code() == 2, "{again}");
        OutputFile::new(&path, true).unwrap().write(b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
        assert!(OutputFile::new(dir.path(), true).unwrap_err().to_string().contains("is a directory"));
        let nowhere = dir.path().join("no/r.json");
        assert!(OutputFile::new(&nowhere, false).unwrap_err().to_string().contains("does not exist"));
        // A file that appears while the work is done is not overwritten either.
        let late = dir.path().join("late.json");
        let output = OutputFile::new(&late, false).unwrap();
        std::fs::write(&late, "somebody's").unwrap();
        assert!(output.write(b"mine").is_err());
        assert_eq!(std::fs::read(&late).unwrap(), b"somebody's");
    }
}
