//! The file that a command writes where it was told to.

use crate::{
    Error, Result,
    files::{self, Existing, Place, RealDisk},
};
use std::path::{Path, PathBuf};

/// A place for a file, looked at before long work begins.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    place: Place,
    existing: Existing,
}

impl OutputFile {
    /// The file `path`; what is there is only replaced with `force`. Where `path` is a link, the file that it leads to is
    /// written; a pipe and a character device are written to as they are.
    ///
    /// # Errors
    /// If it is there and `force` is not set, if it is a directory, a block device or a socket, or if its directory does not
    /// exist.
    pub fn new(path: &Path, force: bool) -> Result<Self> {
        let place = Place::of(path)?;
        if let Place::File(file) = &place {
            if !force && file.exists() {
                let message = format!("{} exists: choose another name, or overwrite it with --force", path.display());
                return Err(Error::usage(message));
            }
            let parent = files::parent(file);
            if !parent.is_dir() {
                return Err(Error::usage(format!("{} does not exist: create the directory first", parent.display())));
            }
        }
        let existing = if force { Existing::Replace } else { Existing::Refuse };
        Ok(Self { path: path.to_path_buf(), place, existing })
    }

    /// Writes the file, whole or not at all; of what goes into a pipe or a device, the reader may have a part.
    ///
    /// # Errors
    /// Any failure of the disk, and a file that has come to be there meanwhile.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        files::write_to(&RealDisk, &self.place, bytes, self.existing)
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

    #[cfg(unix)]
    #[test]
    fn a_link_stays_one_and_its_target_is_written() {
        use std::{fs, os::unix::fs::symlink};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("deep")).unwrap();
        symlink("deep/file", at("relative")).unwrap();
        symlink(at("relative"), at("chain")).unwrap();
        for (link, text) in [("relative", "one"), ("chain", "two")] {
            // The first leads to nothing yet; the second to what the first made.
            let refused = OutputFile::new(&at(link), false);
            assert_eq!(refused.is_err(), text == "two");
            OutputFile::new(&at(link), true).unwrap().write(text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(at("deep/file")).unwrap(), text);
            assert!(at(link).is_symlink() && !at("deep/file").is_symlink());
        }
        assert_eq!(fs::read_dir(at("deep")).unwrap().count(), 1, "no temporary file stays");
        symlink("no/file", at("nowhere")).unwrap();
        symlink("circle", at("circle")).unwrap();
        symlink("deep", at("directory")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (name, says) in [
            ("nowhere", "does not exist"),
            ("circle", "in a circle"),
            ("directory", "is a directory"),
            ("socket", "is a socket"),
        ] {
            let e = OutputFile::new(&at(name), true).unwrap_err();
            assert!(e.exit_code() == 2 && e.to_string().contains(says), "{e}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_and_a_device_are_written_to() {
        use std::{fs, os::unix::fs::FileTypeExt, process::Command, thread};
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        OutputFile::new(&pipe, false).unwrap().write(b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        let null = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &null).unwrap();
        for path in [Path::new("/dev/null"), &null] {
            OutputFile::new(path, false).unwrap().write(b"nothing").unwrap();
            OutputFile::new(path, true).unwrap().write(b"nothing").unwrap();
        }
        assert!(null.is_symlink() && fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
    }

    /// What standard output is directed into gets the text, behind what is there.
    #[cfg(target_os = "linux")]
    #[test]
    fn an_open_file_of_the_process_is_written_to() {
        use std::{fs, os::fd::AsRawFd};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "before ").unwrap();
        let open = fs::File::open(&path).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(format!("/dev/fd/{}", open.as_raw_fd()), &link).unwrap();
        OutputFile::new(&link, false).unwrap().write(b"after").unwrap();
        let mut open = open;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut open, &mut text).unwrap();
        assert_eq!(text, "before after");
    }
}
