//! An adapter is used as it was trained: base, text and names, through every command that takes one.

use crate::program::{Ended, command, done, finish, irori};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Runs `irori LINE`, which must succeed.
#[track_caller]
fn ok(at: &Path, line: &str) -> Ended {
    done(at, &line.split(' ').collect::<Vec<_>>())
}

/// What `irori LINE` says on standard error; it must end with `code`.
#[track_caller]
fn fails(at: &Path, line: &str, code: i32) -> String {
    let end = irori(at, &line.split(' ').collect::<Vec<_>>());
    assert!(end.code == Some(code) && !end.stderr.contains("panicked"), "irori {line}: {end:?}");
    end.stderr
}

/// A directory with a model `m`, records `r.jsonl` that ask for a letter, and texts `t.jsonl`.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    ok(at, "synth --arch tiny --output m --seed 1");
    let record = |i: usize| {
        let meta = json!({"question": format!("q{i}"), "choices": ["x", "y", "z"], "answer": "abc"[i % 3..][..1], "prompt": "letter", "context": "none"});
        json!({"input": format!("q{i}: x, y or z?"), "output": "abc"[i % 3..][..1], "meta": meta}).to_string() + "\n"
    };
    fs::write(at.join("r.jsonl"), (0..6).map(record).collect::<String>()).expect("written");
    fs::write(at.join("t.jsonl"), "{\"text\":\"q1: x, y or z?\"}\n{\"text\":\"a longer text about nothing\"}\n")
        .expect("written");
    dir
}

/// Trains two steps into `out`, with a rate at which they show.
fn train(at: &Path, out: &str, flags: &str) -> Ended {
    let flags = if flags.is_empty() { String::new() } else { format!(" {flags}") };
    ok(
        at,
        &format!(
            "train --model m --train-file r.jsonl --output-dir {out} --max-steps 2 --save-steps 1 --learning-rate 1e-2{flags}"
        ),
    )
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    fs::create_dir_all(to).expect("made");
    for name in names {
        fs::copy(from.join(name), to.join(name)).expect("copied");
    }
}

const ADAPTER: [&str; 3] = ["adapter_config.json", "adapter_model.safetensors", "adapter_provenance.json"];

fn json_of(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).expect("read")).expect("JSON")
}

#[test]
fn the_base_is_held_as_it_was_in_training_wherever_the_adapter_lies() {
    let dir = place();
    let at = dir.path();
    train(at, "dense", "--no-4bit");
    train(at, "nf4", "--head-4bit --bnb-4bit-compute-dtype float32");
    copy(&at.join("dense"), &at.join("away/adapter"), &ADAPTER);
    copy(&at.join("dense"), &at.join("older"), &[ADAPTER[0], ADAPTER[1], "run.toml"]);
    copy(&at.join("dense/checkpoint-2"), &at.join("older/checkpoint-2"), &ADAPTER[..2]);
    copy(&at.join("dense"), &at.join("foreign"), &ADAPTER[..2]);
    let score = |adapter: &str, flags: &str| {
        let end = ok(at, format!("score --model m --adapter {adapter} --input t.jsonl {flags}").trim_end());
        (end.stdout, end.stderr)
    };
    let (dense, _) = score("foreign", "--no-4bit");
    let (nf4, said) = score("foreign", "");
    assert_ne!(dense, nf4);
    assert!(said.contains("does not say what it was trained beside") && said.contains("--use-4bit"), "{said}");
    for adapter in ["dense", "dense/checkpoint-2", "away/adapter", "older", "older/checkpoint-2"] {
        let (scores, said) = score(adapter, "");
        assert_eq!(scores, dense, "{adapter}");
        assert!(said.contains("as the adapter was trained") && said.contains("--no-4bit"), "{adapter}: {said}");
        let (scores, said) = score(adapter, "--no-4bit");
        assert!(scores == dense && !said.contains("trained"), "{adapter}: {said}");
        let (scores, said) = score(adapter, "--use-4bit");
        assert_eq!(scores, nf4, "what is given is used");
        assert!(said.contains("trained with --no-4bit") && said.contains("used with --use-4bit"), "{adapter}: {said}");
    }
    let (all, said) = score("nf4", "");
    assert!(said.contains("--head-4bit") && said.contains("--bnb-4bit-compute-dtype float32"), "{said}");
    assert_eq!(all, score("nf4", "--use-4bit --head-4bit --bnb-4bit-compute-dtype float32").0);
    assert_ne!(all, score("nf4", "--head-4bit=false").0);
    assert_ne!(all, score("nf4", "--bnb-4bit-compute-dtype bfloat16").0);
    // Training further goes on beside the same weights.
    let said = train(at, "further", "--init-adapter dense").stderr;
    assert!(said.contains("--no-4bit") && !said.contains("warning: the adapter"), "{said}");
    assert!(fs::read_to_string(at.join("further/run.toml")).expect("read").contains("use-4bit = false"));
    assert!(train(at, "other", "--init-adapter dense --use-4bit").stderr.contains("used with --use-4bit"));
    // Both weights that an adapter can be merged into are said.
    assert!(
        ok(at, "merge --model m --adapter nf4 --output m1").stderr.contains("--base dequantized merges it into those")
    );
    assert!(
        ok(at, "merge --model m --adapter dense --output m2 --base dequantized")
            .stderr
            .contains("--base original is what")
    );
    let quiet = ok(at, "merge --model m --adapter dense --output m3").stderr;
    assert!(!quiet.contains("trained"), "{quiet}");
    assert!(
        ok(at, "merge --model m --adapter foreign --output m4")
            .stderr
            .contains("is not known: --base original is taken")
    );
}

