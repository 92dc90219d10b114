//! `metrics.jsonl` as the records that the trainer wrote.

use crate::{
    Error, Result,
    train::metrics::{EndReason, Eval, Record, Start, Step},
};
use std::path::Path;

/// What a run has logged so far, in its order.
pub(super) struct Log {
    pub records: Vec<Record>,
}

impl Log {
    /// Reads the log at `path`; a missing one is empty, and a last line without its newline is one being written.
    pub fn read(path: &Path) -> Result<Self> {
        let Some(text) = optional(path)? else { return Ok(Self { records: Vec::new() }) };
        let whole = &text[..text.rfind('\n').map_or(0, |i| i + 1)];
        let lines = whole.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let records = lines.map(|(i, line)| {
            serde_json::from_str(line).map_err(|e| {
                let said = e.to_string();
                // serde_json counts its lines within this one.
                let reason = said.split(" at line ").next().unwrap_or_default();
                Error::content(path, format!("line {}", i + 1), format!("not a record of a training log: {reason}"))
            })
        });
        Ok(Self { records: records.collect::<Result<_>>()? })
    }

    /// What the run is.
    pub fn start(&self) -> Option<&Start> {
        self.records.iter().rev().find_map(|r| if let Record::Start(s) = r { Some(s) } else { None })
    }

    /// Steps, ascending.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.records.iter().filter_map(|r| if let Record::Step(s) = r { Some(s) } else { None })
    }

    /// Evaluations, ascending.
    pub fn evals(&self) -> impl Iterator<Item = &Eval> {
        self.records.iter().filter_map(|r| if let Record::Eval(e) = r { Some(e) } else { None })
    }

    /// Why the run ended, if it has.
    pub fn end(&self) -> Option<EndReason> {
        self.records.iter().rev().find_map(|r| if let Record::End { reason, .. } = r { Some(*reason) } else { None })
    }
}

/// The text of a file that need not be there.
pub(super) fn optional(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}
