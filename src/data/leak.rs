//! Leaks: a test question that the model was trained on, in whatever order of choices and whatever wording around it.

use super::{
    permute::{fold, identity},
    questions::{self, Answers, Question, lawqa},
    record::{self, Record},
};
use crate::{Error, Result};
use std::{collections::HashSet, path::Path};

/// Places in `questions` of those that `others` have too, in any order of choices.
pub fn shared_questions(questions: &[Question], others: &[Question]) -> Vec<usize> {
    let ids: HashSet<String> = others.iter().map(identity).collect();
    (0..questions.len()).filter(|&i| ids.contains(&identity(&questions[i]))).collect()
}

/// Places in `questions` of those that occur in the file `path`: lawqa JSON, or JSONL records, in which a question occurs
/// if its text and all choices do (white space, width and case do not count).
///
/// # Errors
/// The file is neither.
pub fn shared_with_file(questions: &[Question], path: &Path) -> Result<Vec<usize>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let as_lawqa = lawqa::parse(path, &bytes);
    let records = match as_lawqa {
        Ok(file) => return Ok(shared_questions(questions, &file.questions)),
        // A file of several lines of JSON is not one JSON value: the error of the likelier reading is the useful one.
        Err(e) if path.extension().is_some_and(|ext| ext == "json") => return Err(e),
        Err(_) => record::parse(path, &bytes)?,
    };
    let texts: Vec<String> = records.iter().map(|r| fold(&r.text())).collect();
    let ids: HashSet<&str> = records.iter().filter_map(|r| r.meta.get("question_id")?.as_str()).collect();
    let occurs = |q: &Question| {
        let needles: Vec<String> = std::iter::once(&q.text).chain(&q.choices).map(|t| fold(t)).collect();
        ids.contains(identity(q).as_str()) || texts.iter().any(|t| needles.iter().all(|n| t.contains(n)))
    };
    Ok((0..questions.len()).filter(|&i| occurs(&questions[i])).collect())
}

/// Lines of `records` and of `others` that ask the same question and have different right answers.
pub fn contradictions(records: &[Record], others: &[Record]) -> Vec<(usize, usize)> {
    let mut answers = Answers::default();
    for record in others {
        if let Some(asked) = questions::records::asked(record) {
            answers.add(record.line, asked);
        }
    }
    let other = |r: &Record| Some((r.line, answers.contradicts(&questions::records::asked(r)?)?));
    records.iter().filter_map(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{
        permute::Permutation,
        questions::{
            choices,
            lawqa::{sample, sample_question},
        },
    };

    #[test]
    fn found_in_any_order_and_form() {
        let known = sample_question("民法_1", "成年は何歳か。", 'b');
        let other = sample_question("民法_2", "婚姻は何歳からか。", 'b');
        let questions = [other, known.clone()];
        let permuted = Permutation::cyclic(4).nth(3).unwrap().apply(&known).unwrap();
        assert_eq!(shared_questions(&questions, std::slice::from_ref(&permuted)), [1]);
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let json = write("q.json", format!("[{}]", sample(&permuted)));
        assert_eq!(shared_with_file(&questions, &json).unwrap(), [1]);
        let input = format!("質問: 成年は　何歳か。\n{}", choices::format(&permuted.choices));
        let jsonl = write("q.jsonl", serde_json::json!({"prompt": input, "completion": "b"}).to_string());
        assert_eq!(shared_with_file(&questions, &jsonl).unwrap(), [1]);
        let jsonl = write("r.jsonl", "{\"prompt\": \"成年は何歳か。\", \"completion\": \"b\"}\n".into());
        assert!(shared_with_file(&questions, &jsonl).unwrap().is_empty(), "without the choices it is another question");
        let broken = write("s.json", "[".into());
        assert!(shared_with_file(&questions, &broken).unwrap_err().to_string().contains("not valid JSON"));
    }

    #[test]
    fn lines_that_contradict_one_another() {
        let line = |question: &str, choices: [&str; 2], answer: &str| {
            let meta = serde_json::json!({"question": question, "choices": choices, "answer": answer});
            serde_json::json!({"input": question, "output": answer, "meta": meta}).to_string()
        };
        let read = |lines: &[String]| record::parse(Path::new("f"), lines.join("\n").as_bytes()).unwrap();
        let train = read(&[
            line("p", ["x", "y"], "a"),
            line("q", ["x", "y"], "a"),
            "{\"input\":\"q\",\"output\":\"b\"}".into(),
        ]);
        let eval = read(&[line("q", ["y", "x"], "b"), line("r", ["x", "y"], "a"), line("p", ["y", "x"], "a")]);
        assert_eq!(contradictions(&train, &eval), [(1, 3)]);
    }
}
