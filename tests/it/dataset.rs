//! `irori dataset` as a user runs it: files, counts, warnings, exit codes.

use crate::{program, shared::shared};
use assert_cmd::Command;
use serde_json::Value;
use std::{fs, path::Path};

/// Exit code, standard output, standard error.
fn irori(args: &[&str]) -> (i32, String, String) {
    let out = Command::cargo_bin("irori").unwrap().arg("dataset").args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let stderr = text(&out.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    (out.status.code().unwrap(), text(&out.stdout), stderr)
}

/// Forty questions about two laws.
fn questions(path: &Path) {
    let one = |i: usize| {
        serde_json::json!({"ファイル名": format!("法{}_{i}", i % 2), "コンテキスト": "条文", "問題文": format!("問{i}はどれか。"),
            "選択肢": format!("a 一{i}\nb 二{i}\nc 三{i}\nd 四{i}"), "output": (["a", "b", "c", "d"][i / 2 % 4]), "備考": i})
    };
    let all: Vec<Value> = (0..40).map(one).collect();
    fs::write(path, serde_json::json!({"samples": all}).to_string()).unwrap();
}

fn records(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn splits_records_and_json() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("q.json"), dir.path().join("out"));
    questions(&input);
    let args =
        ["--input", input.to_str().unwrap(), "--output-dir", out.to_str().unwrap(), "--split", "train=24,dev=8,test=8"];
    let (code, text, warnings) = irori(&[&args[..], &["--permute-choices", "4", "--context", "gold"]].concat());
    assert_eq!((code, warnings.as_str()), (0, ""));
    assert!(text.contains("train       6     6     6     6    24       96  all"), "{text}");
    let train = records(&out.join("train.jsonl"));
    assert_eq!(
        (train.len(), records(&out.join("dev.jsonl")).len(), records(&out.join("test.jsonl")).len()),
        (96, 8, 8)
    );
    assert_eq!(train[0]["meta"]["permutation"], "abcd");
    let answers = train.iter().filter(|r| r["output"] == "Answer: c").count();
    assert_eq!(answers, 24, "every letter equally often");
    assert!(train[0]["input"].as_str().unwrap().contains("【条文】"));
    let test: Value = serde_json::from_slice(&fs::read(out.join("test.json")).unwrap()).unwrap();
    assert_eq!(test["samples"].as_array().unwrap().len(), 8);
    assert!(test["samples"][0]["備考"].is_number(), "unknown keys survive");

    let before = fs::read(out.join("train.jsonl")).unwrap();
    let (code, _, error) = irori(&args);
    assert!(code == 2 && error.contains("exists: choose another --output-dir, or --force"), "{error}");
    let again = irori(&[&args[..], &["--permute-choices", "4", "--context", "gold", "--force"]].concat());
    assert_eq!((again.0, fs::read(out.join("train.jsonl")).unwrap()), (0, before), "same seed, same bytes");

    let check = out.join("test.jsonl");
    let (_, _, error) =
        irori(&[&args[..], &["--force", "--seed", "9", "--check-against", check.to_str().unwrap()]].concat());
    assert!(error.contains("train shares ") && error.contains("test.jsonl (such as 法"), "{error}");
}

/// Files of two splits do not stand beside each other, and nobody's file is removed for that.
#[test]
fn a_file_of_another_split_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("q.json"), dir.path().join("out"));
    questions(&input);
    fs::create_dir(&out).unwrap();
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let run = |extra: &[&str]| {
        irori(
            &[&["--input", input.to_str().unwrap(), "--output-dir", out.to_str().unwrap(), "--force"], extra].concat(),
        )
    };
    assert_eq!(run(&["--split", "train=24,dev=8,test=8"]).0, 0);
    let before = fs::read(out.join("train.jsonl")).unwrap();
    let (code, _, error) = run(&["--split", "train=24,test=8", "--seed", "9"]);
    assert!(code == 2 && error.contains("dev.jsonl is of another split"), "{error}");
    assert_eq!(fs::read(out.join("train.jsonl")).unwrap(), before);
    assert_eq!(run(&["--split", "train=24,dev=8,test=8", "--seed", "9"]).0, 0);
    assert_ne!(fs::read(out.join("train.jsonl")).unwrap(), before);
    assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 7, "no temporary stays");
}