#[test]
fn a_record_that_cannot_be_read_is_an_error() {
    let dir = place();
    let at = dir.path();
    train(at, "run", "--no-4bit");
    copy(&at.join("run"), &at.join("older"), &[ADAPTER[0], ADAPTER[1]]);
    let commands = |adapter: &str| {
        [
            format!("score --model m --adapter {adapter} --input t.jsonl"),
            format!("generate --model m --adapter {adapter} --prompt q"),
            format!("eval --model m --adapter {adapter} --data r.jsonl --output e.json"),
            format!("merge --model m --adapter {adapter} --output merged"),
            format!("train --model m --init-adapter {adapter} --train-file r.jsonl --output-dir again"),
        ]
    };
    for (file, text, wanted) in [
        ("older/run.toml", "name = \"another program's\"\n", "line 1, key `name`"),
        ("older/run.toml", "use-4bit = maybe\n", "line 1"),
        ("run/adapter_provenance.json", "{\"format\": 7}", "is not what irori writes"),
        ("run/adapter_provenance.json", "version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
    ] {
        fs::write(at.join(file), text).expect("written");
        for line in commands(file.split('/').next().expect("a name")) {
            let said = fails(at, &line, 1);
            assert!(said.contains(file) && said.contains(wanted), "irori {line}: {said}");
        }
    }
}

#[test]
fn text_is_made_as_it_was_in_training() {
    let dir = place();
    let at = dir.path();
    // A model without a tokenizer, and a tokenizer by a path that is seen from where the run was started.
    ok(at, "synth --arch tiny --output bare --seed 1");
    fs::create_dir(at.join("tok")).expect("made");
    for entry in fs::read_dir(at.join("bare")).expect("read") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|n| n.to_str()).expect("a name").to_owned();
        if name.contains("token") || name.contains("template") {
            fs::rename(&path, at.join("tok").join(name)).expect("moved");
        }
    }
    ok(
        at,
        "train --model bare --tokenizer tok --text-style raw --train-file r.jsonl --output-dir out/run --max-steps 1",
    );
    fs::create_dir(at.join("elsewhere")).expect("made");
    let generate = |from: &Path, line: &str| {
        let end = ok(from, &format!("generate --prompt what --max-new-tokens 3 --json {line}"));
        (serde_json::from_str::<Value>(&end.stdout).expect("JSON")["prompt_tokens"].clone(), end.stderr)
    };
    let raw = generate(at, "--model bare --tokenizer tok --text-style raw").0;
    assert_ne!(raw, generate(at, "--model bare --tokenizer tok").0);
    let (tokens, said) = generate(&at.join("elsewhere"), "--model ../bare --adapter ../out/run/checkpoint-1");
    assert!(tokens == raw && said.contains("--text-style raw") && said.contains("--tokenizer"), "{said}");
    let (_, said) = generate(at, "--model bare --adapter out/run --text-style chat");
    assert!(said.contains("trained with --text-style raw") && said.contains("used with --text-style chat"), "{said}");
    // Another template, and another tokenizer, are said.
    train(at, "chat", "");
    fs::write(
        at.join("m/chat_template.jinja"),
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] ",
    )
    .expect("written");
    let (_, said) = generate(at, "--model m --adapter chat");
    assert!(said.contains("warning: the chat template") && !said.contains("warning: the tokenizer"), "{said}");
    let mut tokenizer = fs::read_to_string(at.join("m/tokenizer.json")).expect("read");
    tokenizer.push('\n');
    fs::write(at.join("m/tokenizer.json"), tokenizer).expect("written");
    assert!(generate(at, "--model m --adapter chat").1.contains("warning: the tokenizer"));
}

