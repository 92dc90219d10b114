//! What a model is called and what it holds: ids in the local cache, and weights that are no numbers, in every command.

use crate::program::{command, done, finish, samples};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Model, adapter and data of a small run.
fn inputs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    samples(&at.join("t.jsonl"), 4, 1);
    fs::write(at.join("text.jsonl"), "{\"tokens\":[1,2,3]}\n").expect("written");
    done(at, &["synth", "--arch", "tiny", "--output", "m"]);
    let train = "train --model m --train-file t.jsonl --lora-r 2 --max-steps 1 --max-seq-length 24 --output-dir a";
    done(at, &train.split(' ').collect::<Vec<_>>());
    dir
}

/// How a command line ends, in an environment of these variables and no other that names a cache.
fn run(at: &Path, line: &str, variables: &[(&str, &Path)]) -> (Option<i32>, String) {
    let mut command = command(at, &line.split(' ').collect::<Vec<_>>());
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"] {
        command.env_remove(name);
    }
    command.env("HOME", at.join("nobody"));
    command.envs(variables.iter().copied());
    let ended = finish(&mut command);
    (ended.code, ended.stderr)
}

fn snapshot(hub: &Path, id: &str, commit: &str, from: &Path) -> PathBuf {
    let place = hub.join(format!("models--{}", id.replace('/', "--"))).join("snapshots").join(commit);
    fs::create_dir_all(&place).expect("made");
    for file in fs::read_dir(from).expect("listed").map(|f| f.expect("a file").path()).filter(|p| p.is_file()) {
        fs::copy(&file, place.join(file.file_name().expect("a name"))).expect("copied");
    }
    place
}

#[test]
fn model_adapter_and_tokenizer_are_found_in_the_cache() {
    let dir = inputs();
    let at = dir.path();
    let hub = at.join("x/huggingface/hub");
    snapshot(&hub, "org/m", "aaa", &at.join("m"));
    snapshot(&hub, "org/a", "bbb", &at.join("a"));
    let xdg: &[(&str, &Path)] = &[("XDG_CACHE_HOME", &at.join("x"))];
    let home: &[(&str, &Path)] = &[("HF_HOME", Path::new("$HOME/../x/huggingface"))];
    fs::create_dir(at.join("nobody")).expect("made");
    for variables in [xdg, home] {
        for line in [
            "score --model org/m --adapter org/a --input text.jsonl",
            "score --model org/m@aaa --adapter org/a@bbb --tokenizer org/m --input text.jsonl",
            "generate --model m --tokenizer org/m --prompt x --max-new-tokens 1",
        ] {
            assert_eq!(run(at, line, variables).0, Some(0), "{line}: {}", run(at, line, variables).1);
        }
    }
    let merge = "merge --model org/m --adapter org/a --output merged";
    assert_eq!(run(at, merge, xdg).0, Some(0));
    let train = "train --model org/m --tokenizer org/m --init-adapter org/a --lora-r 2 --train-file t.jsonl --max-steps 1 \
                 --max-seq-length 24 --output-dir b";
    let (code, text) = run(at, &train.split_whitespace().collect::<Vec<_>>().join(" "), xdg);
    assert_eq!(code, Some(0), "{text}");
    for (line, says) in [
        ("score --model org/none --input text.jsonl", "--model org/none: is neither"),
        ("score --model org/m --adapter org/none --input text.jsonl", "--adapter org/none: is neither"),
        ("score --model org/m --tokenizer org/none --input text.jsonl", "--tokenizer org/none: is neither"),
        ("score --model org/m@v1 --input text.jsonl", "no revision `v1`; there is org/m@aaa"),
    ] {
        let (code, text) = run(at, line, xdg);
        assert!(
            code == Some(2) && text.contains(says) && text.contains("x/huggingface/hub/models--org--"),
            "{line}: {text}"
        );
    }
}

#[test]
fn no_command_makes_a_result_of_weights_that_are_no_numbers() {
    let dir = inputs();
    let at = dir.path();
    // The last element of the file: bf16 NaN.
    let path = at.join("m/model.safetensors");
    let mut bytes = fs::read(&path).expect("read");
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&[0xc0, 0x7f]);
    fs::write(&path, bytes).expect("written");
    for line in [
        "score --model m --input text.jsonl",
        "score --model m --no-4bit --input text.jsonl",
        "generate --model m --prompt x --max-new-tokens 1 --json",
        "train --model m --train-file t.jsonl --lora-r 2 --max-steps 1 --max-seq-length 24 --output-dir out",
        "quantize --model m --output out",
        "merge --model m --adapter a --output out --other-base",
        "merge --model m --adapter a --base dequantized --output out --other-base",
    ] {
        let (code, text) = run(at, line, &[]);
        assert!(
            code == Some(1) && text.contains("model.safetensors: tensor `") && text.contains("is NaN"),
            "{line}: {text}"
        );
        assert!(
            !at.join("out/model.safetensors").exists() && !at.join("out/adapter_model.safetensors").exists(),
            "{line}"
        );
    }
}
