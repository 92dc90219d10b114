//! Result files: what `irori eval` writes, and what earlier evaluation scripts wrote.
//!
//! The fields that such scripts know keep their names and places: `config`, `summary` {accuracy, correct_count, total_count}
//! and `results[]` {question, choices, correct_answer, predicted_answer, is_correct, response, retrieved_docs_count,
//! file_name, references}. irori adds to each result its law, the probability of each letter, the orders of the choices,
//! tokens and time, and to the summary an interval and the counts of letters. Fields that irori does not know, of the file, its
//! summary and its results, survive a rescoring.
//!
//! Reading is strict about what a comparison rests on and tolerant about the rest. `is_correct` and the summary are recomputed,
//! never believed.

use super::{
    item::{Item, expected},
    label, letters,
};
use crate::{
    Error, Result,
    data::{
        json,
        questions::{LetterCounts, kind, unsaid_choices},
    },
    stats::Proportion,
};
use serde_json::{Map, Value, json};
use std::path::Path;

/// A result file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvalResult {
    /// How it was made.
    pub config: Map<String, Value>,
    /// What the summary says that does not follow from the results: time, questions per second, an earlier script's own.
    pub facts: Map<String, Value>,
    /// Fields beside config, summary and results that a read file had.
    pub rest: Map<String, Value>,
    /// One entry a question, in the order of the data.
    pub results: Vec<Item>,
}

impl EvalResult {
    /// Right answers of all.
    pub fn accuracy(&self) -> Proportion {
        let right = self.results.iter().filter(|r| r.is_correct()).count();
        Proportion::new(right as u64, self.results.len() as u64)
    }

    /// The letters that were said.
    pub fn predicted(&self) -> LetterCounts {
        self.results.iter().map(|r| (r.predicted, r.choice_count)).collect()
    }

    /// The letters that are right.
    pub fn truth(&self) -> LetterCounts {
        self.results.iter().map(|r| (Some(r.correct), r.choice_count)).collect()
    }

    /// The file's content.
    pub fn to_json(&self) -> Value {
        let mut file = json!({
            "config": self.config, "summary": self.summary(),
            "results": self.results.iter().map(Item::to_json).collect::<Vec<_>>(),
        });
        if let Value::Object(file) = &mut file {
            file.extend(self.rest.clone());
        }
        file
    }

    /// What the results say in numbers.
    pub fn summary(&self) -> Map<String, Value> {
        let a = self.accuracy();
        let (predicted, truth) = (self.predicted(), self.truth());
        let columns = truth.columns();
        let named = |counts: &LetterCounts| -> Map<String, Value> {
            let row = letters::row(counts, columns);
            letters::names(columns).into_iter().zip(row).map(|(n, c)| (n.to_owned(), json!(c))).collect()
        };
        let mut summary = Map::new();
        summary.insert("accuracy".into(), json!(a.value));
        summary.insert("correct_count".into(), json!(a.count));
        summary.insert("total_count".into(), json!(a.total));
        summary.insert("wilson_95".into(), json!([a.low, a.high]));
        summary.insert("unknown_count".into(), json!(predicted.none));
        summary.insert("predicted_labels".into(), Value::Object(named(&predicted)));
        summary.insert("correct_labels".into(), Value::Object(named(&truth)));
        summary.insert("by_law".into(), Value::Object(self.by_law()));
        if let Some(warning) = letters::collapse(&predicted, &truth) {
            summary.insert("warning".into(), json!(warning));
        }
        summary.extend(self.facts.clone());
        summary
    }

    /// Right answers and questions of each law, in order of appearance.
    fn by_law(&self) -> Map<String, Value> {
        let mut laws: Vec<(&str, u64, u64)> = Vec::new();
        for r in &self.results {
            let at = laws.iter().position(|l| l.0 == r.law()).unwrap_or_else(|| {
                laws.push((r.law(), 0, 0));
                laws.len() - 1
            });
            laws[at].1 += u64::from(r.is_correct());
            laws[at].2 += 1;
        }
        let entry =
            |(law, right, n): (&str, u64, u64)| (law.to_owned(), json!({"correct_count": right, "total_count": n}));
        laws.into_iter().map(entry).collect()
    }

