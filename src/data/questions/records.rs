//! Questions in JSONL records: `irori dataset` writes them there as the record's `meta`, and evaluation reads them back.

use super::{
    Choice, Question,
    consistent::{self, Answers, Asked},
    kind, letters, unsaid_choices,
};
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
/// (equal for every order of the choices), permutation, prompt, answer_format and context, and few_shot where there are examples.
///
/// # Errors
/// If the template does not render, or the permutation is of another number of choices.
pub fn line(
    question: &Question,
    template: &PromptTemplate,
    context: Context,
    examples: &[Question],
    permutation: Permutation,
) -> Result<Value> {
    let permuted = permutation.apply(question)?;
    let mut record = Map::new();
    if let Some(system) = &template.system {
        record.insert("system".into(), system.clone().into());
    }
    record.insert("input".into(), template.user(&permuted, context, examples)?.into());
    record.insert("output".into(), template.expected(&permuted).into());
    let shown = context == Context::Gold && question.context.is_some();
    let mut meta = serde_json::json!({
        "file_name": question.file_name, "law": question.law, "answer": permuted.answer.to_string(),
        "question": permuted.text, "choices": permuted.choices, "references": question.references,
        "question_id": permute::identity(question), "permutation": permutation.name(),
        "prompt": template.name(), "answer_format": template.answer.name(), "context": if shown { "gold" } else { "none" },
    });
    if let Some(meta) = meta.as_object_mut().filter(|_| !examples.is_empty()) {
        meta.insert("few_shot".into(), true.into());
    }
    record.insert("meta".into(), meta);
    Ok(Value::Object(record))
}

/// Reads the questions of a JSONL file of records.
///
/// # Errors
/// The file cannot be read, or the meta of a record does not hold a question, or holds one that contradicts itself or that of
/// another record; the error names line and field.
pub fn read(path: &Path) -> Result<Vec<Question>> {
    let records = record::read(path)?;
    let questions = records.iter().map(|r| question(path, r)).collect::<Result<_>>()?;
    check_answers(path, &records)?;
    Ok(questions)
}

/// The question of a record and the text of its right choice, if its meta says question, choices and answer.
pub fn asked(record: &Record) -> Option<(Asked, String)> {
    let text = |field: &str| record.meta.get(field).and_then(Value::as_str);
    let (question, choices) = (text("question")?, texts(record, "choices")?);
    let answer = record.answer()?.within(choices.len())?;
    // Where the prompt shows the question's own statute, the answer may depend on it.
    let about = if text("context") == Some("gold") { text("file_name").unwrap_or("") } else { "" };
    Some(Asked::new(question, about, &choices, answer))
}

/// Refuses a file in which one question has two right answers.
fn check_answers(path: &Path, records: &[Record]) -> Result<()> {
    let mut answers = Answers::default();
    for record in records {
        let Some(asked) = asked(record) else { continue };
        let right = asked.1.clone();
        if let Some((first, other)) = answers.add(record.line, asked) {
            let message = consistent::two_answers(&right, &format!("line {first}"), other);
            return Err(Error::content(path, format!("line {}, field `meta.answer`", record.line), message));
        }
    }
    Ok(())
}

/// The right choice of each record and how many choices its question has, where its answer is a letter. A record says its
/// choices in `meta.choices`; those that do not say them have as many as [`unsaid_choices`] makes of their answers.
///
/// # Errors
/// A record has choices that are no list of texts; one whose answer is a letter names choices that are not 2 to 10, empty or doubled, or has an answer that is none of
/// them or not the letter of its output, or two records have one question and two answers; `path` is for messages.
pub fn answers(path: &Path, records: &[Record]) -> Result<Vec<Option<(Choice, usize)>>> {
    let said: Vec<Option<(Choice, Option<usize>)>> = records
        .iter()
        .map(|record| {
            check_list(path, record)?;
            let Some(answer) = record.answer() else { return Ok(None) };
            check_written(path, record)?;
            let Some(choices) = texts(record, "choices") else { return Ok(Some((answer, None))) };
            check(path, record, &choices, answer).map(|()| Some((answer, Some(choices.len()))))
        })
        .collect::<Result<_>>()?;
    check_answers(path, records)?;
    let known = said.iter().flatten().filter(|(_, choices)| choices.is_none()).map(|(answer, _)| answer.index() + 1);
    let unsaid = unsaid_choices(known);
    Ok(said.into_iter().map(|s| s.map(|(answer, choices)| (answer, choices.unwrap_or(unsaid)))).collect())
}