#[test]
fn another_base_is_refused_by_both_names_and_the_same_weights_are_known_in_other_files() {
    let dir = place();
    let at = dir.path();
    ok(at, "synth --arch tiny --output n --seed 2");
    ok(at, "quantize --model m --output m4");
    ok(at, "quantize --model n --output n4");
    copy(
        &at.join("m"),
        &at.join("same"),
        &["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
    );
    train(at, "run", "");
    copy(&at.join("run"), &at.join("away"), &ADAPTER);
    let commands = |model: &str, adapter: &str| {
        let tag = model.replace([':', '@'], "-");
        [
            format!("score --model {model} --adapter {adapter} --input t.jsonl --output s-{tag} --force --tokenizer m"),
            format!("generate --model {model} --adapter {adapter} --prompt q --max-new-tokens 2 --tokenizer m"),
            format!("eval --model {model} --adapter {adapter} --data r.jsonl --output e-{tag} --force --tokenizer m"),
            format!("merge --model {model} --adapter {adapter} --output merged-{tag}"),
            format!(
                "train --model {model} --init-adapter {adapter} --train-file r.jsonl --output-dir again-{tag} --max-steps 1 --tokenizer m"
            ),
        ]
    };
    for model in ["n", "n4"] {
        for line in commands(model, "away") {
            let said = fails(at, &line, 2);
            assert!(
                said.contains("`m`") && said.contains(&format!("`{model}`")) && said.contains("--other-base"),
                "irori {line}: {said}"
            );
        }
    }
    for line in commands("n", "run") {
        let said = ok(at, &format!("{line} --other-base")).stderr;
        assert!(
            said.contains("warning: ") && said.contains("`n` is another model: its weights are others"),
            "irori {line}: {said}"
        );
    }
    for line in commands("same", "run") {
        assert!(!ok(at, &line).stderr.contains("weights of"), "irori {line}");
    }
    for line in commands("m4", "run") {
        let said = ok(at, &line).stderr;
        assert!(
            said.contains("`m4` holds the weights of `m`")
                && said.contains("NF4 with double quantisation here, dense there"),
            "irori {line}: {said}"
        );
    }
    // The same weights under another configuration are another model.
    let config = fs::read_to_string(at.join("same/config.json")).expect("read");
    copy(&at.join("same"), &at.join("turned"), &["model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["rms_norm_eps"] = json!(1e-3);
    fs::write(at.join("turned/config.json"), config.to_string()).expect("written");
    for line in commands("turned", "run") {
        let said = fails(at, &line, 2);
        assert!(said.contains("its config.json computes something else (here rms_eps: 0.001"), "irori {line}: {said}");
    }
    // A run of an earlier version has its base's fingerprint in its checkpoints.
    copy(&at.join("run"), &at.join("older"), &[ADAPTER[0], ADAPTER[1], "run.toml"]);
    copy(&at.join("run/checkpoint-2"), &at.join("older/checkpoint-2"), &[ADAPTER[0], ADAPTER[1], "irori_state.json"]);
    for adapter in ["older", "older/checkpoint-2"] {
        let said = |model: &str| ok(at, &format!("score --model {model} --adapter {adapter} --input t.jsonl")).stderr;
        assert!(said("n").contains("warning: the adapter was trained beside `m`"), "{adapter}");
        assert!(!said("same").contains("warning"), "{adapter}");
    }
    // What synth writes is the synthetic model of its seed.
    for line in commands("synthetic:tiny@1", "run") {
        assert!(ok(at, &line).stderr.contains("holds the weights of `m`"), "irori {line}");
    }
}

#[test]
fn names_are_those_that_the_user_gave() {
    let dir = place();
    let at = dir.path();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = at.join("hub/models--org--tiny");
    let snapshot = repository.join("snapshots").join(commit);
    fs::create_dir_all(repository.join("refs")).expect("made");
    fs::create_dir_all(repository.join("snapshots")).expect("made");
    fs::write(repository.join("refs/main"), commit).expect("written");
    fs::rename(at.join("m"), &snapshot).expect("moved");
    let hub =
        |line: &str| finish(command(at, &line.split(' ').collect::<Vec<_>>()).env("HF_HUB_CACHE", at.join("hub")));
    let with = |model: &str, out: &str, flags: &str| {
        hub(format!(
            "train --model {model} --train-file r.jsonl --output-dir {out} --max-steps 2 --save-steps 1 {flags}"
        )
        .trim_end())
    };
    for (model, out, base, revision) in [
        ("org/tiny", "by-id", "org/tiny", Value::Null),
        (&format!("org/tiny@{commit}"), "by-revision", "org/tiny", commit.into()),
        ("synthetic:tiny@1", "made", "synthetic:tiny@1", Value::Null),
    ] {
        let flags = if out == "made" { "--tokenizer org/tiny" } else { "" };
        let end = with(model, out, flags);
        assert_eq!(end.code, Some(0), "{end:?}");
        for adapter in [at.join(out), at.join(out).join("checkpoint-1")] {
            let config = json_of(adapter.join("adapter_config.json"));
            assert_eq!((&config["base_model_name_or_path"], &config["revision"]), (&json!(base), &revision));
        }
        // No file of the run names a place of this machine.
        let mut open = vec![at.join(out)];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(fs::read_dir(&path).expect("read").map(|e| e.expect("an entry").path()));
                continue;
            }
            let bytes = fs::read(&path).expect("read");
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("models--org") && !text.contains(at.to_str().expect("UTF-8")), "{}", path.display());
        }
        let line = format!("eval --model {model} --adapter {out} --data r.jsonl --output {out}.json {flags}");
        let end = hub(line.trim_end());
        assert_eq!(end.code, Some(0), "{end:?}");
        assert_eq!(json_of(at.join(format!("{out}.json")))["config"]["llm_model"], model);
    }
    // The other commands find the model by its id too.
    for line in [
        "dataset inspect r.jsonl --model org/tiny --samples 1",
        "synth --arch tiny --output s --tokenizer org/tiny",
        "quantize --model org/tiny --output q",
        "merge --model org/tiny --adapter by-id --output w",
        "score --model org/tiny --adapter by-id --input t.jsonl",
        "generate --model org/tiny --adapter by-id --prompt q --max-new-tokens 1",
        "train --model org/tiny --init-adapter by-id --train-file r.jsonl --output-dir further --max-steps 1",
        "plan --model org/tiny --init-adapter by-id --train-file r.jsonl",
    ] {
        let end = hub(line);
        assert!(end.code == Some(0) && !end.stderr.contains("warning: the adapter"), "irori {line}: {end:?}");
    }
    // A run that is resumed beside other weights of the same name is refused.
    fs::remove_dir_all(at.join("by-id/checkpoint-2")).expect("removed");
    fs::remove_file(snapshot.join("model.safetensors")).expect("removed");
    ok(at, "synth --arch tiny --output n --seed 2");
    fs::copy(at.join("n/model.safetensors"), snapshot.join("model.safetensors")).expect("copied");
    let end = with("org/tiny", "by-id", "--resume");
    assert!(end.code == Some(2) && end.stderr.contains("the base model is not the same"), "{end:?}");
}

