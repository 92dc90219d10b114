//! One error type for the library. Errors carry what a user needs to act: the file, line or field at fault and the
//! values that did not fit. The binary prints the message on one `error:` line and each cause on a line below it.

use std::path::{Path, PathBuf};

/// The result of everything in irori that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. [`Error::exit_code`] says how the process ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or a configuration file asks for something impossible or contradictory.
    #[error("{0}")]
    Usage(String),
    /// The work itself failed; the text names what and why.
    #[error("{0}")]
    Failed(String),
    /// The operating system refused an operation on a path.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, an infinitive: "read", "create", "rename".
        action: &'static str,
        /// The path it was tried on.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A file's content is not what its format says. `at` is a line, field or tensor, empty for the whole file.
    #[error("{}{}{at}: {message}", path.display(), if at.is_empty() { "" } else { ": " })]
    Content {
        /// The file.
        path: PathBuf,
        /// Where in it: "line 7, field `output`", "tensor `model.norm.weight`".
        at: String,
        /// Expected and found.
        message: String,
    },
    /// An outer description of what was being done, with the cause below it.
    #[error("{context}")]
    Context {
        /// What was being done.
        context: String,
        /// Why it failed.
        #[source]
        source: Box<Error>,
    },
}

impl Error {
    /// A command-line or configuration error (exit code 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// A failure of the work (exit code 1).
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// An I/O failure on `path`; use as `.map_err(Error::io("read", path))`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// Bad content of the file `path` at `at` (a line, field or tensor; may be empty).
    pub fn content(path: impl AsRef<Path>, at: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Content { path: path.as_ref().to_path_buf(), at: at.into(), message: message.into() }
    }

    /// Wraps the error in a description of what was being done.
    #[must_use]
    pub fn context(self, context: impl Into<String>) -> Self {
        Self::Context { context: context.into(), source: Box::new(self) }
    }

    /// 2 if the command line or a configuration is wrong, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Context { source, .. } => source.exit_code(),
            _ => 1,
        }
    }
}

/// Adds a description to the error of a result.
pub trait ResultExt<T> {
    /// Like [`Error::context`], evaluated only on failure.
    fn with_context(self, context: impl FnOnce() -> String) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn with_context(self, context: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| e.context(context()))
    }
}
