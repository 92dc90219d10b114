//! A configuration file: TOML whose keys are the names of settings.

use super::{Given, Group};
use std::fmt;
use toml::de::{DeTable, ValueDeserializer};

/// What is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    /// The line, from 1, where that is known.
    pub line: Option<usize>,
    /// The key on it.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, &self.key) {
            (Some(line), Some(key)) => write!(f, "line {line}, key `{key}`: {}", self.message),
            (Some(line), None) => write!(f, "line {line}: {}", self.message),
            (None, _) => f.write_str(&self.message),
        }
    }
}

/// Reads settings from `text`, in the order of its lines.
pub(super) fn read<G: Group>(text: &str) -> Result<G, FileError> {
    let line_of = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
    let table = DeTable::parse(text).map_err(|e| {
        let line = e.span().map(|span| line_of(span.start));
        let key = line.and_then(|n| text.lines().nth(n - 1)?.split_once('=')).map(|(key, _)| key.trim().to_owned());
        FileError { line, key, message: e.message().lines().collect::<Vec<_>>().join("; ") }
    })?;
    let mut entries: Vec<_> = table.into_inner().into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut group = G::default();
    let mut set: Vec<&'static str> = Vec::new();
    for (key, value) in entries {
        let line = Some(line_of(key.span().start));
        let key = key.into_inner();
        let wrong = |message: String| FileError { line, key: Some(key.clone().into_owned()), message };
        let known = G::definitions().into_iter().find(|d| d.is(&key)).ok_or_else(|| wrong(unknown::<G>(&key)))?;
        if set.contains(&known.name) {
            return Err(wrong(format!("`{}` is set already, under another name", known.name)));
        }
        set.push(known.name);
        group.put(known.name, Given::Toml(ValueDeserializer::from(value))).map_err(wrong)?;
    }
    Ok(group)
}

fn unknown<G: Group>(key: &str) -> String {
    let names =
        G::definitions().into_iter().flat_map(|d| d.aliases.iter().chain([&d.name]).copied().collect::<Vec<_>>());
    match nearest(key, names) {
        Some(name) => format!("there is no such setting; is `{name}` meant?"),
        None => "there is no such setting".into(),
    }
}

/// The name that `key` is likely a misspelling of.
pub fn nearest<'a>(key: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let nearest = names.into_iter().map(|name| (distance(key, name), name)).min();
    nearest.filter(|(d, _)| *d <= 1 + key.len() / 4).map(|(_, name)| name)
}

/// Edits (a character more, less or another) from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = before + usize::from(x != *y);
            before = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}
