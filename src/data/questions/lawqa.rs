//! lawqa: the JSON of multiple-choice law questions (<https://github.com/digital-go-jp/lawqa_jp>).
//!
//! A file is an object with `samples`, or a bare list. A sample has ファイル名, コンテキスト (the statute it is about),
//! 問題文, 指示, 選択肢 (four lines "a …" to "d …"), output (the right letter) and references; what else it holds is kept
//! and written back. This module knows the schema and nothing about prompts.

use super::{Choice, Question, excerpt, kind};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// A file of questions and the shape it had.
#[derive(Debug, Clone)]
pub struct Lawqa {
    /// In the order of the file.
    pub questions: Vec<Question>,
    /// `Some` if the file is an object: its keys, with an empty `samples` in its place.
    frame: Option<Map<String, Value>>,
}

impl Lawqa {
    /// The same file with other questions, pretty-printed JSON with a final line break.
    pub fn to_json<'a>(&self, questions: impl IntoIterator<Item = &'a Question>) -> String {
        let samples = Value::Array(questions.into_iter().map(|q| Value::Object(q.raw.clone())).collect());
        let value = match &self.frame {
            None => samples,
            Some(frame) => {
                let mut frame = frame.clone();
                frame.insert("samples".into(), samples);
                Value::Object(frame)
            }
        };
        format!("{value:#}\n")
    }
}

/// Reads a lawqa file.
///
/// # Errors
/// The file cannot be read, is not JSON, or a sample lacks a field or has one of a wrong kind; the error names
/// file, sample and field.
pub fn read(path: &Path) -> Result<Lawqa> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    parse(path, &bytes)
}

/// Parses the bytes of a lawqa file; `path` is for messages.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Lawqa> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let value: Value =
        serde_json::from_slice(bytes).map_err(|e| Error::content(path, "", format!("not valid JSON: {e}")))?;
    let (samples, frame) = match value {
        Value::Array(samples) => (samples, None),
        Value::Object(mut frame) => match frame.get_mut("samples").map(Value::take) {
            Some(Value::Array(samples)) => (samples, Some(frame)),
            Some(other) => {
                return Err(Error::content(
                    path,
                    "field `samples`",
                    format!("expected a list, found {}", kind(&other)),
                ));
            }
            None => {
                return Err(Error::content(
                    path,
                    "",
                    "expected a list of samples, or an object with the key `samples`",
                ));
            }
        },
        other => {
            let found = kind(&other);
            return Err(Error::content(
                path,
                "",
                format!("expected a list or an object with `samples`, found {found}"),
            ));
        }
    };
    if samples.is_empty() {
        return Err(Error::content(path, "", "there is no sample in it"));
    }
    let questions = samples
        .into_iter()
        .enumerate()
        .map(|(i, sample)| {
            question(sample).map_err(|(field, message)| {
                let at =
                    if field.is_empty() { format!("samples[{i}]") } else { format!("samples[{i}], field `{field}`") };
                Error::content(path, at, message)
            })
        })
        .collect::<Result<_>>()?;
    Ok(Lawqa { questions, frame })
}

