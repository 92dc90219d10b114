//! Adapters on a part of the linears, and command lines of other programs.

use crate::program::{done, irori, samples};
use serde_json::{Value, json};
use std::{fs, path::Path};

const TRAIN: [&str; 10] = [
    "train",
    "--model",
    "synthetic:tiny",
    "--device",
    "cpu",
    "--train-file",
    "train.jsonl",
    "--lora-r",
    "4",
    "--batch-size=4",
];

fn config(dir: &Path) -> Value {
    let text = fs::read_to_string(dir.join("adapter_config.json")).expect("an adapter");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_script_of_transformers_moves_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    samples(&dir.join("train.jsonl"), 32, 7);
    let of_script = "--max-steps-override -1 --num-epochs 1 --bf16 --lora-bias none --optim adamw_torch --do-train";
    let script: Vec<&str> = TRAIN.into_iter().chain(of_script.split(' ')).collect();
    done(dir, &[&script[..], &["--output-dir", "a", "--target-modules", "q_proj, v_proj"]].concat());
    assert_eq!(config(&dir.join("a"))["target_modules"], json!(["q_proj", "v_proj"]));
    done(
        dir,
        &[&TRAIN[..], &["--num-epochs", "1", "--output-dir", "b", "--target-modules", "q_proj", "v_proj"]].concat(),
    );
    let weights = |out: &str| fs::read(dir.join(out).join("adapter_model.safetensors")).expect("an adapter");
    assert!(weights("a") == weights("b"), "the other words say nothing new");
    for (args, named) in [
        ("--bf16=false", "--bf16=false"),
        ("--lora-bias all", "--lora-bias all"),
        ("--max-steps -2", "--max-steps -2"),
        ("--optim sgd", "--optim sgd"),
    ] {
        let args: Vec<&str> = TRAIN.into_iter().chain(["--output-dir", "c"]).chain(args.split(' ')).collect();
        let end = irori(dir, &args);
        assert!(end.code == Some(2) && end.stderr.contains(named), "{end:?}");
        assert!(!dir.join("c").exists());
    }
}

#[test]
fn adapters_on_some_layers_are_trained_resumed_and_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    samples(&dir.join("train.jsonl"), 32, 7);
    let some = ["--layers-to-transform", "1", "--exclude-modules", "mlp.up_proj,gate_proj,down_proj", "--no-4bit"];
    let train = [&TRAIN[..], &some, &["--num-epochs", "1", "--output-dir", "out"]].concat();
    done(dir, &train);
    let config = config(&dir.join("out"));
    assert_eq!(config["target_modules"], json!(["q_proj", "k_proj", "v_proj", "o_proj"]));
    assert_eq!(config["layers_to_transform"], json!([1]));
    // The same again from the first checkpoint on, and refused with other layers.
    let whole = fs::read(dir.join("out/adapter_model.safetensors")).expect("an adapter");
    let again =
        irori(dir, &[&TRAIN[..], &["--num-epochs", "1", "--no-4bit", "--output-dir", "out", "--resume"]].concat());
    assert!(again.code != Some(0) && again.stderr.contains("layers-to-transform"), "{again:?}");
    assert!(whole == fs::read(dir.join("out/adapter_model.safetensors")).expect("an adapter"));
    fs::write(dir.join("text.jsonl"), "{\"tokens\": [1, 2, 3, 4, 5]}\n").expect("written");
    let score = |out: &str, adapter: &[&str]| {
        let args = ["score", "--model", "synthetic:tiny", "--device", "cpu", "--no-4bit", "--input", "text.jsonl"];
        done(dir, &[&args[..], &["--output", out], adapter].concat());
        fs::read_to_string(dir.join(out)).expect("scores")
    };
    assert_ne!(score("with.jsonl", &["--adapter", "out"]), score("without.jsonl", &[]));
    let next = ["--num-epochs", "1", "--no-4bit", "--init-adapter", "out", "--output-dir", "next"];
    let refused = irori(dir, &[&TRAIN[..], &next].concat());
    assert!(refused.code == Some(2) && refused.stderr.contains("--layers-to-transform 1"), "{refused:?}");
    done(
        dir,
        &[&TRAIN[..], &next, &["--layers-to-transform", "1", "--target-modules", "q_proj,k_proj,v_proj,o_proj"]]
            .concat(),
    );
}

#[test]
fn more_tokens_than_positions_are_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    done(dir, &["synth", "--arch", "tiny", "--output", "m"]);
    let path = dir.join("m/config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).expect("a file")).expect("JSON");
    config["max_position_embeddings"] = json!(16);
    fs::write(&path, config.to_string()).expect("written");
    samples(&dir.join("train.jsonl"), 32, 7);
    let train = ["train", "--model", "m", "--device", "cpu", "--train-file", "train.jsonl", "--output-dir", "out"];
    let end = done(dir, &[&train[..], &["--max-steps", "1"]].concat());
    assert!(end.stderr.contains("tokens, and the model knows 16 positions"), "{end:?}");
    fs::write(dir.join("text.jsonl"), "{\"tokens\": [1, 2, 3]}\n").expect("written");
    let score = ["score", "--model", "m", "--device", "cpu", "--input", "text.jsonl", "--output"];
    let end = done(dir, &[&score[..], &["long.jsonl", "--max-seq-length", "17"]].concat());
    assert!(end.stderr.contains("up to 17 tokens are asked for, and the model knows 16 positions"), "{end:?}");
    let end = done(dir, &[&score[..], &["short.jsonl", "--max-seq-length", "16"]].concat());
    assert!(!end.stderr.contains("positions"), "{end:?}");
}

#[test]
fn a_run_that_cannot_learn_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    samples(&dir.join("train.jsonl"), 32, 7);
    let train = |out: &str, args: &str| {
        let args: Vec<&str> = TRAIN.into_iter().chain(["--output-dir", out]).chain(args.split(' ')).collect();
        irori(dir, &args)
    };
    let one_step = train("a", "--max-steps 1");
    let warning = "warning: the learning rate is 0 in the whole run of 1 step";
    assert!(one_step.code == Some(0) && one_step.stderr.contains(warning), "{one_step:?}");
    assert!(one_step.stderr.contains("--warmup-ratio 0"), "{one_step:?}");
    let rising = train("b", "--max-steps 3 --warmup-steps 10 --lr 1e-3");
    assert!(rising.stderr.contains("warm-up takes 10 steps, and the run has 3 steps"), "{rising:?}");
    assert!(rising.stderr.contains("reaches 2.000e-4 instead of 1.000e-3"), "{rising:?}");
    let learns = train("c", "--max-steps 2 --warmup-ratio 0");
    assert!(learns.code == Some(0) && !learns.stderr.contains("warning: the learning rate"), "{learns:?}");
    let nothing = train("d", "--layers-to-transform 9");
    assert!(nothing.code == Some(2) && nothing.stderr.contains("there is no layer 9 in a model of 2"), "{nothing:?}");
    let long: String =
        (0..40).map(|_| format!("{}\n", json!({"input_ids": vec![1; 9], "labels": vec![1; 9]}))).collect();
    fs::write(dir.join("train.jsonl"), long).expect("written");
    let cut = train("e", "--max-seq-length 8");
    assert!(cut.code != Some(0) && cut.stderr.contains("none of its 40 records has a target left"), "{cut:?}");
    assert!(!dir.join("e").exists());
}
