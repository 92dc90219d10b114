//! Result files: what `irori eval` writes, and what the user's earlier script wrote.
//!
//! The fields of his files keep their names and places: `config`, `summary` {accuracy, correct_count, total_count} and
//! `results[]` {question, choices, correct_answer, predicted_answer, is_correct, response, retrieved_docs_count, file_name,
//! references}. irori adds to each result its law, the probability of each letter, the four permutations, tokens and time, and
//! to the summary an interval and the label distributions. Fields that irori does not know survive a rescoring.
//!
//! Reading is strict about what a comparison rests on and tolerant about the rest. `is_correct` and the summary are recomputed,
//! never believed.

use super::{answer, label, stats};
use crate::{
    Error, Result,
    data::questions::{Question, lawqa},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::{
    io::Write,
    path::{Path, PathBuf},
};

/// One choice order that was scored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PermutationDetail {
    /// `order[i]` is the letter, in the question's own order, of the choice shown at place i.
    pub order: [&'static str; 4],
    /// Probability of each choice, in the question's own order.
    pub probabilities: [f64; 4],
    /// Probability of the four letters together before they were normalised.
    pub mass: f64,
    /// The letter that was said, as shown.
    pub said: &'static str,
}

/// One question with its answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Item {
    /// The question.
    pub question: String,
    /// The four choices, one a line: "a …\nb …".
    pub choices: String,
    /// The right choice, 0..4.
    pub correct: usize,
    /// The chosen one, or `None` where no answer could be read.
    pub predicted: Option<usize>,
    /// What the model wrote; for log-likelihood the letter.
    pub response: String,
    /// Where the question comes from (lawqa's ファイル名); may be empty.
    pub file_name: String,
    /// Sources the data set names.
    pub references: Vec<String>,
    /// The law, or empty.
    pub law: String,
    /// Probability of each choice among the four; log-likelihood only.
    pub probabilities: Option<[f64; 4]>,
    /// Probability of the four letters together over the whole vocabulary; log-likelihood only.
    pub mass: Option<f64>,
    /// Each choice order, where more than one was scored.
    pub permutations: Vec<PermutationDetail>,
    /// Everything else that a read file held, and `prompt_tokens`, `new_tokens`, `elapsed_seconds`, `stopped`.
    pub extra: Map<String, Value>,
}

impl Item {
    /// A result of `question` without an answer yet.
    pub fn of(question: &Question) -> Self {
        Self {
            question: question.text.clone(),
            choices: lawqa::format_choices(&question.choices),
            correct: question.answer.index(),
            file_name: question.file_name.clone(),
            law: question.law.clone(),
            references: question.references.clone(),
            ..Self::default()
        }
    }

    /// Whether the chosen letter is the right one.
    pub fn is_correct(&self) -> bool {
        self.predicted == Some(self.correct)
    }

    /// The law: the field if set, else the first part of `file_name` ("金商法_第2章_…"), else "その他".
    pub fn law(&self) -> &str {
        match (self.law.as_str(), self.file_name.split('_').next()) {
            ("", Some(first)) if !first.is_empty() => first,
            ("", _) => "その他",
            (law, _) => law,
        }
    }

    /// The texts of the choices without their letters, in order.
    pub fn choice_texts(&self) -> Vec<&str> {
        let mut texts: Vec<&str> = Vec::with_capacity(4);
        let mut start = None;
        for line in self.choices.split_inclusive('\n') {
            let at = line.as_ptr() as usize - self.choices.as_ptr() as usize;
            let number = texts.len() + usize::from(start.is_some());
            if begins_choice(line, number)
                && let Some(s) = start.replace(at)
            {
                texts.push(strip_letter(&self.choices[s..at]));
            }
        }
        if let Some(s) = start {
            texts.push(strip_letter(&self.choices[s..]));
        }
        if texts.is_empty() && !self.choices.trim().is_empty() {
            texts.extend(self.choices.lines().map(str::trim).filter(|l| !l.is_empty()));
        }
        texts
    }