#[test]
fn questions_are_asked_as_the_records_asked_or_it_is_said() {
    let dir = place();
    let at = dir.path();
    train(at, "run", "");
    let lawqa = json!([{"ファイル名": "法_1", "問題文": "問", "選択肢": "a x\nb y\nc z", "output": "a"}]);
    fs::write(at.join("q.json"), lawqa.to_string()).expect("written");
    let eval = |flags: &str| {
        let end = ok(at, format!("eval --model m --data q.json --output e.json --force {flags}").trim_end());
        (json_of(at.join("e.json"))["config"]["prompt"].clone(), end.stderr)
    };
    assert_eq!(eval("").0, "answer-line");
    let (prompt, said) = eval("--adapter run");
    assert!(prompt == "letter" && !said.contains("warning"), "{said}");
    let (_, said) = eval("--adapter run --prompt answer-line");
    assert!(said.contains("with the prompt `letter`") && said.contains("asked with `answer-line`"), "{said}");
    assert!(said.matches("warning").count() == 1, "{said}");
    let (_, said) = eval("--adapter run --prompt letter --context gold");
    assert!(said.contains("with the context `none`") && said.contains("asked with `gold`"), "{said}");
    // Statutes and a worked example are shown where the records showed them.
    let lawqa = json!([0, 1, 2].map(|i| json!({"ファイル名": format!("法_{i}"), "コンテキスト": "条文", "問題文": format!("問{i}"), "選択肢": "a x\nb y\nc z", "output": "abc"[i..][..1]})));
    fs::write(at.join("s.json"), lawqa.to_string()).expect("written");
    ok(at, "dataset --input s.json --output-dir d --prompt letter --context gold --few-shot --split train=3");
    let made = fs::read_dir(at.join("d")).expect("read").map(|e| e.expect("an entry").path());
    let records = made.filter(|p| p.extension().is_some_and(|e| e == "jsonl")).next().expect("records");
    fs::copy(records, at.join("r.jsonl")).expect("copied");
    train(at, "gold", "--max-seq-length 2048");
    let asked = |flags: &str| {
        let end = ok(at, &format!("eval --model m --adapter gold --output e.json --force {flags}"));
        let config = json_of(at.join("e.json"))["config"].clone();
        (config["retriever_type"].clone(), config["few_shot_enabled"].clone(), config["prompt"].clone(), end.stderr)
    };
    let (context, few_shot, prompt, said) = asked("--data s.json");
    assert_eq!((context, few_shot, prompt), (json!("gold"), json!(true), json!("letter")));
    assert!(said.contains("--context gold, --prompt letter, --few-shot") && !said.contains("warning"), "{said}");
    let (.., said) = asked("--data s.json --context none --no-few-shot");
    assert!(
        said.contains("with the context `gold` and is asked with `none`") && said.contains("few-shot a worked example"),
        "{said}"
    );
    let (context, few_shot, _, said) = asked("--data r.jsonl");
    assert_eq!((context, few_shot), (json!("none"), json!(true)));
    assert!(
        said.contains("r.jsonl was written with the context `gold`") && said.matches("warning").count() == 1,
        "{said}"
    );
}

