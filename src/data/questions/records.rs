//! Questions in JSONL records: `irori dataset` writes them there as the record's `meta`, and evaluation reads them back.

use super::{Question, is_jsonl};
use crate::{
    Error, Result,
    data::{
        permute::{self, Permutation},
        prompt::{Context, PromptTemplate},
        record::{self, Record},
    },
};
use serde_json::{Map, Value};
use std::path::Path;

/// The line of JSON for a question. Its meta has file_name, law, answer, question, choices, references, question_id
/// (equal for every order of the choices), permutation, prompt, answer_format and context.
///
/// # Errors
/// If the template does not render.
pub fn line(
    question: &Question,
    template: &PromptTemplate,
    context: Context,
    examples: &[Question],
    permutation: Permutation,
) -> Result<Value> {
    let permuted = permutation.apply(question);
    let mut record = Map::new();
    if let Some(system) = &template.system {
        record.insert("system".into(), system.clone().into());
    }
    record.insert("input".into(), template.user(&permuted, context, examples)?.into());
    record.insert("output".into(), template.expected(&permuted).into());
    let shown = context == Context::Gold && question.context.is_some();
    let meta = serde_json::json!({
        "file_name": question.file_name, "law": question.law, "answer": permuted.answer.to_string(),
        "question": permuted.text, "choices": permuted.choices, "references": question.references,
        "question_id": permute::identity(question), "permutation": permutation.name(),
        "prompt": template.name(), "answer_format": template.answer.name(), "context": if shown { "gold" } else { "none" },
    });
    record.insert("meta".into(), meta);
    Ok(Value::Object(record))
}

/// Reads the questions of a JSONL file of records.
///
/// # Errors
/// The file cannot be read, or the meta of a record does not hold a question; the error names line and field.
pub fn read(path: &Path) -> Result<Vec<Question>> {
    record::read(path)?.iter().map(|r| question(path, r)).collect()
}

/// The prompt template that the records of a JSONL file were written with, if all name the same; `None` for other files.
///
/// # Errors
/// If the file cannot be read.
pub fn recorded_prompt(path: &Path) -> Result<Option<String>> {
    if !is_jsonl(path) {
        return Ok(None);
    }
    let records = record::read(path)?;
    let named = |r: &Record| r.meta.get("prompt").and_then(Value::as_str).map(str::to_owned);
    let first = records.first().and_then(named);
    Ok(first.filter(|f| records.iter().all(|r| named(r).as_ref() == Some(f))))
}

/// The question that a record's meta holds; `path` is for messages.
fn question(path: &Path, record: &Record) -> Result<Question> {
    let text = |field: &str| record.meta.get(field).and_then(Value::as_str).map(str::to_owned);
    let missing = |field: &str, what: &str| {
        let at = format!("line {}, field `meta.{field}`", record.line);
        Error::content(
            path,
            at,
            format!("expected {what}: evaluation needs records made by `irori dataset`, or lawqa JSON"),
        )
    };
    let list = |field: &str| -> Option<Vec<String>> {
        record.meta.get(field)?.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect()
    };
    Ok(Question {
        raw: Map::new(),
        file_name: text("file_name").unwrap_or_default(),
        law: text("law").unwrap_or_default(),
        context: None,
        text: text("question").ok_or_else(|| missing("question", "the question"))?,
        choices: list("choices")
            .and_then(|c| c.try_into().ok())
            .ok_or_else(|| missing("choices", "a list of four choices"))?,
        answer: record.answer().ok_or_else(|| missing("answer", "a, b, c or d"))?,
        reasoning: None,
        references: list("references").unwrap_or_default(),
    })
}
