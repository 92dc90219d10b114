//! Multiple-choice questions: what one is, and the files they are read from.
//!
//! [`lawqa`] is the JSON of published sets, [`records`] the JSONL that `irori dataset` writes. Whatever the file, the
//! rest of the program sees a [`Question`] with 2 to 10 choices, which are named by [`Choice`]. Questions of one file may
//! have different numbers of choices.

mod asking;
mod choice;
pub mod choices;
mod consistent;
pub mod lawqa;
mod letters;
pub mod records;

pub use asking::{Asking, only};
pub use choice::{Choice, letters, unsaid_choices};
pub use consistent::{Answers, Asked, plain};
pub use letters::LetterCounts;

use crate::{Error, Result, error::Setting};
use serde_json::Value;
use std::{collections::HashMap, path::Path};

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Names the question (lawqa's ファイル名); may be empty.
    pub file_name: String,
    /// The law it is about; may be empty.
    pub law: String,
    /// The statute text it rests on.
    pub context: Option<String>,
    /// What is asked.
    pub text: String,
    /// The texts of the choices without their letters: [`Choice::FEWEST`] to [`Choice::MOST`] of them.
    pub choices: Vec<String>,
    /// The right choice, one of `choices`.
    pub answer: Choice,
    /// How one gets to the answer, where the file says it.
    pub reasoning: Option<String>,
    /// Addresses of the statutes.
    pub references: Vec<String>,
}

impl Question {
    /// What messages call it: its file name or the beginning of its text.
    pub fn name(&self) -> String {
        if self.file_name.is_empty() { self.text.chars().take(30).collect() } else { self.file_name.clone() }
    }
}

/// Reads the questions of a lawqa JSON file, or of JSONL records whose meta holds them (those of `irori dataset`).
/// Records do not hold the statute by itself, so with `statutes` the file must be lawqa JSON.
///
/// # Errors
/// The file cannot be read or does not hold questions; statutes are asked of records.
pub fn read(path: &Path, statutes: bool) -> Result<Vec<Question>> {
    if !is_jsonl(path) {
        return Ok(lawqa::read(path)?.questions);
    }
    if statutes {
        let message = format!(
            "it needs the statutes, which {} does not hold by themselves: give the lawqa JSON of the split",
            path.display()
        );
        return Err(Error::setting(Setting::new("context", "gold"), message));
    }
    records::read(path)
}

/// How many questions each law has, in order of first appearance.
pub fn laws(questions: &[Question]) -> Vec<(String, usize)> {
    let mut counts: Vec<(String, usize)> = Vec::new();
    let mut place: HashMap<&str, usize> = HashMap::new();
    for q in questions {
        let at = *place.entry(&q.law).or_insert_with(|| {
            counts.push((q.law.clone(), 0));
            counts.len() - 1
        });
        counts[at].1 += 1;
    }
    counts
}

/// Whether the file is JSONL by its name.
fn is_jsonl(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"))
}

/// What a JSON value is, in words for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The beginning of a text, for messages.
pub(crate) fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
