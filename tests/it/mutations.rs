//! Small valid files of every kind, spoilt at random a few hundred times each, in process: every reader answers with a
//! value or with an error of one line that names the file. None panics. A failure prints the kind and the seed.

use crate::program::{done, samples};
use irori::{
    Error,
    data::{
        chat::{ChatTemplate, Message},
        questions::lawqa,
        record,
        tokenizer::Tokenizer,
    },
    eval::result::EvalResult,
    model::{ModelConfig, catalogue, peft, source::open},
    rng::Rng,
    settings::Group,
    train::{
        checkpoint,
        settings::Settings,
        state::{RunState, TrainerState, read_optimizer},
    },
};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

/// A number below `bound`.
fn below(rng: &mut Rng, bound: usize) -> usize {
    rng.next_u32() as usize % bound.max(1)
}

/// Things that parsers stumble over.
const BITS: [&[u8]; 16] = [
    b"0",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"null",
    b"\"",
    b"[",
    b"{",
    b"}",
    b",",
    b"\n",
    b"\0",
    b"\xff",
    b"NaN",
    b"\\u0000",
    b"[[[[[[[[",
];

/// Spoils up to three places, mostly near the beginning where headers are.
fn spoil(good: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..1 + below(rng, 3) {
        let reach = if below(rng, 3) == 0 { bytes.len() } else { bytes.len().min(2000) };
        let at = below(rng, reach);
        let end = (at + 1 + below(rng, 40)).min(bytes.len());
        match below(rng, 7) {
            _ if bytes.is_empty() => bytes.extend(BITS[below(rng, BITS.len())]),
            0 => bytes[at] ^= 1 << below(rng, 8),
            1 => bytes[at] = rng.next_u32() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => drop(bytes.splice(at..at, BITS[below(rng, BITS.len())].iter().copied())),
            5 => {
                let copy = bytes[at..end].to_vec();
                let to = below(rng, bytes.len());
                drop(bytes.splice(to..to, copy));
            }
            // A digit becomes a larger number: lengths, offsets, shapes, ids.
            _ => {
                if let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit) {
                    let more = BITS[below(rng, 4)];
                    drop(bytes.splice(at + digit..at + digit + 1, more.iter().copied()));
                }
            }
        }
    }
    bytes
}

/// Reads `file` of the directory `dir` spoilt `times` times.
fn survive(dir: &Path, file: &str, times: u64, read: impl Fn() -> Result<(), Error>) {
    let path = dir.join(file);
    let good = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    read().unwrap_or_else(|e| panic!("{file} is good: {e}"));
    let mut refused = 0;
    for seed in 0..times {
        fs::write(&path, spoil(&good, &mut Rng::new(seed, 0x5901))).expect("written");
        match catch_unwind(AssertUnwindSafe(&read)) {
            Err(_) => panic!("{file}: a panic with seed {seed}"),
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                refused += 1;
                let text = checkpoint::chain(&e);
                assert!(!text.contains('\n'), "{file}, seed {seed}: more than one line: {text}");
                let name = dir.file_name().expect("a name").to_string_lossy();
                assert!(text.contains(&*name), "{file}, seed {seed}: the file is not named: {text}");
                assert!(text.len() < 1500, "{file}, seed {seed}: {} bytes of message: {text:.300}", text.len());
            }
        }
    }
    fs::write(&path, good).expect("written");
    eprintln!("{file}: {refused} of {times} refused");
    assert!(refused * 4 > times, "{file}: only {refused} of {times} were noticed");
}

