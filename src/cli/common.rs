//! What several commands share: the terminal, and where output goes.

use crate::{Error, Result, error::printable, run::Listener, settings::Bytes};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// Parses a size such as `20GiB`, `9.5GiB`, `800MB` or a plain number of bytes (for clap's `value_parser`).
///
/// # Errors
/// What is expected instead.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    text.parse::<Bytes>().map(|bytes| bytes.0)
}

/// Prints a line on standard error, where progress and warnings go.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}

/// A destination that must not exist yet unless it is an empty directory: nothing the user made is overwritten.
///
/// # Errors
/// If it is something else, or cannot be made.
pub fn ensure_new_dir(path: &std::path::Path) -> Result<()> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::usage(format!(
                "{} is not empty: choose a new directory, or remove it first",
                path.display()
            ))),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => crate::files::create_dirs(path),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// Shows on standard error what is said while a run is assembled: notes in lines, loading as a bar on a terminal.
#[derive(Default)]
pub struct Terminal {
    bar: Option<ProgressBar>,
}

impl Listener for Terminal {
    fn note(&mut self, text: &str) {
        note(&super::errors::with_flags(text));
    }

    fn loading(&mut self, done: usize, total: usize) {
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("loading {bar:30} {percent:>3}%  {elapsed}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    }

    fn loaded(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// A progress bar on a terminal, a line now and then elsewhere; silent if `quiet`.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    what: &'static str,
    said: Instant,
    start: Instant,
    quiet: bool,
}

impl Progress {
    /// Begins to count `total` of `what`.
    pub fn new(total: usize, what: &'static str, quiet: bool) -> Self {
        let bar = (std::io::stderr().is_terminal() && !quiet).then(|| {
            let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg} {per_sec} eta {eta}");
            let bar = ProgressBar::new(total as u64).with_message(what);
            if let Ok(style) = style { bar.with_style(style) } else { bar }
        });
        Self { bar, total, what, said: Instant::now(), start: Instant::now(), quiet }
    }

    /// `n` are done.
    pub fn set(&mut self, n: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(n as u64);
        } else if !self.quiet && (self.said.elapsed() > Duration::from_secs(10) || n == self.total) {
            self.said = Instant::now();
            let rate = n as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
            note(&format!("{n}/{} {} ({rate:.1}/s)", self.total, self.what));
        }
    }

    /// Ends; returns the seconds it took.
    pub fn finish(self) -> f64 {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.start.elapsed().as_secs_f64()
    }
}