/// One sample; an error is (field, message).
fn question(sample: Value) -> Result<Question, (&'static str, String)> {
    let raw = match sample {
        Value::Object(raw) => raw,
        other => return Err(("", format!("expected an object, found {}", kind(&other)))),
    };
    let optional = |field: &'static str| match raw.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.clone())),
        Some(other) => Err((field, format!("expected text, found {}", kind(other)))),
    };
    let required = |field: &'static str| match optional(field)? {
        Some(s) if !s.trim().is_empty() => Ok(s),
        Some(_) => Err((field, "it is empty".to_owned())),
        None => Err((field, "it is missing".to_owned())),
    };
    let file_name = optional("ファイル名")?.unwrap_or_default();
    let context = optional("コンテキスト")?.filter(|s| !s.trim().is_empty());
    let text = required("問題文")?;
    let choices = parse_choices(&required("選択肢")?).map_err(|message| ("選択肢", message))?;
    let output = required("output")?;
    let answer = Choice::parse(&output)
        .ok_or_else(|| ("output", format!("expected one letter of a, b, c, d, found {:?}", excerpt(&output))))?;
    let reasoning = match optional("reasoning")? {
        Some(s) => Some(s),
        None => optional("解説")?,
    }
    .filter(|s| !s.trim().is_empty());
    let references = match raw.get("references") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(s)) => vec![s.clone()],
        Some(Value::Array(list)) => list
            .iter()
            .map(|v| v.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| ("references", "expected a list of texts".to_owned()))?,
        Some(other) => return Err(("references", format!("expected a list of texts, found {}", kind(other)))),
    };
    let law = law_of(&file_name, context.as_deref());
    Ok(Question { raw, file_name, law, context, text, choices, answer, reasoning, references })
}

/// See [`Question::law`].
fn law_of(file_name: &str, context: Option<&str>) -> String {
    if let Some((law, _)) = file_name.split_once('_')
        && !law.trim().is_empty()
    {
        return law.trim().to_owned();
    }
    let heading = context.and_then(|c| c.lines().find_map(|line| line.strip_prefix("## ")));
    heading.map_or("不明", str::trim).to_owned()
}

/// Splits 選択肢 into the texts of a to d. A line that does not begin with the next letter and a separator continues
/// the choice before it; the letters may be of either case and width.
pub fn parse_choices(text: &str) -> Result<[String; 4], String> {
    let mut choices: Vec<String> = Vec::with_capacity(4);
    for line in text.lines() {
        let next = Choice::from_index(choices.len()).and_then(|letter| strip_letter(line, letter));
        match (next, choices.last_mut()) {
            (Some(choice), _) => choices.push(choice.trim().to_owned()),
            (None, Some(last)) if !line.trim().is_empty() => {
                last.push('\n');
                last.push_str(line.trim_end());
            }
            (None, Some(_)) => {}
            (None, None) if line.trim().is_empty() => {}
            (None, None) => return Err(format!("expected a first line \"a …\", found {:?}", excerpt(line))),
        }
    }
    if let Some(i) = choices.iter().position(String::is_empty) {
        return Err(format!("choice {} is empty", Choice::ALL[i]));
    }
    let found = choices.len();
    choices.try_into().map_err(|_| {
        format!(
            "expected four lines \"a …\" to \"d …\", found {found}: a line for {} is missing",
            Choice::ALL[found.min(3)]
        )
    })
}

/// What follows `letter` and its separator on `line`.
fn strip_letter(line: &str, letter: Choice) -> Option<&str> {
    let mut chars = line.trim_start().chars();
    if Choice::from_char(chars.next()?) != Some(letter) {
        return None;
    }
    let separator = |c: char| c.is_whitespace() || matches!(c, '.' | '．' | ':' | '：' | '、' | ')' | '）');
    let rest = chars.as_str();
    (rest.is_empty() || rest.starts_with(separator)).then(|| rest.trim_start_matches(separator))
}

/// The inverse of [`parse_choices`].
pub fn format_choices(choices: &[String; 4]) -> String {
    let lines: Vec<String> = choices.iter().zip(Choice::ALL).map(|(text, letter)| format!("{letter} {text}")).collect();
    lines.join("\n")
}