    fn to_json(&self) -> Value {
        let mut o = Map::new();
        o.insert("question".into(), json!(self.question));
        o.insert("choices".into(), json!(self.choices));
        o.insert("correct_answer".into(), json!(label(Some(self.correct))));
        o.insert("predicted_answer".into(), json!(label(self.predicted)));
        o.insert("is_correct".into(), json!(self.is_correct()));
        o.insert("response".into(), json!(self.response));
        o.insert("retrieved_docs_count".into(), self.extra.get("retrieved_docs_count").cloned().unwrap_or(json!(0)));
        o.insert("file_name".into(), json!(self.file_name));
        o.insert("references".into(), json!(self.references));
        o.insert("law".into(), json!(self.law()));
        if let Some(p) = self.probabilities {
            o.insert("probabilities".into(), letters_json(p));
        }
        if let Some(m) = self.mass {
            o.insert("letter_mass".into(), json!(m));
        }
        if !self.permutations.is_empty() {
            let list = self.permutations.iter().map(|p| {
                json!({"order": p.order.concat(), "said": p.said, "probabilities": letters_json(p.probabilities), "letter_mass": p.mass})
            });
            o.insert("permutations".into(), Value::Array(list.collect()));
        }
        for (k, v) in &self.extra {
            if !o.contains_key(k) {
                o.insert(k.clone(), v.clone());
            }
        }
        Value::Object(o)
    }
}

fn letters_json(p: [f64; 4]) -> Value {
    json!({"a": p[0], "b": p[1], "c": p[2], "d": p[3]})
}

/// Whether `line` opens the choice number `index` ("b 組織…", "(b) …", "ｂ．…").
fn begins_choice(line: &str, index: usize) -> bool {
    let line = line.trim_start().trim_start_matches(['(', '（', '[', '【']);
    let Some(first) = line.chars().next() else { return false };
    let rest = &line[first.len_utf8()..];
    answer::exact(first.encode_utf8(&mut [0; 4])) == Some(index)
        && rest.chars().next().is_none_or(|c| !c.is_ascii_alphanumeric())
}

fn strip_letter(choice: &str) -> &str {
    let choice = choice.trim().trim_start_matches(['(', '（', '[', '【']);
    let mut chars = choice.chars();
    chars.next();
    chars.as_str().trim_start_matches([')', '）', ']', '】', '.', '．', ':', '：', '、', ' ', '　', '\t']).trim()
}

/// A result file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvalResult {
    /// How it was made.
    pub config: Map<String, Value>,
    /// Facts added to the summary (time, questions per second).
    pub timing: Map<String, Value>,
    /// One entry a question, in the order of the data.
    pub results: Vec<Item>,
}

impl EvalResult {
    /// Right answers of all.
    pub fn accuracy(&self) -> stats::Proportion {
        let right = self.results.iter().filter(|r| r.is_correct()).count();
        stats::Proportion::new(right as u64, self.results.len() as u64)
    }

    /// Distribution of the predictions.
    pub fn predicted(&self) -> stats::Labels {
        stats::Labels::count(self.results.iter().map(|r| r.predicted))
    }

    /// Distribution of the right answers.
    pub fn truth(&self) -> stats::Labels {
        stats::Labels::count(self.results.iter().map(|r| Some(r.correct)))
    }

    /// The file's content.
    pub fn to_json(&self) -> Value {
        let a = self.accuracy();
        let names = |l: stats::Labels| -> Map<String, Value> {
            stats::Labels::NAMES.iter().zip(l.0).map(|(n, c)| ((*n).to_owned(), json!(c))).collect()
        };
        let mut laws: Vec<(&str, u64, u64)> = Vec::new();
        for r in &self.results {
            let at = laws.iter().position(|l| l.0 == r.law()).unwrap_or_else(|| {
                laws.push((r.law(), 0, 0));
                laws.len() - 1
            });
            laws[at].1 += u64::from(r.is_correct());
            laws[at].2 += 1;
        }
        let laws: Map<String, Value> = laws
            .into_iter()
            .map(|(law, right, n)| (law.to_owned(), json!({"correct_count": right, "total_count": n})))
            .collect();
        let mut summary = Map::new();
        summary.insert("accuracy".into(), json!(a.value));
        summary.insert("correct_count".into(), json!(a.count));
        summary.insert("total_count".into(), json!(a.total));
        summary.insert("wilson_95".into(), json!([a.low, a.high]));
        summary.insert("unknown_count".into(), json!(self.predicted().0[4]));
        summary.insert("predicted_labels".into(), Value::Object(names(self.predicted())));
        summary.insert("correct_labels".into(), Value::Object(names(self.truth())));
        summary.insert("by_law".into(), Value::Object(laws));
        if let Some(warning) = self.predicted().collapse(&self.truth()) {
            summary.insert("warning".into(), json!(warning));
        }
        summary.extend(self.timing.clone());
        json!({"config": self.config, "summary": summary, "results": self.results.iter().map(Item::to_json).collect::<Vec<_>>()})
    }

