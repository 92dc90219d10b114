//! Records: JSONL, one training or evaluation example a line, in the shapes people have.
//!
//! `{"input","output","meta"}`, `{"prompt","completion"}` (both may have `system`), `{"messages":[{"role","content"}…]}`
//! and, already tokenised, `{"input_ids","labels"}`. Keys that belong to none of these are kept out of the way, with one
//! exception: `instruction` (the Alpaca shape) would be lost silently, so it is refused.

use super::{
    batch::NO_LOSS,
    chat::Message,
    questions::{Choice, excerpt, kind},
};
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

/// One line of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its number in the file, from 1.
    pub line: usize,
    /// What to train on.
    pub content: Content,
    /// `meta`: anything the maker of the file wants to keep; irori's own are listed in [`questions::records::line`](super::questions::records::line).
    pub meta: Map<String, Value>,
}

impl Record {
    /// The answer's letter: `meta.answer`, else what the last line of the model's turn says. How many choices the question
    /// has is another matter: [`questions::records::answers`](super::questions::records::answers).
    pub fn answer(&self) -> Option<Choice> {
        if let Some(letter) = self.meta.get("answer").and_then(Value::as_str).and_then(Choice::parse) {
            return Some(letter);
        }
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
/// line and field); there is no record at all.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    parse(path, &bytes)
}

/// Parses the bytes of a JSONL file; `path` is for messages.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Record>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut records = Vec::new();
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let number = i + 1;
        let text = std::str::from_utf8(line).map_err(|e| {
            Error::content(path, format!("line {number}"), format!("not UTF-8 from byte {} on", e.valid_up_to() + 1))
        })?;
        if text.trim().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(text).map_err(|e| {
            // serde_json counts lines within the text it was given, which is always one.
            let message = e.to_string();
            let reason = message.split(" at line ").next().unwrap_or_default();
            Error::content(path, format!("line {number}"), format!("not valid JSON: {reason} at column {}", e.column()))
        })?;
        let (content, meta) = record(value).map_err(|(field, message)| {
            let at =
                if field.is_empty() { format!("line {number}") } else { format!("line {number}, field `{field}`") };
            Error::content(path, at, message)
        })?;
        records.push(Record { line: number, content, meta });
    }
    if records.is_empty() {
        return Err(Error::content(path, "", "there is no record in it"));
    }
    Ok(records)
}

/// What is wrong with a line: (field or nothing, message).
type Wrong = (String, String);

fn record(value: Value) -> Result<(Content, Map<String, Value>), Wrong> {
    let mut map = match value {
        Value::Object(map) => map,
        other => return Err((String::new(), format!("expected an object, found {}", kind(&other)))),
    };
    let meta = match map.remove("meta") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(meta)) => meta,
        Some(other) => return Err(("meta".into(), format!("expected an object, found {}", kind(&other)))),
    };
    let shapes = [("input", "output"), ("prompt", "completion"), ("messages", ""), ("input_ids", "labels")];
    let present: Vec<_> = shapes.into_iter().filter(|(key, _)| map.contains_key(*key)).collect();
    let content = match present[..] {
        [] => {
            let keys: Vec<&str> = map.keys().map(String::as_str).take(8).collect();
            let message = format!(
                "expected `input` and `output`, `prompt` and `completion`, `messages`, or `input_ids` and `labels`; found \
                 {}",
                if keys.is_empty() { "nothing".to_owned() } else { excerpt(&keys.join(", ")) }
            );
            return Err((String::new(), message));
        }
        [("messages", _)] => Content::Messages(messages(&map["messages"])?),
        [("input_ids", _)] => tokens(&map)?,
        [(input, output)] => pair(&map, input, output)?,
        [(one, _), (other, _), ..] => {
            return Err((other.into(), format!("a record is of one shape, and this has `{one}` too")));
        }
    };
    Ok((content, meta))
}

fn text(map: &Map<String, Value>, field: &str) -> Result<String, Wrong> {
    match map.get(field) {
        Some(Value::String(s)) => Ok(s.clone()),
        None => Err((field.into(), "it is missing".into())),
        Some(other) => Err((field.into(), format!("expected text, found {}", kind(other)))),
    }
}

