//! lawqa: the JSON of multiple-choice law questions (<https://github.com/digital-go-jp/lawqa_jp>).
//!
//! A file is an object with `samples`, or a bare list. A sample has ファイル名, コンテキスト (the statute it is about),
//! 問題文, 指示, 選択肢 (2 to 10 lines "a …", "b …" and on), output (the right letter) and references; what else it holds is kept
//! and written back. This module knows the schema and nothing about prompts.

use super::{
    Choice, Question, choices,
    consistent::{self, Answers, Asked},
    excerpt, kind, letters,
};
use crate::{Error, Result, data::json};
use serde_json::{Map, Value};
use std::path::Path;

/// A file of questions and the shape it had.
#[derive(Debug, Clone)]
pub struct Lawqa {
    /// In the order of the file.
    pub questions: Vec<Question>,
    /// The sample of each question as it stood, with what irori does not use.
    samples: Vec<Value>,
    /// `Some` if the file is an object: its keys, with an empty `samples` in its place.
    frame: Option<Map<String, Value>>,
}

impl Lawqa {
    /// The same file with the samples of the questions at `places` alone, in that order: pretty-printed JSON with a final
    /// line break.
    ///
    /// # Panics
    /// If there is no question at one of the places.
    pub fn to_json(&self, places: &[usize]) -> String {
        let samples = Value::Array(places.iter().map(|&i| self.samples[i].clone()).collect());
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
/// The file cannot be read, is not JSON, or a sample lacks a field or has one of a wrong kind, has a choice twice, or is the
/// question of another sample with another right answer; the error names file, sample and field.
pub fn read(path: &Path) -> Result<Lawqa> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    parse(path, &bytes)
}

/// Parses the bytes of a lawqa file; `path` is for messages.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Lawqa> {
    let text = std::str::from_utf8(json::plain(path, bytes)?)
        .map_err(|e| Error::content(path, "", format!("not UTF-8 from byte {} on", e.valid_up_to() + 1)))?;
    let value: Value = json::value(text).map_err(|e| Error::content(path, "", format!("not valid JSON: {e}")))?;
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
    let questions: Vec<Question> = samples
        .iter()
        .enumerate()
        .map(|(i, sample)| {
            question(sample).map_err(|(field, message)| {
                let at =
                    if field.is_empty() { format!("samples[{i}]") } else { format!("samples[{i}], field `{field}`") };
                Error::content(path, at, message)
            })
        })
        .collect::<Result<_>>()?;
    let mut answers = Answers::default();
    for (i, q) in questions.iter().enumerate() {
        let asked = Asked::new(&q.text, q.context.as_deref().unwrap_or(""), &q.choices, q.answer);
        let right = asked.1.clone();
        if let Some((first, other)) = answers.add(i, asked) {
            let message = consistent::two_answers(&right, &format!("samples[{first}]"), other);
            return Err(Error::content(path, format!("samples[{i}], field `output`"), message));
        }
    }
    Ok(Lawqa { questions, samples, frame })
}