    /// Reads a result file. Errors name the file and the field.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let value: Value = serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes))
            .map_err(|e| Error::content(path, format!("line {}", e.line()), format!("not JSON: {e}")))?;
        Self::from_json(path, value)
    }

    fn from_json(path: &Path, value: Value) -> Result<Self> {
        let Value::Object(mut top) = value else {
            return Err(Error::content(path, "", format!("expected an evaluation result, found {}", kind(&value))));
        };
        let config = match top.remove("config") {
            Some(Value::Object(c)) => c,
            None | Some(Value::Null) => Map::new(),
            Some(other) => return Err(Error::content(path, "field `config`", expected("an object", &other))),
        };
        let Some(results) = top.remove("results") else {
            return Err(Error::content(path, "field `results`", "is missing: this is not an evaluation result"));
        };
        let Value::Array(list) = results else {
            return Err(Error::content(path, "field `results`", expected("a list", &results)));
        };
        let results: Vec<Item> =
            list.into_iter().enumerate().map(|(i, v)| read_item(path, i, v)).collect::<Result<_>>()?;
        if results.is_empty() {
            return Err(Error::content(path, "field `results`", "is empty: there is nothing to compare or to score"));
        }
        Ok(Self { config, timing: Map::new(), results })
    }

    /// Parses every stored response again; returns how many predictions changed. A result without a response keeps its
    /// prediction only where it has probabilities.
    pub fn rescore(&mut self) -> usize {
        let mut changed = 0;
        for r in self.results.iter_mut().filter(|r| r.probabilities.is_none()) {
            let again = answer::parse(&r.response);
            if again != r.predicted {
                r.extra.insert("previous_answer".into(), json!(label(r.predicted)));
                changed += 1;
            }
            r.predicted = again;
        }
        changed
    }

    /// Writes the file: beside its place, synced, renamed. An existing file is kept unless `force`.
    pub fn write(&self, path: &Path, force: bool) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.to_json())
            .map_err(|e| Error::failed(format!("cannot write the result as JSON: {e}")))?;
        write_atomic(path, (text + "\n").as_bytes(), force)
    }
}

/// Whether `path` may be written: an error (exit code 2) if it exists and `force` is not set, or if its directory does not
/// exist. Asked before long work begins.
pub fn check_output(path: &Path, force: bool) -> Result<()> {
    if path.is_dir() {
        return Err(Error::usage(format!("{} is a directory: name a file", path.display())));
    }
    if !force && path.exists() {
        return Err(Error::usage(format!(
            "{} exists: choose another name, or overwrite it with --force",
            path.display()
        )));
    }
    let parent = parent_of(path);
    if !parent.is_dir() {
        return Err(Error::usage(format!("{} does not exist: create the directory first", parent.display())));
    }
    Ok(())
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Writes `bytes` under a temporary name in the same directory, syncs, and renames. Without `force` an existing file
/// is an error.
pub fn write_atomic(path: &Path, bytes: &[u8], force: bool) -> Result<()> {
    check_output(path, force)?;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let beside = parent_of(path).join(format!(".{name}.{}.tmp", std::process::id()));
    let written = std::fs::File::create(&beside)
        .and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()))
        .map_err(Error::io("write", path))
        .and_then(|()| std::fs::rename(&beside, path).map_err(Error::io("create", path)));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

