//! Multiple-choice questions: what one is, and the files they are read from.
//!
//! [`lawqa`] is the JSON of published sets, [`records`] the JSONL that `irori dataset` writes. Whatever the file, the
//! rest of the program sees a [`Question`], whose choices are named by [`Choice`].

pub mod lawqa;
pub mod records;

use crate::{Error, Result};
use serde_json::{Map, Value};
use std::{collections::HashMap, fmt, path::Path};

/// One of the four choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Choice(u8);

impl Choice {
    /// a, b, c, d.
    pub const ALL: [Self; 4] = [Self(0), Self(1), Self(2), Self(3)];

    /// The letter at place `index` of 0..4.
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// 0 for a, 3 for d.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The lower-case letter.
    pub fn as_char(self) -> char {
        char::from(b'a' + self.0)
    }

    /// Reads a letter in either case, half or full width.
    pub fn from_char(c: char) -> Option<Self> {
        let c = match c {
            'Ａ'..='Ｚ' => char::from_u32(c as u32 - 'Ａ' as u32 + 'a' as u32)?,
            'ａ'..='ｚ' => char::from_u32(c as u32 - 'ａ' as u32 + 'a' as u32)?,
            _ => c.to_ascii_lowercase(),
        };
        matches!(c, 'a'..='d').then(|| Self(c as u8 - b'a'))
    }

    /// Reads a text that is a letter and nothing else but surrounding white space.
    pub fn parse(text: &str) -> Option<Self> {
        let mut chars = text.trim().chars();
        let letter = Self::from_char(chars.next()?)?;
        chars.next().is_none().then_some(letter)
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_char())
    }
}

/// One question. The typed fields are what irori uses; `raw` is the sample as it stood, in its order of keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The sample as read, with 選択肢 and output kept in step with `choices` and `answer`.
    pub raw: Map<String, Value>,
    /// ファイル名, which names the question; empty if the sample has none.
    pub file_name: String,
    /// What ファイル名 begins with before its first `_`, else the first heading of the context, else 不明.
    pub law: String,
    /// コンテキスト: the statute text the question is about.
    pub context: Option<String>,
    /// 問題文.
    pub text: String,
    /// The four choices without their letters.
    pub choices: [String; 4],
    /// output: the right choice.
    pub answer: Choice,
    /// `reasoning` or 解説: how one gets to the answer, if the sample says it.
    pub reasoning: Option<String>,
    /// Addresses of the statutes.
    pub references: Vec<String>,
}

impl Question {
    /// What messages call it: its file name or the beginning of its text.
    pub fn name(&self) -> String {
        if self.file_name.is_empty() { self.text.chars().take(30).collect() } else { self.file_name.clone() }
    }

    /// Puts other choices and their answer in, in `raw` too.
    pub fn set_choices(&mut self, choices: [String; 4], answer: Choice) {
        self.raw.insert("選択肢".into(), lawqa::format_choices(&choices).into());
        self.raw.insert("output".into(), answer.to_string().into());
        self.choices = choices;
        self.answer = answer;
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
        return Err(Error::usage(format!(
            "--context gold needs the statutes, which {} does not hold by themselves: give the lawqa JSON of the split",
            path.display()
        )));
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
