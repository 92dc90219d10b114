//! Where a file that the user named is really written: through links, or into what takes a stream.

use super::{Disk, Existing, parent, write};
use crate::{Error, Result};
use std::{
    fs::{self, FileType},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// As many links as Linux follows.
const MOST_LINKS: usize = 40;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file or nothing, under this path, which is no link.
    File(PathBuf),
    /// A pipe, a terminal or another character device, or an open file of a process (`/dev/stdout`): written to as it is.
    Stream(PathBuf),
    /// The file that standard output goes into.
    Stdout,
    /// The file that standard error goes into.
    Stderr,
}

impl Place {
    /// Follows the links at `path`, also to where nothing is yet.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is a directory, a block device or a socket, or if the links lead in a circle.
    pub fn of(path: &Path) -> Result<Self> {
        let shown = path.display();
        if let Ok(found) = fs::metadata(path) {
            match kind(found.file_type()) {
                Kind::File => {}
                Kind::Stream => return Ok(Self::Stream(path.into())),
                Kind::Other(what) => return Err(Error::usage(format!("{shown} is {what}: name a file"))),
            }
        }
        let mut place = path.to_path_buf();
        for _ in 0..MOST_LINKS {
            let own = |n: u8| fs::canonicalize("/proc/self").ok().map(|process| process.join(format!("fd/{n}")));
            match of_process(&place) {
                // Opened anew it would have a position of its own, and what is printed afterwards would go over the text.
                found @ Some(_) if found == own(1) => return Ok(Self::Stdout),
                found @ Some(_) if found == own(2) => return Ok(Self::Stderr),
                Some(_) => return Ok(Self::Stream(path.into())),
                None => {}
            }
            match fs::read_link(&place) {
                Ok(target) => place = parent(&place).join(target),
                Err(_) => return Ok(Self::File(place)),
            }
        }
        Err(Error::usage(format!("{shown} is a link that leads in a circle: name a file")))
    }
}

/// The path below `/proc` if it is one of the files that a process has open. A rename there would not reach who reads it.
fn of_process(path: &Path) -> Option<PathBuf> {
    let dir = parent(path).canonicalize().ok()?;
    (cfg!(target_os = "linux") && dir.starts_with("/proc")).then(|| dir.join(path.file_name().unwrap_or_default()))
}

enum Kind {
    File,
    Stream,
    Other(&'static str),
}

#[cfg(unix)]
fn kind(of: FileType) -> Kind {
    use std::os::unix::fs::FileTypeExt;
    match of {
        _ if of.is_dir() => Kind::Other("a directory"),
        _ if of.is_block_device() => Kind::Other("a block device"),
        _ if of.is_socket() => Kind::Other("a socket"),
        _ if of.is_file() => Kind::File,
        _ => Kind::Stream,
    }
}

#[cfg(not(unix))]
fn kind(of: FileType) -> Kind {
    if of.is_dir() { Kind::Other("a directory") } else { Kind::File }
}

/// Writes to a place: a file as [`super::write()`] does, the rest as it is, behind what is there already.
///
/// # Errors
/// Any failure of the disk; if it cannot be opened or takes no more.
pub fn write_to(disk: &dyn Disk, place: &Place, bytes: &[u8], existing: Existing) -> Result<()> {
    let stream = |mut to: Box<dyn Write>, path: &Path| {
        to.write_all(bytes).and_then(|()| to.flush()).map_err(Error::io("write", path))
    };
    match place {
        Place::File(path) => write(disk, path, bytes, existing),
        Place::Stream(path) => {
            let file = fs::OpenOptions::new().append(true).open(path).map_err(Error::io("open", path))?;
            stream(Box::new(file), path)
        }
        Place::Stdout => stream(Box::new(io::stdout()), Path::new("/dev/stdout")),
        Place::Stderr => stream(Box::new(io::stderr()), Path::new("/dev/stderr")),
    }
}