/// One sample; an error is (field, message).
fn question(sample: &Value) -> Result<Question, (&'static str, String)> {
    let Value::Object(raw) = sample else {
        return Err(("", format!("expected an object, found {}", kind(sample))));
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
    let choices = choices::parse(&required("選択肢")?).map_err(|message| ("選択肢", message))?;
    consistent::choices(&choices).map_err(|message| ("選択肢", message))?;
    let output = required("output")?;
    let answer = Choice::parse(&output).and_then(|c| c.within(choices.len())).ok_or_else(|| {
        let letters = letters(choices.len());
        ("output", format!("expected the letter of a choice ({letters}), found {:?}", excerpt(&output)))
    })?;
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
    Ok(Question { file_name, law, context, text, choices, answer, reasoning, references })
}

/// What ファイル名 begins with before its first `_`, else the first heading of the context, else 不明.
fn law_of(file_name: &str, context: Option<&str>) -> String {
    if let Some((law, _)) = file_name.split_once('_')
        && !law.trim().is_empty()
    {
        return law.trim().to_owned();
    }
    let heading = context.and_then(|c| c.lines().find_map(|line| line.strip_prefix("## ")));
    heading.map_or("不明", str::trim).to_owned()
}

/// The sample of a question as a file has it.
#[cfg(test)]
pub(crate) fn sample(q: &Question) -> Value {
    serde_json::json!({
        "ファイル名": q.file_name, "コンテキスト": q.context, "問題文": q.text, "選択肢": choices::format(&q.choices),
        "output": q.answer.letter(), "references": q.references, "備考": {"keep": 1}
    })
}

#[cfg(test)]
pub(crate) fn sample_question(name: &str, text: &str, answer: char) -> Question {
    sample_of_size(4, name, text, answer)
}

/// A question with `n` choices.
#[cfg(test)]
pub(crate) fn sample_of_size(n: usize, name: &str, text: &str, answer: char) -> Question {
    let ages = ["十六", "十八", "二十", "二十二", "二十四", "二十六", "二十八", "三十", "三十二", "三十四"];
    Question {
        file_name: name.into(),
        law: law_of(name, None),
        context: Some("## 民法\n第四条　年齢十八歳をもって、成年とする。".into()),
        text: text.into(),
        choices: ages[..n].iter().map(|age| format!("{age}歳")).collect(),
        answer: Choice::from_char(answer).expect("a letter"),
        reasoning: None,
        references: vec!["https://example.org".into()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{questions::LetterCounts, shared::shared};

    fn error(json: &str) -> String {
        parse(Path::new("q.json"), json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn both_shapes_and_unknown_keys_survive() {
        let q = sample_question("民法_1", "成年は何歳か。", 'b');
        let sample = sample(&q);
        for value in [serde_json::json!([sample]), serde_json::json!({"version": 3, "samples": [sample], "z": null})] {
            let text = format!("\u{feff}{value:#}\n");
            let file = parse(Path::new("q.json"), text.as_bytes()).unwrap();
            assert_eq!(file.questions, std::slice::from_ref(&q));
            assert_eq!(file.to_json(&[0]), text[3..], "keys in their order, unknown ones too");
        }
        assert_eq!(q.law, "民法");
    }

    #[test]
    fn questions_of_two_to_ten_choices_in_one_file() {
        let all: Vec<Question> = (2..=10)
            .flat_map(|n| Choice::first(n).iter().map(move |&answer| (n, answer)))
            .map(|(n, answer)| Question {
                answer, ..sample_of_size(n, "民法_1", &format!("{answer}の年齢は。"), 'a')
            })
            .collect();
        let text = serde_json::json!(all.iter().map(sample).collect::<Vec<_>>()).to_string();
        let file = parse(Path::new("q.json"), text.as_bytes()).unwrap();
        assert_eq!(file.questions, all);
        let again = parse(Path::new("q.json"), file.to_json(&[0, 53, 53]).as_bytes()).unwrap();
        assert_eq!(again.questions, [all[0].clone(), all[53].clone(), all[53].clone()]);
        assert_eq!(all[53].answer.letter(), "j");
    }

    #[test]
    fn errors_name_sample_and_field() {
        let eleven: String = ('a'..='k').map(|letter| format!("{letter} x\n")).collect();
        let good = sample(&sample_question("民法_1", "成年は何歳か。", 'd'));
        for (field, value, wanted) in [
            ("問題文", Value::Null, "q.json: samples[1], field `問題文`: it is missing"),
            ("問題文", 3.into(), "q.json: samples[1], field `問題文`: expected text, found a number"),
            ("選択肢", "a x".into(), "q.json: samples[1], field `選択肢`: expected 2 to 10 lines"),
            ("選択肢", "a x\nb y\nd z".into(), "q.json: samples[1], field `選択肢`: a line for choice c is missing"),
            ("選択肢", eleven.into(), "q.json: samples[1], field `選択肢`: expected at most 10 choices"),
            (
                "選択肢",
                "a x\nb y".into(),
                "q.json: samples[1], field `output`: expected the letter of a choice (a or b)",
            ),
            (
                "output",
                "e".into(),
                "q.json: samples[1], field `output`: expected the letter of a choice (a, b, c or d)",
            ),
            (
                "選択肢",
                "a x\nb y\nc z\nd ｙ".into(),
                "q.json: samples[1], field `選択肢`: choices b and d are the same: \"y\"",
            ),
            (
                "選択肢",
                "a 二十二歳\nb 二十歳\nc 十八歳\nd 十六歳".into(),
                "q.json: samples[1], field `output`: the same question has the right answer \"十六歳\" here and \"二十二歳\" in \
                 samples[0]",
            ),
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
            let counts: LetterCounts = file.questions.iter().map(|q| (Some(q.answer), q.choices.len())).collect();
            assert_eq!(counts, LetterCounts::of_counts(&letters), "four choices each");
            let n = count / 140;
            let expected =
                [("金商法".to_owned(), 80 * n), ("薬機法".to_owned(), 39 * n), ("借地借家法".to_owned(), 21 * n)];
            let mut laws = super::super::laws(&file.questions);
            laws.sort_by_key(|l| std::cmp::Reverse(l.1));
            assert_eq!(laws, expected);
            let again: Value = serde_json::from_str(&file.to_json(&(0..count).collect::<Vec<_>>())).unwrap();
            assert_eq!(again, serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap());
            for (q, sample) in file.questions.iter().zip(&file.samples) {
                assert_eq!(sample["選択肢"], choices::format(&q.choices), "{}", q.file_name);
            }
        }
    }
}