/// The list of texts in a record's meta, if it is one.
fn texts(record: &Record, field: &str) -> Option<Vec<String>> {
    record.meta.get(field)?.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect()
}

/// Refuses choices that are something else than a list of texts: they would be passed over.
fn check_list(path: &Path, record: &Record) -> Result<()> {
    match record.meta.get("choices") {
        None | Some(Value::Null) => Ok(()),
        Some(_) if texts(record, "choices").is_some() => Ok(()),
        Some(other) => {
            let found = match other {
                Value::Array(_) => "one in which something is no text",
                other => kind(other),
            };
            let message = format!("expected a list of texts, found {found}");
            Err(Error::content(path, format!("line {}, field `meta.choices`", record.line), message))
        }
    }
}

/// Whether a record's choices are so many as a question may have, and its answer one of them.
fn check(path: &Path, record: &Record, choices: &[String], answer: Choice) -> Result<()> {
    let wrong = |field: &str, message: String| {
        Err(Error::content(path, format!("line {}, field `meta.{field}`", record.line), message))
    };
    let n = choices.len();
    if !(Choice::FEWEST..=Choice::MOST).contains(&n) {
        return wrong("choices", format!("expected a list of 2 to 10 choices, found {n}"));
    }
    if let Err(message) = consistent::choices(choices) {
        return wrong("choices", message);
    }
    match answer.within(n) {
        Some(_) => Ok(()),
        None => wrong("answer", format!("expected the letter of a choice ({}), found {answer}", letters(n))),
    }
}