#[test]
fn readers_of_text() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    let write = |name: &str, text: &str| fs::write(at.join(name), text).expect("written");
    let question = r#"{"ファイル名":"法_1","コンテキスト":"条文","問題文":"どれか。","選択肢":"a 一\nb 二\nc 三\nd 四","output":"b","references":["x"]}"#;
    write("q.json", &format!("{{\"samples\":[{question},{question}]}}"));
    survive(at, "q.json", 400, || lawqa::read(&at.join("q.json")).map(drop));
    write(
        "r.jsonl",
        "{\"input\":\"問い\",\"output\":\"a\",\"meta\":{\"answer\":\"a\"}}\n{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"y\"}]}\n{\"input_ids\":[1,2,3],\"labels\":[-100,2,3]}\n",
    );
    survive(at, "r.jsonl", 400, || {
        record::read(&at.join("r.jsonl")).map(|all| all.iter().for_each(|r| drop((r.text(), r.answer()))))
    });
    write(
        "res.json",
        r#"{"config":{"a":1},"summary":{},"results":[{"question":"問","choices":"a 一\nb 二\nc 三\nd 四","correct_answer":"a","predicted_answer":"b","is_correct":false,"response":"Answer: b","file_name":"法_0","references":[],"probabilities":{"a":0.2,"b":0.4,"c":0.3,"d":0.1}}]}"#,
    );
    survive(at, "res.json", 400, || {
        EvalResult::read(&at.join("res.json")).map(|mut r| {
            r.rescore();
            drop(r.to_json());
        })
    });
    write(
        "run.toml",
        "lora-r = 8\nlearning-rate = 1e-3\ntarget-modules = [\"q_proj\"]\nmodel = \"m\"\ntrain-file = \"t\"\noutput-dir = \"o\"\nseed = 1\n",
    );
    // A value that is out of range names its setting, not the file.
    let toml = || match Settings::from_file(&at.join("run.toml")).map(Settings::decide) {
        Ok(Err(Error::Setting { .. })) => Ok(()),
        Ok(other) => other.map(drop),
        Err(e) => Err(e),
    };
    survive(at, "run.toml", 400, toml);
    fs::write(at.join("config.json"), ModelConfig::preset("tiny").expect("known").to_json("bfloat16").to_string())
        .expect("written");
    survive(at, "config.json", 300, || {
        ModelConfig::read(&at.join("config.json")).map(|file| {
            let _ = (file.model.parameters(), catalogue::tensors(&file.model).len());
        })
    });
}

#[test]
fn readers_of_models() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    done(at, &["synth", "--arch", "tiny", "--output", "m"]);
    done(at, &["quantize", "--model", "m", "--output", "q"]);
    samples(&at.join("t.jsonl"), 4, 1);
    let train = "train --model m --train-file t.jsonl --lora-r 1 --max-steps 1 --max-seq-length 24 --output-dir out";
    done(at, &train.split(' ').collect::<Vec<_>>());

    let whole = |name: &str| {
        let dir = at.join(name);
        let source = open(dir.to_str().expect("a path"))?.source;
        let config = source.config().clone();
        // A configuration that asks for another model is found out by its first tensor.
        for tensor in catalogue::tensors(&config) {
            match tensor.linear() {
                Some((n, k)) => drop(source.linear(tensor.path(), n, k)?),
                None => drop(source.tensor(&tensor.name, &tensor.shape)?.to_f32()),
            }
        }
        source.fingerprint().map(drop)
    };
    survive(&at.join("m"), "model.safetensors", 300, || whole("m"));
    survive(&at.join("q"), "model.safetensors", 300, || whole("q"));
    survive(&at.join("m"), "config.json", 100, || whole("m"));
    let text = || {
        let tokenizer = Tokenizer::load(&at.join("m"))?;
        let ids = tokenizer.encode("囲炉裏 ひらがな and ASCII <|im_end|>\n").unwrap_or_default();
        tokenizer.decode(&ids, true).map(drop).or(Ok(()))
    };
    survive(&at.join("m"), "tokenizer.json", 300, text);
    survive(&at.join("m"), "generation_config.json", 150, text);
    let chat = || {
        let template = ChatTemplate::load(&at.join("m"))?;
        let messages = [Message::new("user", "x"), Message::new("assistant", "y")];
        let _ = (template.render(&messages, true, false), template.end_of_turn());
        Ok(())
    };
    survive(&at.join("m"), "tokenizer_config.json", 300, chat);

    let tiny = ModelConfig::preset("tiny").expect("known");
    let peft = || peft::load(&at.join("out"), &tiny).map(drop);
    survive(&at.join("out"), "adapter_config.json", 300, peft);
    survive(&at.join("out"), "adapter_model.safetensors", 300, peft);

    let newest = at.join("out/checkpoint-1");
    let parameters = peft::load(&newest, &tiny).expect("whole").flat.len();
    assert_eq!(parameters, peft::read_config(&newest, tiny.layers).expect("whole").parameters(&tiny));
    for file in ["MANIFEST.json", "irori_state.json", "optimizer.safetensors", "trainer_state.json"] {
        survive(&newest, file, 150, || checkpoint::verify(&newest).map(drop));
    }
    // The same files past the manifest: what a wrong manifest lets through must not be a panic either.
    survive(&newest, "irori_state.json", 150, || RunState::read(&newest).map(drop));
    survive(&newest, "trainer_state.json", 150, || TrainerState::read(&newest).map(drop));
    survive(&newest, "optimizer.safetensors", 150, || read_optimizer(&newest, parameters, 1).map(drop));
}
