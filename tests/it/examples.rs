//! The example files stay what `examples/README.md` says they are: the records a newcomer starts from, and what
//! `irori demo` is made of. JSON only; the commands that read these files have their own tests.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

const LETTERS: [&str; 4] = ["a", "b", "c", "d"];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("examples/{name}: {e}"))
}

fn lines(name: &str) -> Vec<Value> {
    read(name)
        .lines()
        .enumerate()
        .map(|(n, line)| serde_json::from_str(line).unwrap_or_else(|e| panic!("examples/{name}, line {}: {e}", n + 1)))
        .collect()
}

fn questions() -> Vec<Value> {
    let file: Value = serde_json::from_str(&read("lawqa/selection.json")).unwrap();
    file["samples"].as_array().expect("an object with `samples`").clone()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("`{key}` is not a string in {value}"))
}

/// The four choices without their letters, after checking the letters.
fn choices(question: &Value) -> Vec<&str> {
    let all: Vec<_> = text(question, "選択肢").split('\n').collect();
    assert_eq!(all.len(), 4, "four choices in {question}");
    all.iter()
        .zip(LETTERS)
        .map(|(line, letter)| {
            let rest = line.strip_prefix(letter).and_then(|r| r.strip_prefix(' '));
            rest.unwrap_or_else(|| panic!("`{line}` does not start with `{letter} `"))
        })
        .collect()
}

fn law(question: &Value) -> &str {
    text(question, "ファイル名").split('_').next().unwrap()
}

#[test]
fn law_questions_have_the_schema_of_lawqa() {
    let questions = questions();
    assert!(questions.len() >= 64, "{} questions", questions.len());
    for q in &questions {
        let keys: BTreeSet<_> = q.as_object().unwrap().keys().map(String::as_str).collect();
        let expected =
            ["ファイル名", "コンテキスト", "問題文", "指示", "選択肢", "output", "references"].into_iter().collect();
        assert_eq!(keys, expected);
        for key in ["ファイル名", "コンテキスト", "問題文", "指示"] {
            let t = text(q, key);
            assert!(!t.is_empty() && t == t.trim(), "`{key}` is empty or has stray spaces in {q}");
        }
        assert!(LETTERS.contains(&text(q, "output")), "{q}");
        assert!(text(q, "コンテキスト").starts_with("## "), "the context names its law first: {q}");
        let references = q["references"].as_array().unwrap();
        assert!(!references.is_empty());
        for r in references {
            assert!(r.as_str().unwrap().starts_with("https://laws.e-gov.go.jp/law/"), "{q}");
        }
    }
}

#[test]
fn the_four_choices_of_a_question_differ() {
    for q in questions() {
        let choices = choices(&q);
        assert!(choices.iter().all(|c| !c.is_empty() && *c == c.trim()), "{q}");
        assert_eq!(choices.iter().collect::<BTreeSet<_>>().len(), 4, "{q}");
    }
}

#[test]
fn letters_are_balanced_and_every_law_has_each_letter_twice() {
    let questions = questions();
    let mut by_letter = BTreeMap::<_, usize>::new();
    let mut by_law_and_letter = BTreeMap::<_, usize>::new();
    for q in &questions {
        *by_letter.entry(text(q, "output")).or_default() += 1;
        *by_law_and_letter.entry((law(q), text(q, "output"))).or_default() += 1;
    }
    assert_eq!(by_letter.into_values().collect::<Vec<_>>(), [questions.len() / 4; 4]);
    // Two of each, so that a split in halves stratified by law and answer comes out even.
    for ((law, letter), n) in by_law_and_letter {
        assert_eq!(n, 2, "{law}, answer {letter}");
    }
}

#[test]
fn the_right_choice_cannot_be_told_by_its_length() {
    let questions = questions();
    let longest = |q: &Value| {
        let (lengths, right): (Vec<_>, _) = (
            choices(q).iter().map(|c| c.chars().count()).collect(),
            LETTERS.iter().position(|l| *l == text(q, "output")).unwrap(),
        );
        lengths.iter().enumerate().all(|(i, n)| i == right || *n < lengths[right])
    };
    // By chance the right one of four is the longest in a quarter; three tenths is where it would begin to show.
    let n = questions.iter().filter(|q| longest(q)).count();
    assert!(10 * n <= 3 * questions.len(), "the right choice is the longest in {n} of {}", questions.len());
}

#[test]
fn no_question_twice() {
    let questions = questions();
    let distinct = |key: &str| questions.iter().map(|q| text(q, key)).collect::<BTreeSet<_>>().len();
    assert_eq!(distinct("ファイル名"), questions.len());
    assert_eq!(distinct("問題文"), questions.len());
    assert_eq!(distinct("コンテキスト"), questions.len(), "each question has its own article");
    assert_eq!(distinct("選択肢"), questions.len());
}

#[test]
fn reasoning_records_end_in_the_answer_of_their_question() {
    let questions = questions();
    let records = lines("cot.jsonl");
    assert_eq!(records.len(), 8);
    for r in &records {
        let name = text(&r["meta"], "file_name");
        let q = questions.iter().find(|q| text(q, "ファイル名") == name).expect("the question is in selection.json");
        assert!(text(r, "input").contains(text(q, "問題文")) && text(r, "input").contains(text(q, "選択肢")), "{name}");
        let output = text(r, "output");
        assert!(output.starts_with("1. "), "{name}: numbered reasoning");
        assert_eq!(output.lines().last().unwrap(), format!("Answer: {}", text(q, "output")), "{name}");
    }
}

#[test]
fn every_shape_of_record_has_an_example() {
    for r in lines("records.jsonl") {
        assert!(!text(&r, "input").is_empty() && !text(&r, "output").is_empty() && r["meta"].is_object());
    }
    for r in lines("completions.jsonl") {
        assert!(!text(&r, "prompt").is_empty() && !text(&r, "completion").is_empty());
    }
    for r in lines("messages.jsonl") {
        let turns = r["messages"].as_array().unwrap();
        assert!(turns.iter().all(|t| ["system", "user", "assistant"].contains(&text(t, "role"))));
        assert_eq!(text(turns.last().unwrap(), "role"), "assistant", "the last turn is the one to learn");
    }
    for r in lines("tokens.jsonl") {
        let (ids, labels) = (r["input_ids"].as_array().unwrap(), r["labels"].as_array().unwrap());
        assert_eq!(ids.len(), labels.len());
        let learned = ids.iter().zip(labels).filter(|(_, l)| l.as_i64() != Some(-100));
        assert!(learned.clone().count() > 0, "something to learn");
        assert!(learned.clone().all(|(id, label)| id == label), "labels are not shifted");
    }
    for r in lines("texts.jsonl") {
        assert!(r["text"].is_string() || r["tokens"].is_array());
    }
}