fn kind(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn expected(what: &str, found: &Value) -> String {
    format!("expected {what}, found {}", kind(found))
}

fn read_item(path: &Path, index: usize, value: Value) -> Result<Item> {
    let at = |field: &str| format!("results[{index}], field `{field}`");
    let Value::Object(mut o) = value else {
        return Err(Error::content(path, format!("results[{index}]"), expected("an object", &value)));
    };
    let mut text = |field: &'static str, required: bool| match o.remove(field) {
        Some(Value::String(s)) => Ok(s),
        None | Some(Value::Null) if required => Err(Error::content(path, at(field), "is missing")),
        None | Some(Value::Null) => Ok(String::new()),
        Some(other) => Err(Error::content(path, at(field), expected("a string", &other))),
    };
    let question = text("question", true)?;
    let correct = text("correct_answer", true)?;
    let predicted = text("predicted_answer", true)?;
    let response = text("response", false)?;
    let file_name = text("file_name", false)?;
    let law = text("law", false)?;
    let correct = answer::exact(&correct).ok_or_else(|| {
        Error::content(path, at("correct_answer"), format!("expected a, b, c or d, found {correct:?}"))
    })?;
    let choices = match o.remove("choices") {
        Some(Value::String(s)) => s,
        None | Some(Value::Null) => String::new(),
        Some(Value::Array(list)) => {
            let lines: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            lines.ok_or_else(|| Error::content(path, at("choices"), "expected strings in the list"))?.join("\n")
        }
        Some(other) => return Err(Error::content(path, at("choices"), expected("a string", &other))),
    };
    let references = match o.remove("references") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(s)) => vec![s],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(other) => return Err(Error::content(path, at("references"), expected("a list", &other))),
    };
    let probabilities = match o.remove("probabilities") {
        None | Some(Value::Null) => None,
        Some(Value::Object(p)) => {
            let read = super::LETTERS.map(|l| p.get(l).and_then(Value::as_f64).filter(|x| (0.0..=1.0).contains(x)));
            match read {
                [Some(a), Some(b), Some(c), Some(d)] => Some([a, b, c, d]),
                _ => return Err(Error::content(path, at("probabilities"), "expected a, b, c and d between 0 and 1")),
            }
        }
        Some(other) => return Err(Error::content(path, at("probabilities"), expected("an object", &other))),
    };
    let mass = o.remove("letter_mass").and_then(|m| m.as_f64());
    o.remove("is_correct");
    let predicted = answer::exact(&predicted);
    // Details of permutations stay as they are in `extra`.
    Ok(Item {
        question,
        choices,
        correct,
        predicted,
        response,
        file_name,
        references,
        law,
        probabilities,
        mass,
        permutations: Vec::new(),
        extra: o,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The user's recorded results, if they are at hand.
    pub(crate) fn recorded(name: &str) -> Option<EvalResult> {
        let base = std::env::var_os("IRORI_SHARED_DATA")
            .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data")), PathBuf::from);
        let path = base.join("eval_outputs").join(name);
        if !path.exists() {
            eprintln!("SKIP: {} is not there (set IRORI_SHARED_DATA)", path.display());
            return None;
        }
        Some(EvalResult::read(&path).expect("a recorded result is read"))
    }

    pub(crate) fn item(file: &str, correct: usize, predicted: Option<usize>) -> Item {
        Item {
            question: format!("{file}の問題"),
            choices: "a 一\nb 二\nc 三\nd 四".into(),
            correct,
            predicted,
            response: label(predicted).into(),
            file_name: file.into(),
            ..Item::default()
        }
    }

    #[test]
    fn choices_without_letters() {
        let mut i = item("x", 0, None);
        assert_eq!(i.choice_texts(), ["一", "二", "三", "四"]);
        i.choices = "(a) 一\n続き\nｂ．二\nc: 三\nd、四".into();
        assert_eq!(i.choice_texts(), ["一\n続き", "二", "三", "四"]);
        i.choices = "一\n二".into();
        assert_eq!(i.choice_texts(), ["一", "二"]);
        i.choices = String::new();
        assert!(i.choice_texts().is_empty());
    }

    #[test]
    fn written_and_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("r.json");
        let mut first = item("金商法_第2章_1", 2, Some(2));
        first.probabilities = Some([0.1, 0.2, 0.6, 0.1]);
        first.mass = Some(0.97);
        first.extra.insert("retrieved_docs_count".into(), json!(0));
        first.law = "金商法".into();
        let mut second = item("薬機法_1", 0, None);
        second.law = "薬機法".into();
        second.extra.insert("retrieved_docs_count".into(), json!(3));
        second.extra.insert("reasoning".into(), json!("…"));
        let r = EvalResult { results: vec![first, second], ..EvalResult::default() };
        r.write(&path, false).expect("written");
        assert_eq!(EvalResult::read(&path).expect("read"), r);
        let again = r.write(&path, false).expect_err("nothing is overwritten");
        assert!(again.to_string().contains("--force") && again.exit_code() == 2, "{again}");
        r.write(&path, true).expect("forced");
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1, "no temporary file stays");
        let v = r.to_json();
        assert_eq!(v["summary"]["correct_count"], 1);
        assert_eq!(v["summary"]["by_law"]["薬機法"]["total_count"], 1);
        assert_eq!(v["results"][0]["is_correct"], true);
        assert_eq!(v["results"][1]["predicted_answer"], "unknown");
        assert_eq!(v["results"][1]["reasoning"], "…");
    }

    #[test]
    fn bad_files_are_named_with_their_field() {
        let path = Path::new("r.json");
        let ok = r#"{"question":"q","correct_answer":"a","predicted_answer":"b"}"#;
        for (text, says) in [
            ("[]", "expected an evaluation result, found a list"),
            ("{}", "field `results`: is missing"),
            (r#"{"results":3}"#, "field `results`: expected a list, found a number"),
            (r#"{"results":[]}"#, "field `results`: is empty"),
            (r#"{"results":[1]}"#, "results[0]: expected an object, found a number"),
            (&format!(r#"{{"results":[{ok},{{}}]}}"#), "results[1], field `question`: is missing"),
            (&format!(r#"{{"config":1,"results":[{ok}]}}"#), "field `config`: expected an object, found a number"),
            (&ok.replace("\"a\"", "\"e\""), "results[0], field `correct_answer`: expected a, b, c or d, found \"e\""),
            (&ok.replace("\"b\"", "7"), "results[0], field `predicted_answer`: expected a string, found a number"),
            (&ok.replace("\"q\"", "null"), "results[0], field `question`: is missing"),
            (&ok.replace('}', r#","choices":{}}"#), "results[0], field `choices`: expected a string, found an object"),
            (&ok.replace('}', r#","references":4}"#), "results[0], field `references`: expected a list"),
            (&ok.replace('}', r#","probabilities":{"a":2}}"#), "results[0], field `probabilities`"),
        ] {
            let text =
                if text.starts_with("{\"question") { format!(r#"{{"results":[{text}]}}"#) } else { text.to_owned() };
            let value = serde_json::from_str(&text).expect("JSON");
            let e = EvalResult::from_json(path, value).expect_err(&text);
            assert!(e.to_string().contains(says) && e.to_string().starts_with("r.json"), "{e} lacks {says}");
        }
        let fine = serde_json::from_str(&format!(r#"{{"results":[{ok}]}}"#)).expect("JSON");
        assert_eq!(EvalResult::from_json(path, fine).expect("read").results.len(), 1);
    }

    #[test]
    fn unreadable_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("bad.json");
        assert!(EvalResult::read(&path).expect_err("missing").to_string().contains("cannot read"));
        for bytes in [&b""[..], b"{\"results\":[", b"\xff\xfe", b"{\"a\":1}{", &b"[".repeat(100_000)] {
            std::fs::write(&path, bytes).expect("written");
            let e = EvalResult::read(&path).expect_err("not JSON").to_string();
            assert!(e.contains("bad.json") && e.contains("not JSON"), "{e}");
        }
    }

    /// The user's own parser against ours, on everything he recorded. Each disagreement was read by hand, and in each ours says
    /// what the response says. His took an "a" from anywhere when it found nothing (five responses of the 27 that say b or d
    /// again and again), and credited a right answer to responses that name none or two (92 of 140; 25 of 27).
    #[test]
    fn recorded_outputs() {
        type Differ = &'static [(usize, &'static str, &'static str)];
        let disagreements: [(&str, u64, u64, Differ); 2] = [
            ("qwen3_8b_rag_cot_140.json", 85, 85, &[(28, "a", "unknown"), (92, "b", "unknown"), (134, "a", "b")]),
            (
                "qwen3_8b_norag_direct_dev27.json",
                13,
                17,
                &[
                    (2, "a", "c"),
                    (3, "a", "c"),
                    (4, "b", "a"),
                    (9, "b", "d"),
                    (10, "a", "d"),
                    (11, "a", "b"),
                    (12, "a", "b"),
                    (15, "a", "unknown"),
                    (16, "b", "a"),
                    (18, "a", "b"),
                    (19, "a", "b"),
                    (20, "a", "d"),
                    (25, "b", "unknown"),
                    (26, "c", "unknown"),
                ],
            ),
        ];
        for (name, right_before, right_now, differ) in disagreements {
            let Some(old) = recorded(name) else { return };
            let mut new = old.clone();
            assert_eq!(new.rescore(), differ.len());
            let found: Vec<_> = (0..old.results.len())
                .map(|i| (i, label(old.results[i].predicted), label(new.results[i].predicted)))
                .filter(|(_, o, n)| o != n)
                .collect();
            assert_eq!(found, differ, "{name}");
            assert_eq!((old.accuracy().count, new.accuracy().count), (right_before, right_now), "{name}");
        }
    }
}
