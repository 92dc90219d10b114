//! How records ask: what their `meta` says of the prompt that they were written with.

use super::is_jsonl;
use crate::{
    Result,
    data::record::{self, Record},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeSet, path::Path};

/// How records ask, as far as their `meta` says it: every value that occurs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asking {
    /// Prompt templates, by name.
    pub prompt: BTreeSet<String>,
    /// What statutes the prompts show: none, gold.
    pub context: BTreeSet<String>,
    /// Whether any shows a worked example.
    pub few_shot: bool,
}

impl Asking {
    /// What `records` say.
    pub fn of(records: &[Record]) -> Self {
        let all = |field: &str| records.iter().filter_map(|r| r.meta.get(field)?.as_str()).map(str::to_owned).collect();
        let few_shot = records.iter().any(|r| r.meta.get("few_shot") == Some(&Value::Bool(true)));
        Self { prompt: all("prompt"), context: all("context"), few_shot }
    }

    /// What the records of a JSONL file say; `None` for other files.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn of_file(path: &Path) -> Result<Option<Self>> {
        if is_jsonl(path) { Ok(Some(Self::of(&record::read(path)?))) } else { Ok(None) }
    }
}

/// The only one of several values.
pub fn only(values: &BTreeSet<String>) -> Option<&str> {
    values.first().filter(|_| values.len() == 1).map(String::as_str)
}