fn pair(map: &Map<String, Value>, input: &str, output: &str) -> Result<Content, Wrong> {
    if map.get("instruction").is_some_and(|v| v.as_str() != Some("")) {
        return Err(("instruction".into(), format!("it would be lost: put it into `{input}` or `system`")));
    }
    let mut messages = Vec::new();
    if map.get("system").is_some_and(|v| !v.is_null()) {
        messages.push(Message::new("system", text(map, "system")?));
    }
    messages.push(Message::new("user", text(map, input)?));
    let answer = text(map, output)?;
    if answer.trim().is_empty() {
        return Err((output.into(), "it is empty: there is nothing to learn".into()));
    }
    messages.push(Message::new("assistant", answer));
    Ok(Content::Messages(messages))
}

fn messages(value: &Value) -> Result<Vec<Message>, Wrong> {
    let Value::Array(list) = value else {
        return Err(("messages".into(), format!("expected a list, found {}", kind(value))));
    };
    let mut messages = Vec::with_capacity(list.len());
    for (i, turn) in list.iter().enumerate() {
        let field = |name: &str| match &turn[name] {
            Value::String(s) => Ok(s.clone()),
            Value::Null => Err((format!("messages[{i}].{name}"), "it is missing".to_owned())),
            other => Err((format!("messages[{i}].{name}"), format!("expected text, found {}", kind(other)))),
        };
        let (role, content) = (field("role")?, field("content")?);
        if !matches!(role.as_str(), "system" | "user" | "assistant") {
            let message = format!("unknown role {:?}: system, user or assistant", excerpt(&role));
            return Err((format!("messages[{i}].role"), message));
        }
        messages.push(Message { role, content });
    }
    match messages.last() {
        Some(last) if last.role != "assistant" => {
            Err(("messages".into(), "the last turn must be the assistant's: it is what is learned".into()))
        }
        Some(last) if last.content.trim().is_empty() => {
            Err((format!("messages[{}].content", messages.len() - 1), "it is empty: there is nothing to learn".into()))
        }
        Some(_) if messages.len() > 1 => Ok(messages),
        _ => Err(("messages".into(), "expected at least a user's and an assistant's turn".into())),
    }
}