/// Refuses a record whose meta and whose output name two letters.
fn check_written(path: &Path, record: &Record) -> Result<()> {
    match (record.said_answer(), record.written_answer()) {
        (Some(said), Some(written)) if said != written => {
            let message = format!("it is {said}, and the output ends in {written}");
            Err(Error::content(path, format!("line {}, field `meta.answer`", record.line), message))
        }
        _ => Ok(()),
    }
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
    let asked = text("question").filter(|t| !t.trim().is_empty()).ok_or_else(|| missing("question", "the question"))?;
    let choices = texts(record, "choices").ok_or_else(|| missing("choices", "a list of 2 to 10 choices"))?;
    let answer = record.answer().ok_or_else(|| missing("answer", "the letter of a choice"))?;
    check(path, record, &choices, answer)?;
    check_written(path, record)?;
    Ok(Question {
        file_name: text("file_name").unwrap_or_default(),
        law: text("law").unwrap_or_default(),
        context: None,
        text: asked,
        choices,
        answer,
        reasoning: None,
        references: texts(record, "references").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::questions::lawqa::sample_of_size;

    fn records(lines: &[String]) -> Vec<Record> {
        record::parse(Path::new("f.jsonl"), lines.join("\n").as_bytes()).unwrap()
    }

    #[test]
    fn a_question_comes_back_from_its_record_in_every_order() {
        let template = PromptTemplate::load("answer-line").unwrap();
        for n in 2..=10 {
            for &answer in Choice::first(n) {
                let q =
                    Question { answer, context: None, ..sample_of_size(n, "民法_1", "成年は何歳か。", 'a') };
                for order in permute::orders(n, n, 3, 0) {
                    let line = line(&q, &template, Context::None, &[], order).unwrap();
                    let record = records(&[line.to_string()]).remove(0);
                    let back = question(Path::new("f.jsonl"), &record).unwrap();
                    assert_eq!(back, order.apply(&q).unwrap());
                    assert_eq!(order.inverse().apply(&back).unwrap(), q);
                    assert_eq!(line["output"], format!("Answer: {}", back.answer));
                }
            }
        }
    }

    #[test]
    fn choices_that_are_none_are_refused_by_line_and_field() {
        let meta = |choices: usize, answer: &str| {
            let choices: Vec<String> = (0..choices).map(|i| format!("選択{i}")).collect();
            serde_json::json!({"input": "q", "output": answer, "meta": {"question": "q", "choices": choices, "answer": answer}})
                .to_string()
        };
        let path = Path::new("f.jsonl");
        for (bad, wanted) in [
            (meta(1, "a"), "f.jsonl: line 2, field `meta.choices`: expected a list of 2 to 10 choices, found 1"),
            (meta(11, "a"), "f.jsonl: line 2, field `meta.choices`: expected a list of 2 to 10 choices, found 11"),
            (
                meta(3, "d"),
                "f.jsonl: line 2, field `meta.answer`: expected the letter of a choice (a, b or c), found d",
            ),
            (meta(2, "j"), "f.jsonl: line 2, field `meta.answer`: expected the letter of a choice (a or b), found j"),
        ] {
            let records = records(&[meta(10, "j"), bad]);
            assert_eq!(question(path, &records[1]).unwrap_err().to_string(), wanted);
            assert_eq!(answers(path, &records).unwrap_err().to_string(), wanted);
        }
        for (choices, found) in [
            (serde_json::json!("a x\nb y"), "text"),
            (serde_json::json!({"a": "x", "b": "y"}), "an object"),
            (serde_json::json!(["x", 2]), "one in which something is no text"),
        ] {
            for output in ["a", "a free text"] {
                let line = serde_json::json!({"input": "q", "output": output, "meta": {"choices": choices}});
                let e = answers(path, &records(&[meta(2, "b"), line.to_string()])).unwrap_err().to_string();
                assert!(
                    e.starts_with("f.jsonl: line 2, field `meta.choices`: expected a list of texts, found "),
                    "{e}"
                );
                assert!(e.ends_with(found), "{e}");
            }
        }
        let fine = answers(path, &records(&[meta(10, "j"), meta(2, "b"), meta(5, "text")])).unwrap();
        assert_eq!(fine, [Some((Choice::ALL[9], 10)), Some((Choice::ALL[1], 2)), None]);
    }

    #[test]
    fn questions_that_contradict_themselves_or_one_another() {
        let path = Path::new("f.jsonl");
        let line = |choices: &[&str], answer: &str, output: &str, context: (&str, &str)| {
            let meta = serde_json::json!({"question": "q", "choices": choices, "answer": answer, "context": context.0, "file_name": context.1});
            serde_json::json!({"input": "q", "output": output, "meta": meta}).to_string()
        };
        let none = ("none", "n");
        let first = line(&["x", "y", "z"], "a", "Answer: a", none);
        for (bad, wanted) in [
            (line(&["x", "ｘ"], "a", "a", none), "`meta.choices`: choices a and b are the same: \"x\""),
            (line(&["x", " "], "a", "a", none), "`meta.choices`: choice b is empty"),
            (line(&["z", "x"], "a", "Answer: b", none), "`meta.answer`: it is a, and the output ends in b"),
            (
                line(&["z", "ｘ", "y"], "a", "1. …\n\nAnswer: a", none),
                "`meta.answer`: the same question has the right answer \"z\" here and \"x\" in line 1",
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("f.jsonl");
            std::fs::write(&file, format!("{first}\n{bad}\n")).unwrap();
            let error = read(&file).unwrap_err().to_string();
            assert!(error.ends_with(&format!("f.jsonl: line 2, field {wanted}")), "{error}");
            let records = records(&[first.clone(), bad]);
            assert_eq!(answers(path, &records).unwrap_err().to_string(), format!("f.jsonl: line 2, field {wanted}"));
        }
        let same = line(&["z", "y", "x"], "c", "c", none);
        let statutes = [line(&["x", "y"], "a", "a", ("gold", "n_1")), line(&["x", "y"], "b", "b", ("gold", "n_2"))];
        assert!(answers(path, &records(&[&[first, same][..], &statutes].concat())).is_ok());
    }

    #[test]
    fn records_without_choices_have_four_or_as_many_as_their_answers_need() {
        let path = Path::new("f.jsonl");
        let line = |answer: &str| serde_json::json!({"input": "q", "output": answer}).to_string();
        let sizes = |lines: &[String]| -> Vec<Option<usize>> {
            answers(path, &records(lines)).unwrap().iter().map(|a| a.map(|(_, n)| n)).collect()
        };
        assert_eq!(sizes(&[line("b"), line("hello")]), [Some(4), None]);
        assert_eq!(sizes(&[line("Answer: f"), line("Ｂ")]), [Some(6), Some(6)]);
    }
}
