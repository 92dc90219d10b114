//! One error type for the library. Errors carry what a user needs to act: the file, line, field or setting at fault and the
//! values that did not fit.
//!
//! A room below the command line speaks of a *setting* by its name in a configuration file (`lora-r`), because it does not
//! know how it was given; [`crate::cli`] shows the same error with the flag (`--lora-r`). The binary prints the message on
//! one `error:` line and each cause on a line below it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// The result of everything in irori that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. [`Error::exit_code`] says how the process ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or a configuration file asks for something impossible or contradictory.
    #[error("{0}")]
    Usage(String),
    /// A setting has a value that cannot be used here.
    #[error("{setting}: {message}{}", AdviceList(advice))]
    Setting {
        /// Which one, with the value it has where that helps.
        setting: Setting,
        /// What is wrong with it.
        message: String,
        /// Settings that would work, the nearest first; may be empty.
        advice: Vec<Setting>,
    },
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
    /// A call to the device's driver failed.
    #[error("{call} failed: {message} ({code})")]
    Device {
        /// The call, by its name in the driver's interface: "cuLaunchKernel".
        call: &'static str,
        /// The driver's number for the reason (a `CUresult`).
        code: u32,
        /// The reason in words, and what to do about it where that is known.
        message: String,
    },
    /// The work needs more memory than there is. Nothing has been allocated.
    #[error("{what} needs at least {} and {} are available{}{}", gib(*need), gib(*have), bound(by), AdviceList(advice))]
    DoesNotFit {
        /// What was planned: "this run".
        what: &'static str,
        /// Bytes it needs under the leanest plan.
        need: u64,
        /// Bytes there are.
        have: u64,
        /// What allows no more, where that is known: "nine tenths of what this machine leaves".
        by: Option<String>,
        /// Settings under which it would fit, those that change the least; empty if there are none.
        advice: Vec<Setting>,
    },
    /// A mistake in irori itself: an operation was given what it does not take.
    #[error("{0}")]
    Internal(String),
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

/// A setting by its name in a configuration file, and a value: `lora-r = 8`. Without a value it is the setting as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Name in kebab case, as in `run.toml`.
    pub name: &'static str,
    /// Value as a configuration file would have it (texts without quotation marks).
    pub value: Option<String>,
}

impl Setting {
    /// The setting `name`, whatever its value.
    pub const fn named(name: &'static str) -> Self {
        Self { name, value: None }
    }

    /// `name = value`.
    pub fn new(name: &'static str, value: impl fmt::Display) -> Self {
        Self { name, value: Some(value.to_string()) }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            None => write!(f, "`{}`", self.name),
            Some(value) => write!(f, "`{} = {value}`", self.name),
        }
    }
}

/// "; try `a = 1` with `b = 2`", or nothing.
struct AdviceList<'a>(&'a [Setting]);

impl fmt::Display for AdviceList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, setting) in self.0.iter().enumerate() {
            write!(f, "{}{setting}", if i == 0 { "; try " } else { " with " })?;
        }
        Ok(())
    }
}

/// ", nine tenths of what this machine leaves", or nothing.
pub(crate) fn bound(by: &Option<String>) -> String {
    by.as_ref().map_or_else(String::new, |by| format!(", {by}"))
}

/// Most characters of a line of a message.
const LINE: usize = 1200;
/// Characters of the end that stay of a line that is longer.
const END: usize = 200;

/// A message as it may go to a terminal, whatever it quotes of a file: control characters, and those that change the
/// direction of what follows, are escaped, and of a line of kilobytes only the two ends stay.
pub fn printable(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let line = |line: &str| {
        let chars: Vec<char> = line.chars().collect();
        let escaped = |part: &[char]| -> String {
            let one = |&c: &char| if c.is_control() || turns(c) { c.escape_default().to_string() } else { c.into() };
            part.iter().map(one).collect()
        };
        if chars.len() <= LINE {
            return escaped(&chars);
        }
        let (start, rest) = chars.split_at(LINE - END);
        let (left_out, end) = rest.split_at(rest.len() - END);
        format!("{} … ({} characters left out) … {}", escaped(start), left_out.len(), escaped(end))
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Bytes in GiB, for messages.
pub fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

impl Error {
    /// A command-line or configuration error (exit code 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// A setting that cannot be used (exit code 2).
    pub fn setting(setting: Setting, message: impl Into<String>) -> Self {
        Self::Setting { setting, message: message.into(), advice: Vec::new() }
    }

    /// The same error with settings that would work; only [`Error::Setting`] and [`Error::DoesNotFit`] carry such.
    #[must_use]
    pub fn advise(mut self, settings: impl IntoIterator<Item = Setting>) -> Self {
        if let Self::Setting { advice, .. } | Self::DoesNotFit { advice, .. } = &mut self {
            advice.extend(settings);
        }
        self
    }

    /// A failure of the work (exit code 1).
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// A mistake of the program, not of its user (exit code 1).
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Internal(message.into())
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
            Self::Usage(_) | Self::Setting { .. } => 2,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_named_as_a_file_names_it() {
        let e = Error::setting(Setting::new("lora-r", 7), "must be a multiple of 8");
        assert_eq!(e.to_string(), "`lora-r = 7`: must be a multiple of 8");
        assert_eq!(e.exit_code(), 2);
        let e = e.advise([Setting::new("lora-r", 8), Setting::named("device")]).context("planning");
        assert_eq!(e.exit_code(), 2);
        let cause = std::error::Error::source(&e).unwrap().to_string();
        assert_eq!(cause, "`lora-r = 7`: must be a multiple of 8; try `lora-r = 8` with `device`");
    }

    #[test]
    fn a_message_is_safe_to_print_and_not_long() {
        for plain in ["", "a\nb", "法律、第1条 \"é\" …", "tensor `model.norm.weight`"] {
            assert_eq!(printable(plain), plain);
        }
        assert_eq!(printable("a\u{1b}[2Jb\r\t\0\u{9b}"), "a\\u{1b}[2Jb\\r\\t\\u{0}\\u{9b}");
        assert_eq!(printable("\u{202e}exe.jsonl"), "\\u{202e}exe.jsonl");
        let long = printable(&format!("a.jsonl: line 3: found {}\nend", "x".repeat(5000)));
        assert!(long.starts_with("a.jsonl: line 3: found xxx") && long.ends_with("xxx\nend"), "{long}");
        assert!(long.contains("(3823 characters left out)") && long.len() < 1300, "{long}");
    }

    #[test]
    fn what_does_not_fit_says_need_have_and_advice() {
        let advice = vec![Setting::new("lora-r", 8)];
        let e =
            Error::DoesNotFit { what: "this run", need: 3 << 30, have: 2 << 30, by: Some("all of it".into()), advice };
        assert_eq!(
            e.to_string(),
            "this run needs at least 3.00 GiB and 2.00 GiB are available, all of it; try `lora-r = 8`"
        );
        assert_eq!(e.exit_code(), 1);
    }
}