fn tokens(map: &Map<String, Value>) -> Result<Content, Wrong> {
    let list = |field: &'static str| match map.get(field) {
        Some(Value::Array(list)) => Ok(list),
        None => Err((field.to_owned(), "it is missing".to_owned())),
        Some(other) => Err((field.to_owned(), format!("expected a list, found {}", kind(other)))),
    };
    let (ids, labels) = (list("input_ids")?, list("labels")?);
    if ids.len() != labels.len() {
        return Err(("labels".into(), format!("{} labels for {} input_ids", labels.len(), ids.len())));
    }
    let bad = |field: &str, i: usize, value: &Value, wanted: &str| {
        (format!("{field}[{i}]"), format!("expected {wanted}, found {}", excerpt(&value.to_string())))
    };
    let id = |(i, v): (usize, &Value)| {
        let id = v.as_u64().and_then(|id| i32::try_from(id).ok()).map(|id| id as u32);
        id.ok_or_else(|| bad("input_ids", i, v, "a token id"))
    };
    let label = |(i, v): (usize, &Value)| {
        let label = v.as_i64().and_then(|l| i32::try_from(l).ok()).filter(|&l| l >= 0 || l == NO_LOSS);
        label.ok_or_else(|| bad("labels", i, v, "a token id or -100"))
    };
    Ok(Content::Tokens {
        input_ids: ids.iter().enumerate().map(id).collect::<Result<_, _>>()?,
        labels: labels.iter().enumerate().map(label).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<Record, String> {
        parse(Path::new("f.jsonl"), line.as_bytes()).map(|mut r| r.remove(0)).map_err(|e| e.to_string())
    }

    #[test]
    fn the_shapes() {
        let talk = |list: &[(&str, &str)]| {
            Content::Messages(list.iter().map(|(role, content)| Message::new(*role, *content)).collect())
        };
        let r = one(r#"{"input":"q","output":"b","meta":{"answer":"c"},"id":7}"#).unwrap();
        assert_eq!((&r.content, r.answer()), (&talk(&[("user", "q"), ("assistant", "b")]), Choice::parse("c")));
        let r = one(r#"{"prompt":"q","completion":"1. x\n\nAnswer: ｄ","system":"s"}"#).unwrap();
        assert_eq!(r.answer(), Choice::parse("d"));
        assert!(matches!(&r.content, Content::Messages(m) if m[0].role == "system"));
        let r = one(r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"hello"}]}"#).unwrap();
        assert_eq!((&r.content, r.answer()), (&talk(&[("user", "q"), ("assistant", "hello")]), None));
        let r = one(r#"{"input_ids":[1,2],"labels":[-100,2]}"#).unwrap();
        assert_eq!(r.content, Content::Tokens { input_ids: vec![1, 2], labels: vec![-100, 2] });
    }

    #[test]
    fn marks_blank_lines_and_line_ends() {
        let good = r#"{"input":"q","output":"b"}"#;
        let text = format!("\u{feff}\r\n{good}\r\n\n  \n{good}");
        let lines: Vec<usize> = parse(Path::new("f"), text.as_bytes()).unwrap().iter().map(|r| r.line).collect();
        assert_eq!(lines, [2, 5]);
        let huge = format!("{{\"input\":\"{}\",\"output\":\"b\"}}", "あ".repeat(3_500_000));
        assert!(one(&huge).is_ok());
    }

    #[test]
    fn errors_name_line_and_field() {
        for (line, wanted) in [
            ("\n{", "f.jsonl: line 2: not valid JSON: EOF while parsing an object at column 1"),
            ("3", "f.jsonl: line 1: expected an object, found a number"),
            ("{}", "f.jsonl: line 1: expected `input`"),
            (r#"{"input":"q"}"#, "f.jsonl: line 1, field `output`: it is missing"),
            (r#"{"input":3,"output":"b"}"#, "f.jsonl: line 1, field `input`: expected text, found a number"),
            (r#"{"input":"q","output":" "}"#, "f.jsonl: line 1, field `output`: it is empty"),
            (
                r#"{"instruction":"i","input":"q","output":"b"}"#,
                "f.jsonl: line 1, field `instruction`: it would be lost",
            ),
            (r#"{"input":"q","output":"b","meta":1}"#, "f.jsonl: line 1, field `meta`: expected an object"),
            (r#"{"input":"q","output":"b","messages":[]}"#, "f.jsonl: line 1, field `messages`: a record is of one"),
            (r#"{"messages":{}}"#, "f.jsonl: line 1, field `messages`: expected a list"),
            (r#"{"messages":[1]}"#, "f.jsonl: line 1, field `messages[0].role`: it is missing"),
            (r#"{"messages":[{"role":"user","content":"q"}]}"#, "f.jsonl: line 1, field `messages`: the last turn"),
            (
                r#"{"messages":[{"role":"bot","content":"q"}]}"#,
                "f.jsonl: line 1, field `messages[0].role`: unknown role",
            ),
            (r#"{"messages":[]}"#, "f.jsonl: line 1, field `messages`: expected at least"),
            (r#"{"input_ids":[1],"labels":[]}"#, "f.jsonl: line 1, field `labels`: 0 labels for 1 input_ids"),
            (
                r#"{"input_ids":[-1],"labels":[1]}"#,
                "f.jsonl: line 1, field `input_ids[0]`: expected a token id, found -1",
            ),
            (r#"{"input_ids":[1],"labels":[-1]}"#, "f.jsonl: line 1, field `labels[0]`: expected a token id or -100"),
            (r#"{"input_ids":[1],"labels":[1e99]}"#, "f.jsonl: line 1, field `labels[0]`: expected a token id or -100"),
            ("\n \n", "f.jsonl: there is no record in it"),
        ] {
            let message = one(line).unwrap_err();
            assert!(message.starts_with(wanted), "{message}");
        }
        assert!(one(&"[".repeat(1 << 20)).unwrap_err().contains("line 1: not valid JSON: recursion limit exceeded"));
        let bad = parse(Path::new("f"), b"\n\n\"\xff\"").unwrap_err().to_string();
        assert_eq!(bad, "f: line 3: not UTF-8 from byte 2 on");
    }
}