#[test]
fn questions_with_another_answer_in_the_evaluation_file_are_listed() {
    let dir = place();
    let at = dir.path();
    let file = |count: usize, answer: &str| -> String {
        let line = |i: usize| {
            let meta = json!({"question": format!("q{i}"), "choices": ["x", "y", "z"], "answer": answer});
            json!({"input": format!("q{i}"), "output": answer, "meta": meta}).to_string() + "\n"
        };
        (0..count).map(line).collect()
    };
    for (count, wanted) in
        [(1, "lines 1 and 1\n"), (7, "lines 1 and 1, 2 and 2, 3 and 3, 4 and 4, 5 and 5 and 2 more\n")]
    {
        fs::write(at.join("a.jsonl"), file(count, "a")).expect("written");
        fs::write(at.join("b.jsonl"), file(count, "b")).expect("written");
        let said = ok(
            at,
            &format!("train --model m --train-file a.jsonl --eval-file b.jsonl --output-dir o{count} --max-steps 1"),
        )
        .stderr;
        let first = format!("warning: {count} of the questions of a.jsonl have another right answer in b.jsonl: ");
        assert!(said.contains(&first) && said.contains(wanted), "{said}");
    }
    fs::write(at.join("c.jsonl"), json!({"input": "q", "output": "a", "meta": {"choices": "a x\nb y"}}).to_string())
        .expect("written");
    let said = fails(at, "train --model m --train-file c.jsonl --output-dir o --max-steps 1", 1);
    assert!(said.contains("c.jsonl: line 1, field `meta.choices`: expected a list of texts, found text"), "{said}");
}
