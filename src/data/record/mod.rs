//! Records: JSONL, one training or evaluation example a line, in the shapes people have.
//!
//! `{"input","output","meta"}`, `{"prompt","completion"}`, `{"messages":[{"role","content"}…]}` and, already tokenised,
//! `{"input_ids","labels"}`; what other programs write is read where it says the same. A field with a meaning is used, or
//! refused by its name: `fields` lists those that are passed over.

mod fields;
mod shapes;
#[cfg(test)]
mod tests;
mod tokens;
mod turns;

use super::{chat::Message, json, questions::Choice};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// What a line holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A conversation; the last turn is the model's.
    Messages(Vec<Message>),
    /// Token ids and their labels, taken as they are (−100: no loss; not shifted).
    Tokens {
        /// Token ids.
        input_ids: Vec<u32>,
        /// As many labels.
        labels: Vec<i32>,
    },
}

/// One line of a file, or a sample of a line that has several.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The line's number in the file, from 1.
    pub line: usize,
    /// What to train on.
    pub content: Content,
    /// `tools`: what the model may call, as the chat template takes it; empty if there are none.
    pub tools: Vec<Value>,
    /// `meta`: anything the maker of the file wants to keep; irori's own are listed in [`questions::records::line`](super::questions::records::line).
    pub meta: Map<String, Value>,
}

impl Record {
    /// The answer's letter: `meta.answer`, else what the last line of the model's turn says. How many choices the question
    /// has is another matter: [`questions::records::answers`](super::questions::records::answers).
    pub fn answer(&self) -> Option<Choice> {
        self.said_answer().or_else(|| self.written_answer())
    }

    /// The letter that `meta.answer` is.
    pub fn said_answer(&self) -> Option<Choice> {
        self.meta.get("answer").and_then(Value::as_str).and_then(Choice::parse)
    }

    /// The letter that the last line of the model's turn is, with or without `Answer:`.
    pub fn written_answer(&self) -> Option<Choice> {
        let Content::Messages(messages) = &self.content else { return None };
        let last = messages.last()?.content.trim().lines().next_back()?;
        Choice::parse(last.trim_start().strip_prefix("Answer:").unwrap_or(last))
    }

    /// Everything the record says, for looking for questions in it.
    pub fn text(&self) -> String {
        match &self.content {
            Content::Messages(messages) => messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n"),
            Content::Tokens { .. } => String::new(),
        }
    }
}

/// Reads a JSONL file. A byte-order mark, blank lines and CRLF are passed over.
///
/// # Errors
/// The file cannot be read; a line is not UTF-8, not JSON, or lacks a field or has one of a wrong kind (the error names
/// line and field), or a field that irori does not know; there is no record at all.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    parse(path, &bytes)
}

/// Parses the bytes of a JSONL file; `path` is for messages.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Record>> {
    let of_line = |(line, value): (usize, Value)| {
        shapes::records(line, value).map_err(|(field, message)| {
            let at = if field.is_empty() { format!("line {line}") } else { format!("line {line}, field `{field}`") };
            Error::content(path, at, message)
        })
    };
    let records: Vec<Vec<Record>> = json::lines(path, bytes)?.into_iter().map(of_line).collect::<Result<_>>()?;
    let records: Vec<Record> = records.into_iter().flatten().collect();
    if records.is_empty() {
        return Err(Error::content(path, "", "there is no record in it"));
    }
    Ok(records)
}
