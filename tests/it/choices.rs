//! Questions with two, five and ten choices through the whole job: `dataset`, `eval`, `compare`, on a tiny random model.

use assert_cmd::Command;
use serde_json::{Value, json};
use std::{fs, path::Path};

const LETTERS: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

/// Exit code, standard output, standard error of `irori` in `dir`.
fn irori(dir: &Path, line: &str) -> (i32, String, String) {
    let out = Command::cargo_bin("irori").unwrap().args(line.split(' ')).current_dir(dir).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let stderr = text(&out.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    (out.status.code().unwrap(), text(&out.stdout), stderr)
}

#[track_caller]
fn done(dir: &Path, line: &str) -> String {
    let (code, out, err) = irori(dir, line);
    assert_eq!(code, 0, "irori {line}\n{out}\n{err}");
    out
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn records(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Question number `i` with `n` choices, of which number `right` is right.
fn question(n: usize, i: usize, right: usize) -> Value {
    let choices: Vec<String> = LETTERS[..n].iter().map(|l| format!("{l} 選択{l}{i}")).collect();
    json!({"ファイル名": format!("法{n}_{i}"), "問題文": format!("問{i}はどれか。"), "選択肢": choices.join("\n"), "output": LETTERS[right]})
}

fn write(path: &Path, questions: &[Value]) {
    fs::write(path, json!(questions).to_string()).unwrap();
}

#[test]
fn two_five_and_mixed_choices_from_questions_to_a_comparison() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    done(at, "synth --arch tiny --output model --seed 1");
    let of = |n: usize, count: usize| -> Vec<Value> { (0..count).map(|i| question(n, i, i % n)).collect() };
    let mixed: Vec<Value> = (0..9).flat_map(|i| [2, 10, 5, 3].map(|n| question(n, i, (i * 7) % n))).collect();
    for (name, questions, count, sizes, chance) in [
        ("two", of(2, 20), "二", vec![2], "50%"),
        ("five", of(5, 20), "五", vec![5], "20%"),
        ("mixed", mixed, "十", vec![2, 3, 5, 10], "28.3%"),
    ] {
        write(&at.join(format!("{name}.json")), &questions);
        let split = if name == "mixed" { "train=20,test=16" } else { "train=10,test=10" };
        let out = done(
            at,
            &format!(
                "dataset --input {name}.json --output-dir {name} --split {split} --permute-choices cyclic --seed 3"
            ),
        );
        let most = *sizes.iter().max().unwrap();
        assert!(
            out.starts_with("split  ")
                && out.lines().next().unwrap().contains(&format!(" {}   all", LETTERS[most - 1])),
            "{out}"
        );

        // Each training question in every cyclic order of its own choices, worded with its own letters.
        let train = records(&at.join(name).join("train.jsonl"));
        let mut prompts = String::new();
        for record in &train {
            let choices = record["meta"]["choices"].as_array().unwrap();
            let right = LETTERS.iter().position(|l| record["meta"]["answer"] == *l).unwrap();
            let input = record["input"].as_str().unwrap();
            assert!(input.contains(&format!("{} のいずれか一文字", LETTERS[..choices.len()].join("、"))), "{input}");
            assert_eq!(record["output"], format!("Answer: {}", LETTERS[right]));
            assert!(input.contains(&format!("{} {}", LETTERS[right], choices[right].as_str().unwrap())));
            prompts += input;
        }
        assert!(prompts.contains(&format!("{count}択問題")));
        for &n in &sizes {
            let of_size = |r: &&Value| r["meta"]["choices"].as_array().unwrap().len() == n;
            let with = |letter: &str| train.iter().filter(of_size).filter(|r| r["meta"]["answer"] == letter).count();
            let counts: Vec<usize> = LETTERS.iter().map(|l| with(l)).collect();
            assert!(counts[..n].iter().all(|&c| c == counts[0] && c > 0), "{counts:?}: every letter equally often");
            assert!(counts[n..].iter().all(|&c| c == 0));
        }

        // The three ways to ask, then the comparison.
        let test = records(&at.join(name).join("test.jsonl"));
        let eval = format!("eval --model model --data {name}/test.jsonl --output");
        done(at, &format!("{eval} {name}/plain.json"));
        done(at, &format!("{eval} {name}/turned.json --permute"));
        done(at, &format!("{eval} {name}/written.json --method generate --max-new-tokens 4"));
        for result in ["plain", "turned", "written"] {
            let result = read(&at.join(name).join(format!("{result}.json")));
            let items = result["results"].as_array().unwrap();
            assert_eq!(items.len(), test.len());
            for (item, record) in items.iter().zip(&test) {
                assert_eq!(item["file_name"], record["meta"]["file_name"], "in the order of the file");
                let n = record["meta"]["choices"].as_array().unwrap().len();
                assert_eq!(item["choices"].as_str().unwrap().lines().count(), n);
                let said = item["predicted_answer"].as_str().unwrap();
                assert!(said == "unknown" || LETTERS[..n].contains(&said), "{said} of {n}");
                if let Some(p) = item["probabilities"].as_object() {
                    assert!(p.keys().eq(&LETTERS[..n]));
                    assert!((p.values().map(|p| p.as_f64().unwrap()).sum::<f64>() - 1.0).abs() < 1e-9);
                }
                if let Some(orders) = item["permutations"].as_array() {
                    assert_eq!(orders.len(), n);
                    assert!(orders.iter().all(|o| o["order"].as_str().unwrap().len() == n));
                }
            }
            let labels = result["summary"]["correct_labels"].as_object().unwrap();
            assert_eq!(labels.len(), most + 1);
        }
        let turned = read(&at.join(name).join("turned.json"));
        assert!(turned["results"][0]["permutations"].is_array());
        let runs = if sizes.len() == 1 { json!(most) } else { Value::Null };
        assert_eq!((&turned["config"]["permute"], &turned["config"]["ensemble_runs"]), (&json!(true), &runs));
        done(at, &format!("eval --rescore {name}/written.json --output {name}/again.json"));
        assert_eq!(
            read(&at.join(name).join("again.json"))["results"],
            read(&at.join(name).join("written.json"))["results"]
        );

        let out = done(at, &format!("compare {name}/plain.json {name}/turned.json --output {name}/report.html"));
        assert!(out.contains(&format!("{}  unknown", LETTERS[most - 1])), "{out}");
        let report = fs::read_to_string(at.join(name).join("report.html")).unwrap();
        assert!(report.contains(&format!("{chance} chance")), "{name}");
        let compared: Value =
            serde_json::from_str(&done(at, &format!("compare {name}/plain.json {name}/written.json --json"))).unwrap();
        assert_eq!((&compared["pairs"], compared["letters"].as_array().unwrap().len()), (&json!(test.len()), most + 1));
        assert_eq!(compared["baseline"]["confusion"].as_array().unwrap().len(), most);
    }
    // Sets of other questions have nothing to compare.
    assert!(irori(at, "compare two/plain.json five/plain.json").2.contains("no question in common"));
}

#[test]
fn what_is_not_two_to_ten_choices_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let with = |choices: &str, right: &str| {
        let mut q = question(2, 1, 0);
        (q["選択肢"], q["output"]) = (choices.into(), right.into());
        write(&at.join("q.json"), &[question(2, 0, 0), q]);
        let (code, _, error) = irori(at, "dataset --input q.json --output-dir out --split train=1,test=1");
        assert_eq!(code, 1, "{error}");
        error
    };
    let eleven: String = ('a'..='k').map(|l| format!("{l} x\n")).collect();
    assert!(with("a x", "a").starts_with("error: q.json: samples[1], field `選択肢`: expected 2 to 10 lines"));
    assert!(with(&eleven, "a").starts_with("error: q.json: samples[1], field `選択肢`: expected at most 10 choices"));
    assert!(with("a x\nb y\nd z", "a").starts_with("error: q.json: samples[1], field `選択肢`: a line for choice c"));
    assert!(with("a x\nb y\nc z", "d").starts_with("error: q.json: samples[1], field `output`: expected the letter"));
    assert!(!at.join("out").exists());

    let line = |choices: usize, answer: &str| {
        json!({"input": "q", "output": answer, "meta": {"question": "q", "choices": (0..choices).map(|i| format!("x{i}")).collect::<Vec<_>>(), "answer": answer}}).to_string()
    };
    for (choices, answer, field) in [(1, "a", "choices"), (11, "a", "choices"), (3, "d", "answer")] {
        fs::write(at.join("r.jsonl"), format!("{}\n{}\n", line(10, "j"), line(choices, answer))).unwrap();
        for command in
            ["eval --model synthetic:tiny --data r.jsonl --output r.json", "dataset inspect r.jsonl --model model"]
        {
            if command.contains("inspect") && !at.join("model").exists() {
                done(at, "synth --arch tiny --output model");
            }
            let (code, _, error) = irori(at, command);
            assert!(
                code == 1 && error.starts_with(&format!("error: r.jsonl: line 2, field `meta.{field}`")),
                "{error}"
            );
        }
    }

    write(&at.join("q.json"), &[question(5, 0, 0), question(2, 1, 1)]);
    let (code, _, error) = irori(at, "dataset --input q.json --output-dir out --split train=2 --permute-choices 4");
    assert!(code == 2 && error.contains("法2_1 has 2 choices, which have only 2 orders"), "{error}");
    done(at, "dataset --input q.json --output-dir out --split train=2 --permute-choices 2");
}

/// `dataset` tested the letters exactly and warned, `train` by χ² (7.75, under 7.815) and did not.
#[test]
fn dataset_inspect_and_train_say_the_same_of_unbalanced_letters() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let rights = [2, 8, 9, 13].into_iter().enumerate().flat_map(|(right, n)| std::iter::repeat_n(right, n));
    let questions: Vec<Value> = rights.enumerate().map(|(i, right)| question(4, i, right)).collect();
    write(&at.join("q.json"), &questions);
    done(at, "synth --arch tiny --output model");
    let says = "a is under-represented (2 of 32, 8 expected), d is over-represented (13 of 32, 8 expected) (exact multinomial \
                test, p = 0.033)";
    let (_, _, dataset) = irori(at, "dataset --input q.json --output-dir data --split train=32");
    assert!(dataset.contains(says), "{dataset}");
    let (_, _, inspect) = irori(at, "dataset inspect data/train.jsonl --model model");
    assert!(inspect.contains(says), "{inspect}");
    let (_, _, train) = irori(at, "train --model model --train-file data/train.jsonl --output-dir run --max-steps 1");
    assert!(train.contains(says), "{train}");

    done(at, "dataset --input q.json --output-dir even --split train=32 --permute-choices cyclic");
    let (_, _, train) = irori(at, "train --model model --train-file even/train.jsonl --output-dir run2 --max-steps 1");
    assert!(train.contains("answers: a 32 (25 %)") && !train.contains("represented"), "{train}");
}