    /// Reads a result file.
    ///
    /// # Errors
    /// The file cannot be read or is not a result; the error names the file and the field.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        Self::from_json(path, json::one(path, &bytes)?)
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
        let mut results: Vec<Item> =
            list.into_iter().enumerate().map(|(i, v)| Item::read(path, i, v)).collect::<Result<_>>()?;
        if results.is_empty() {
            return Err(Error::content(path, "field `results`", "is empty: there is nothing to compare or to score"));
        }
        let unsaid = unsaid_choices(results.iter().filter(|r| r.choice_count == 0).map(Item::least_choices));
        for (i, item) in results.iter_mut().enumerate() {
            item.settle(path, i, unsaid)?;
        }
        let mut read = Self { config, facts: Map::new(), rest: Map::new(), results };
        if let Some(Value::Object(summary)) = top.remove("summary") {
            let computed = read.summary();
            read.facts = summary.into_iter().filter(|(k, _)| !computed.contains_key(k) && k != "warning").collect();
        }
        read.rest = top;
        Ok(read)
    }

    /// Reads the stored responses again, of the results that a response decides. One that was answered by likelihood, by a
    /// vote among several responses, or of which no response is stored, is kept.
    pub fn rescore(&mut self) -> Rescored {
        let of_config = |name: &str| self.config.get(name);
        let votes = of_config("ensemble_runs").and_then(Value::as_u64).is_some_and(|n| n > 1);
        let by_likelihood = of_config("method").is_some_and(|m| m == "loglik");
        let mut counts = Rescored::default();
        for r in &mut self.results {
            if by_likelihood || r.probabilities.is_some() {
                counts.by_likelihood += 1;
            } else if votes {
                counts.by_vote += 1;
            } else if r.response.trim().is_empty() {
                counts.without_response += 1;
            } else {
                counts.read += 1;
                let again = r.read_response();
                if again != r.predicted {
                    r.extra.insert("previous_answer".into(), json!(label(r.predicted)));
                    counts.changed += 1;
                }
                r.predicted = again;
            }
        }
        counts
    }
}

/// What became of results whose responses were read again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rescored {
    /// Read again.
    pub read: usize,
    /// Of these, read differently.
    pub changed: usize,
    /// Kept: likelihoods decided, not a response.
    pub by_likelihood: usize,
    /// Kept: several responses were asked for, and one of them is stored.
    pub by_vote: usize,
    /// Kept: no response is stored.
    pub without_response: usize,
}

impl Rescored {
    /// Those that were kept, and why, in words; empty if there are none.
    pub fn kept(&self) -> String {
        let kinds = [
            (self.by_likelihood, "answered by likelihood"),
            (self.by_vote, "answered by a vote of several responses"),
            (self.without_response, "without a stored response"),
        ];
        let said: Vec<String> = kinds.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} {why}")).collect();
        said.join(", ")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::data::{
        questions::{Choice, Question, choices},
        shared::shared,
    };

    /// Results that an earlier script recorded, if they are at hand.
    pub(crate) fn recorded(name: &str) -> Option<EvalResult> {
        let path = shared(&format!("eval_outputs/{name}"))?;
        Some(EvalResult::read(&path).expect("a recorded result is read"))
    }

    pub(crate) fn item(file: &str, correct: usize, predicted: Option<usize>) -> Item {
        of_size(4, file, correct, predicted)
    }

    /// A question with `n` choices, of which number `correct` is right and number `predicted` was said.
    pub(crate) fn of_size(n: usize, file: &str, correct: usize, predicted: Option<usize>) -> Item {
        let texts = ["一", "二", "三", "四", "五", "六", "七", "八", "九", "十"];
        let question = Question {
            file_name: file.into(),
            law: String::new(),
            context: None,
            text: format!("{file}の問題"),
            choices: texts[..n].iter().map(|&t| t.to_owned()).collect(),
            answer: Choice::ALL[correct],
            reasoning: None,
            references: Vec::new(),
        };
        let predicted = predicted.map(|p| Choice::ALL[p]);
        Item { predicted, response: label(predicted).into(), ..Item::of(&question) }
    }