#[test]
fn hostile_input_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("q.json"), dir.path().join("out"));
    let run = |extra: &[&str]| {
        irori(&[&["--input", input.to_str().unwrap(), "--output-dir", out.to_str().unwrap()], extra].concat())
    };
    assert!(run(&[]).2.starts_with("error: cannot read"));
    for bad in ["", "{", "[[[", "{\"samples\": [{}]}", "[{\"問題文\": 1}]", &"[".repeat(1_000_000), "\u{0}"] {
        fs::write(&input, bad).unwrap();
        let (code, _, error) = run(&[]);
        assert!(code == 1 && error.starts_with("error: ") && error.contains("q.json"), "{bad:.20} {error}");
        assert!(!out.exists());
    }
    questions(&input);
    for (flags, wanted) in [
        (&["--split", "train=41"][..], "only 40"),
        (&["--split", "train=0"], "NAME=COUNT"),
        (&["--permute-choices", "25"], "25"),
        (&["--stratify", "colour"], "colour"),
        (&["--mode", "cot", "--prompt", "letter"], "use --prompt cot"),
    ] {
        let (code, _, error) = run(flags);
        assert!(code == 2 && error.contains(wanted), "{error}");
    }
    let (code, _, error) = run(&["--prompt", "no-such-file.jinja"]);
    assert!(code == 1 && error.contains("a prompt is letter, answer-line, cot or"), "{error}");
}

#[test]
fn the_real_set_with_the_real_tokenizer() {
    let (Some(input), Some(tokenizer)) = (shared("lawqa_jp/selection.json"), shared("qwen3_tokenizer")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let (code, text, _) =
        irori(&["--input", input.to_str().unwrap(), "--output-dir", out, "--split", "train=100,test=40"]);
    assert_eq!(code, 0);
    assert!(text.contains("借地借家法"), "{text}");
    let train = dir.path().join("train.jsonl");
    let inspect = ["inspect", train.to_str().unwrap(), "--model", tokenizer.to_str().unwrap()];
    let (code, text, error) = irori(&[&inspect[..], &["--samples", "1"]].concat());
    assert_eq!(code, 0, "{error}");
    assert!(text.contains("⟦Answer|:| ") && text.contains("<|im_end|>⟧"), "{text}");
    assert!(text.contains("records    100 (100 samples, 0 dropped)") && text.contains("truncated  0"), "{text}");
    let (code, text, _) = irori(&[&inspect[..], &["--json", "--max-seq-length", "200"]].concat());
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 0);
    assert!(report["truncated"].as_u64().unwrap() > 0 && report["samples"] == 100, "{text}");
    let longest = report["lengths"].as_array().unwrap().iter().filter_map(Value::as_u64).max();
    assert_eq!(longest, Some(200));
}

/// `dataset inspect` shows the loss that `train` computes, wherever it is to fall.
#[test]
fn what_inspect_shows_is_what_is_trained_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    let turn = |role: &str, text: &str| serde_json::json!({"role": role, "content": text});
    let talk = [turn("user", "一つ"), turn("assistant", "はい"), turn("user", "二つ"), turn("assistant", "いいえ")];
    let records = format!("{}\n{{\"input\":\"問\",\"output\":\"a\"}}\n", serde_json::json!({"messages": talk}));
    fs::write(at.join("t.jsonl"), records).expect("written");
    program::done(at, &["synth", "--arch", "tiny", "--output", "m"]);
    let mut seen = Vec::new();
    for on in ["answer", "all-turns", "everything"] {
        let shown =
            program::done(at, &["dataset", "inspect", "t.jsonl", "--model", "m", "--loss-on", on, "--json"]).stdout;
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        let line =
            format!("train --model m --train-file t.jsonl --max-steps 2 --lora-r 2 --output-dir {on} --loss-on {on}");
        program::done(at, &line.split(' ').collect::<Vec<_>>());
        let start = program::metrics(&at.join(on)).remove(0);
        let counts = ["samples", "tokens", "targets"].map(|key| (shown[key].clone(), start[key].clone()));
        assert!(counts.iter().all(|(shown, trained)| shown == trained && shown.is_u64()), "{on}: {counts:?}");
        seen.push(counts[2].0.as_u64());
    }
    assert!(seen[0] < seen[1] && seen[1] < seen[2], "{seen:?}");
    // The older spelling says the same; both at once must agree.
    let older =
        "train --model m --train-file t.jsonl --max-steps 2 --lora-r 2 --loss-on-output-only=false --output-dir";
    program::done(at, &[&older.split(' ').collect::<Vec<_>>()[..], &["older"]].concat());
    let weights = |run: &str| fs::read(at.join(run).join("adapter_model.safetensors")).expect("an adapter");
    assert!(weights("older") == weights("everything") && weights("older") != weights("answer"));
    let end =
        program::irori(at, &[&older.split(' ').collect::<Vec<_>>()[..], &["none", "--loss-on", "answer"]].concat());
    assert!(
        end.code == Some(2) && end.stderr.contains("--loss-on-output-only=false: contradicts --loss-on"),
        "{end:?}"
    );
}