#[cfg(test)]
pub(crate) fn sample_question(name: &str, text: &str, answer: char) -> Question {
    let raw = serde_json::json!({
        "ファイル名": name, "コンテキスト": "## 民法\n第四条　年齢十八歳をもって、成年とする。", "問題文": text,
        "選択肢": "a 十六歳\nb 十八歳\nc 二十歳\nd 二十二歳", "output": answer.to_string(), "references": ["https://example.org"],
        "備考": {"keep": 1}
    });
    question(raw).expect("the sample is right")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shared::shared;

    fn error(json: &str) -> String {
        parse(Path::new("q.json"), json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn choices_of_every_form() {
        let plain = ["x".to_owned(), "y\n  z".into(), "b".into(), "w".into()];
        assert_eq!(parse_choices("a x\nb y\n  z\nc b\nd w").unwrap(), plain);
        assert_eq!(parse_choices("ａ　x\r\nＢ．y\r\n  z\r\n\r\nC) b\r\nd：w\n").unwrap(), plain);
        assert_eq!(parse_choices(&format_choices(&plain)).unwrap(), plain);
        assert!(parse_choices("a x\nb y\nc z").unwrap_err().contains("line for d is missing"));
        assert!(parse_choices("a\nb y\nc z\nd w").unwrap_err().contains("choice a is empty"));
        assert!(parse_choices("about\nb y").unwrap_err().contains("about"));
    }

    #[test]
    fn both_shapes_and_unknown_keys_survive() {
        let q = sample_question("民法_1", "成年は何歳か。", 'b');
        let sample = Value::Object(q.raw.clone());
        for value in [serde_json::json!([sample]), serde_json::json!({"version": 3, "samples": [sample], "z": null})] {
            let text = format!("\u{feff}{value:#}\n");
            let file = parse(Path::new("q.json"), text.as_bytes()).unwrap();
            assert_eq!(file.questions, std::slice::from_ref(&q));
            assert_eq!(file.to_json(&file.questions), text[3..], "keys in their order, unknown ones too");
        }
        assert_eq!(q.law, "民法");
    }

    #[test]
    fn errors_name_sample_and_field() {
        let good = Value::Object(sample_question("民法_1", "成年は何歳か。", 'b').raw);
        for (field, value, wanted) in [
            ("問題文", Value::Null, "q.json: samples[1], field `問題文`: it is missing"),
            ("問題文", 3.into(), "q.json: samples[1], field `問題文`: expected text, found a number"),
            ("選択肢", "a x".into(), "q.json: samples[1], field `選択肢`: expected four lines"),
            ("output", "e".into(), "q.json: samples[1], field `output`: expected one letter"),
            ("references", serde_json::json!([1]), "q.json: samples[1], field `references`: expected a list of texts"),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            let message = error(&serde_json::json!([good, bad]).to_string());
            assert!(message.starts_with(wanted), "{message}");
        }
        assert!(error("[").contains("not valid JSON: EOF"));
        assert!(error("[]").contains("no sample"));
        assert!(error("{\"samples\": 1}").contains("field `samples`: expected a list, found a number"));
        assert!(error("[3]").contains("samples[0]: expected an object"));
        assert!(error(&"[".repeat(100_000)).contains("recursion limit"));
    }

    #[test]
    fn the_real_files() {
        for (name, count, letters) in [("selection", 140, [23, 37, 48, 32]), ("selection_randomized", 560, [140; 4])] {
            let Some(path) = shared(&format!("lawqa_jp/{name}.json")) else { return };
            let file = read(&path).unwrap();
            assert_eq!(file.questions.len(), count);
            for letter in Choice::ALL {
                assert_eq!(file.questions.iter().filter(|q| q.answer == letter).count(), letters[letter.index()]);
            }
            let n = count / 140;
            let expected =
                [("金商法".to_owned(), 80 * n), ("薬機法".to_owned(), 39 * n), ("借地借家法".to_owned(), 21 * n)];
            let mut laws = super::super::laws(&file.questions);
            laws.sort_by_key(|l| std::cmp::Reverse(l.1));
            assert_eq!(laws, expected);
            let again: Value = serde_json::from_str(&file.to_json(&file.questions)).unwrap();
            assert_eq!(again, serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap());
            for q in &file.questions {
                assert_eq!(q.raw["選択肢"], format_choices(&q.choices), "{}", q.file_name);
            }
        }
    }
}