    #[test]
    fn written_and_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("r.json");
        let mut first = item("金商法_第2章_1", 2, Some(2));
        first.probabilities = Some(vec![0.1, 0.2, 0.6, 0.1]);
        first.mass = Some(0.97);
        first.extra.insert("retrieved_docs_count".into(), json!(0));
        first.law = "金商法".into();
        let mut second = item("薬機法_1", 0, None);
        second.law = "薬機法".into();
        second.extra.insert("retrieved_docs_count".into(), json!(3));
        second.extra.insert("reasoning".into(), json!("…"));
        let r = EvalResult { results: vec![first, second], ..EvalResult::default() };
        std::fs::write(&path, r.to_json().to_string()).expect("written");
        assert_eq!(EvalResult::read(&path).expect("read"), r);
        let v = r.to_json();
        assert_eq!(v["summary"]["correct_count"], 1);
        assert_eq!(v["summary"]["by_law"]["薬機法"]["total_count"], 1);
        assert_eq!(v["results"][0]["is_correct"], true);
        assert_eq!(v["results"][1]["predicted_answer"], "unknown");
        assert_eq!(v["results"][1]["reasoning"], "…");
    }

    #[test]
    fn every_number_of_choices_is_written_and_read_again() {
        let path = Path::new("r.json");
        let mut results = Vec::new();
        for n in 2..=10 {
            for said in (0..n).map(Some).chain([None]) {
                results.push(of_size(n, "民法_1", n - 1, said));
            }
        }
        results[3].probabilities = Some(vec![0.5, 0.25, 0.25]);
        results.iter_mut().for_each(|r| {
            r.law = "民法".into();
            r.extra.insert("retrieved_docs_count".into(), json!(0));
        });
        // Texts that look like other choices when they are put into lines.
        let mut hard = of_size(2, "民法_2", 1, Some(0));
        hard.texts = vec!["一つ目\nb 二つ目に見える".into(), "二つ目".into()];
        hard.choices = choices::lines(&hard.texts).join("\n");
        (hard.law, hard.extra) = ("民法".into(), results[0].extra.clone());
        results.push(hard);
        let r = EvalResult { results, ..EvalResult::default() };
        let v = r.to_json();
        assert_eq!(EvalResult::from_json(path, v.clone()).expect("read"), r);
        assert_eq!(v["results"][0]["choices"], "a 一\nb 二");
        assert_eq!(v["results"][r.results.len() - 1]["choices"], json!(["a 一つ目\nb 二つ目に見える", "b 二つ目"]));
        assert_eq!(v["results"][3]["probabilities"], json!({"a": 0.5, "b": 0.25, "c": 0.25}));
        assert_eq!(v["summary"]["correct_labels"]["j"], 11);
        let two = EvalResult { results: vec![of_size(2, "民法_1", 1, None)], ..EvalResult::default() };
        assert_eq!(two.to_json()["summary"]["predicted_labels"], json!({"a": 0, "b": 0, "unknown": 1}));
    }

    #[test]
    fn letters_are_held_to_the_choices_of_their_question() {
        let path = Path::new("r.json");
        let entry = |right: &str, said: &str, choices: Value| json!({"question": "q", "correct_answer": right, "predicted_answer": said, "response": "Answer: e", "choices": choices});
        let read =
            |entries: Vec<Value>| EvalResult::from_json(path, json!({"results": entries})).expect("read").results;
        let five: Vec<&str> = vec!["一", "二", "三", "四", "五"];
        let items = read(vec![
            entry("a", "e", "a 一\nb 二\nc 三\nd 四".into()),
            entry("b", "ｂ", "(a) 一\nｂ．二".into()),
            entry("a", "e", five.clone().into()),
            entry("d", "c", "一行目\n二行目".into()),
            entry("a", "e", Value::Null),
        ]);
        assert_eq!(items.iter().map(|i| i.choice_count).collect::<Vec<_>>(), [4, 2, 5, 4, 4]);
        let said: Vec<&str> = items.iter().map(|i| label(i.predicted)).collect();
        assert_eq!(said, ["unknown", "b", "e", "c", "unknown"], "a letter beyond the choices is no answer");
        assert_eq!(items[2].texts, five);
        // One entry without choices whose right letter is g says that such entries have seven.
        let items = read(vec![entry("a", "e", Value::Null), entry("g", "h", Value::Null)]);
        assert_eq!(
            items.iter().map(|i| (i.choice_count, label(i.predicted))).collect::<Vec<_>>(),
            [(7, "e"), (7, "unknown")]
        );
        let mut again = EvalResult { results: items, ..EvalResult::default() };
        let counts = again.rescore();
        assert_eq!((counts.read, counts.changed, label(again.results[1].predicted)), (2, 1, "e"));
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
            (
                &ok.replace("\"a\"", "\"k\""),
                "results[0], field `correct_answer`: expected a letter from a to j, found \"k\"",
            ),
            (&ok.replace("\"b\"", "7"), "results[0], field `predicted_answer`: expected text, found a number"),
            (&ok.replace("\"q\"", "null"), "results[0], field `question`: is missing"),
            (&ok.replace('}', r#","choices":{}}"#), "results[0], field `choices`: expected text, found an object"),
            (&ok.replace('}', r#","references":4}"#), "results[0], field `references`: expected a list"),
            (&ok.replace('}', r#","probabilities":{"a":2}}"#), "results[0], field `probabilities`"),
            (
                &ok.replace('}', r#","choices":"a x\nb y","probabilities":{"a":0.1,"b":0.2,"c":0.7}}"#),
                "results[0], field `probabilities`: expected those of 2 choices, found 3",
            ),
            (
                &ok.replace("\"a\"", "\"c\"").replace('}', r#","choices":"a x\nb y"}"#),
                "results[0], field `correct_answer`: expected the letter of a choice (a or b), found c",
            ),
            (
                &ok.replace('}', r#","choices":["x"]}"#),
                "results[0], field `choices`: expected 2 to 10 choices, found 1",
            ),
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
    fn only_what_a_response_decides_is_read_again_and_nothing_else_is_lost() {
        let path = Path::new("r.json");
        let entry = |said: &str, response: &str| json!({"question": "q", "choices": "a 一\nb 二", "correct_answer": "a", "predicted_answer": said, "response": response});
        let read = |config: Value, entries: Vec<Value>| {
            let file = json!({"config": config, "summary": {"accuracy": 0.1, "hours": 3, "warning": "old"}, "results": entries, "notes": ["mine"]});
            EvalResult::from_json(path, file).expect("read")
        };
        let rescored = |config: Value, entries: Vec<Value>| {
            let mut r = read(config, entries);
            let counts = r.rescore();
            (counts, r.results.iter().map(|i| label(i.predicted)).collect::<Vec<_>>().join(" "))
        };
        let mut likely = entry("b", "a");
        likely["probabilities"] = json!({"a": 0.4, "b": 0.6});
        let mut cut = entry("a", "Answer: a");
        cut["stopped"] = json!(false);
        let mut thought = entry("a", "it may be\nAnswer: a");
        thought["in_thought"] = json!(true);
        let entries =
            vec![entry("a", "Answer: b"), entry("b", ""), entry("b", "a か b"), likely, cut, thought, entry("a", "a")];
        let (counts, said) = rescored(json!({}), entries.clone());
        assert_eq!(said, "b b unknown b unknown unknown a");
        let kept = Rescored { read: 5, changed: 4, by_likelihood: 1, without_response: 1, ..Rescored::default() };
        assert_eq!(counts, kept);
        assert_eq!(counts.kept(), "1 answered by likelihood, 1 without a stored response");
        for (config, kept) in [
            (json!({"method": "loglik"}), "7 answered by likelihood"),
            (
                json!({"method": "generate", "ensemble_runs": 5}),
                "1 answered by likelihood, 6 answered by a vote of several responses",
            ),
        ] {
            let (counts, said) = rescored(config, entries.clone());
            assert_eq!((counts.read, counts.kept().as_str(), said.as_str()), (0, kept, "a b b b a a a"));
        }
        let v = read(json!({}), entries).to_json();
        assert_eq!(
            (&v["notes"], &v["summary"]["hours"], v["summary"].get("warning")),
            (&json!(["mine"]), &json!(3), None)
        );
        assert_ne!(v["summary"]["accuracy"], 0.1, "computed, never believed");
    }

    #[test]
    fn unreadable_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("bad.json");
        assert!(EvalResult::read(&path).expect_err("missing").to_string().contains("cannot read"));
        let deep = b"[".repeat(100_000);
        for (bytes, says) in [
            (&b""[..], "line 1: not valid JSON"),
            (b"{\"results\":[", "line 1: not valid JSON"),
            (b"{\"a\":1}\n{\"a\":1}", "line 2: not valid JSON: trailing characters: expected one JSON value"),
            (b"{\"a\":1,\"a\":2}", "the key `a` stands twice"),
            (b"{\n\"a\":\"\xff\"}", "line 2: not UTF-8"),
            (&deep, "not valid JSON"),
            (b"\xff\xfe", "UTF-16"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ] {
            std::fs::write(&path, bytes).expect("written");
            let e = EvalResult::read(&path).expect_err(says).to_string();
            assert!(e.contains("bad.json") && e.contains(says), "{e}");
        }
    }

    /// An earlier script's parser against ours, on recorded outputs. Each disagreement was read by hand, and in each ours
    /// says what the response says. The earlier one took an "a" from anywhere when it found nothing (five responses of the 27
    /// that say b or d again and again), and credited a right answer to responses that name none or two (92 of 140; 25 of 27).
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
            let counts = new.rescore();
            assert_eq!(counts.read + counts.without_response, old.results.len());
            let found: Vec<_> = (0..old.results.len())
                .map(|i| (i, label(old.results[i].predicted), label(new.results[i].predicted)))
                .filter(|(_, o, n)| o != n)
                .collect();
            assert_eq!(found, differ, "{name}");
            assert_eq!((old.accuracy().count, new.accuracy().count), (right_before, right_now), "{name}");
        }
    }
}
