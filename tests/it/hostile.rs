//! Whatever it is given, the program ends with code 1 or 2 and one `error: ` line that names what is wrong: the file,
//! the line, the field or the flag. It never panics, never dies of a signal, and leaves no half-made output.

use crate::program::{Ended, done, irori, samples};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Good input of every kind, to be spoilt.
fn inputs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    samples(&at.join("t.jsonl"), 4, 1);
    let question = |i: usize| {
        json!({"ファイル名": format!("法_{i}"), "コンテキスト": "条文", "問題文": format!("問{i}はどれか。"),
               "選択肢": "a 一\nb 二\nc 三\nd 四", "output": (["a", "b", "c", "d"][i % 4])})
    };
    let all: Vec<Value> = (0..8).map(question).collect();
    let write = |name: &str, text: &str| fs::write(at.join(name), text).expect("written");
    write("q.json", &json!({"samples": all}).to_string());
    write("r.jsonl", "{\"input\":\"問い\",\"output\":\"Answer: a\"}\n{\"input\":\"問\",\"output\":\"Answer: b\"}\n");
    write("text.jsonl", "{\"text\":\"囲炉裏\"}\n{\"tokens\":[1,2,3]}\n");
    let answer = json!({"question": "問", "choices": "a 一\nb 二\nc 三\nd 四", "correct_answer": "a",
        "predicted_answer": "b", "is_correct": false, "response": "Answer: b", "file_name": "法_0", "references": []});
    write("res.json", &json!({"config": {}, "summary": {}, "results": [answer]}).to_string());
    write("run.toml", "lora-r = 4\nlearning-rate = 1e-3\ntarget-modules = [\"q_proj\", \"down_proj\"]\n");
    done(at, &["synth", "--arch", "tiny", "--output", "m"]);
    let train = "train --model m --train-file t.jsonl --lora-r 2 --max-steps 1 --max-seq-length 24 --output-dir a";
    done(at, &train.split(' ').collect::<Vec<_>>());
    fs::create_dir(at.join("directory")).expect("made");
    dir
}

/// What is wrong with how a command ended, if anything: it must have `code` and say each of `words`.
fn complaint(end: &Ended, codes: &[i32], words: &[&str]) -> Option<String> {
    let errors = end.stderr.lines().filter(|l| l.starts_with("error: ")).count();
    let wrong = if end.signal.is_some() {
        "it died of a signal".to_owned()
    } else if end.stderr.contains("panicked") {
        "it panicked".to_owned()
    } else if !end.code.is_some_and(|c| codes.contains(&c)) {
        format!("exit code {:?}, not {codes:?}", end.code)
    } else if errors != 1 {
        format!("{errors} lines begin with `error: `")
    } else if let Some(word) = words.iter().find(|w| !end.stderr.contains(**w)) {
        format!("it does not say {word:?}")
    } else {
        return None;
    };
    Some(format!("{wrong}: {:.600}", end.stderr))
}

/// Runs cases, each a command line, exit codes and words, and reports all that went wrong at once.
struct Cases<'a> {
    at: &'a Path,
    wrong: Vec<String>,
    count: usize,
}

impl<'a> Cases<'a> {
    fn new(at: &'a Path) -> Self {
        Self { at, wrong: Vec::new(), count: 0 }
    }

    fn case(&mut self, line: &str, codes: &[i32], words: &[&str]) {
        // `␣` stands for a space within an argument, `∅` for an empty argument.
        let args: Vec<String> = line.split_whitespace().map(|a| a.replace('␣', " ").replace('∅', "")).collect();
        let end = irori(self.at, &args.iter().map(String::as_str).collect::<Vec<_>>());
        self.count += 1;
        self.wrong.extend(complaint(&end, codes, words).map(|c| format!("irori {line}\n    {c}")));
        for made in ["out", "out.json", "out.jsonl"] {
            let path = self.at.join(made);
            // `train` makes its directory before it can know all that is wrong; it must only hold nothing of worth.
            if path.join("adapter_model.safetensors").exists()
                || path.join("model.safetensors").exists()
                || path.is_file()
            {
                self.wrong.push(format!("irori {line}\n    left {made} behind"));
            }
            let _ = fs::remove_dir_all(&path);
            let _ = fs::remove_file(&path);
        }
    }

    fn end(self) {
        assert!(self.wrong.is_empty(), "{} of {} cases:\n{}", self.wrong.len(), self.count, self.wrong.join("\n"));
        eprintln!("{} cases", self.count);
    }
}

/// Every place where a command takes a file: `%` is the file.
const FILES: [&str; 14] = [
    "dataset --input % --output-dir out",
    "dataset inspect % --model m",
    "dataset --input q.json --output-dir out --check-against %",
    "train --model m --output-dir out --train-file %",
    "train --model m --output-dir out --train-file t.jsonl --eval-file %",
    "train --model m --output-dir out --train-file t.jsonl --config %",
    "plan --model m --train-file %",
    "eval --model m --output out.json --data %",
    "eval --output out.json --rescore %",
    "compare % res.json",
    "compare res.json % --json",
    "score --model m --output out.jsonl --input %",
    "synth --output out --arch %",
    "synth --arch tiny --output out --tokenizer %",
];

/// Every place where a command takes a directory.
const DIRECTORIES: [&str; 12] = [
    "dataset inspect r.jsonl --model %",
    "train --train-file t.jsonl --output-dir out --model %",
    "train --model m --train-file t.jsonl --output-dir out --init-adapter %",
    "train --model m --train-file r.jsonl --output-dir out --tokenizer %",
    "plan --train-file t.jsonl --model %",
    "eval --data q.json --output out.json --model %",
    "eval --data q.json --output out.json --model m --adapter %",
    "score --input text.jsonl --output out.jsonl --model %",
    "generate --prompt x --model %",
    "quantize --output out --model %",
    "merge --adapter a --output out --model %",
    "merge --model m --output out --adapter %",
];

#[test]
fn missing_things_and_things_of_another_kind() {
    let dir = inputs();
    let mut cases = Cases::new(dir.path());
    for line in FILES {
        for name in ["missing", "directory", "m/missing.json", "t.jsonl/below"] {
            cases.case(&line.replace('%', name), &[1, 2], &[name]);
        }
    }
    for line in DIRECTORIES {
        for name in ["missing", "t.jsonl", "directory", "directory/../missing"] {
            cases.case(&line.replace('%', name), &[1, 2], &[name]);
        }
    }
    // Where output cannot go: below a file, onto a directory, into nothing, onto what is there.
    for (line, words) in [
        ("dataset --input q.json --output-dir t.jsonl/out", "t.jsonl/out"),
        ("dataset --input q.json --output-dir /proc/irori", "/proc/irori"),
        ("train --model m --train-file t.jsonl --max-steps 1 --output-dir t.jsonl/out", "t.jsonl/out"),
        ("train --model m --train-file t.jsonl --max-steps 1 --output-dir t.jsonl", "t.jsonl"),
        ("train --model m --train-file t.jsonl --max-steps 1 --output-dir /proc/irori", "/proc/irori"),
        ("train --model m --train-file t.jsonl --max-steps 1 --output-dir m", "--output-dir m: is not empty"),
        ("train --model m --train-file t.jsonl --max-steps 1 --output-dir ∅", "--output-dir"),
        ("eval --model m --data q.json --output directory", "directory"),
        ("eval --model m --data q.json --output missing/out.json", "missing"),
        ("eval --model m --data q.json --output /proc/irori.json", "/proc"),
        ("eval --rescore res.json --output t.jsonl/out.json", "t.jsonl"),
        ("compare res.json res.json --output missing/out.html", "missing"),
        ("compare res.json res.json --output /proc/out.html", "/proc"),
        ("score --model m --input text.jsonl --output directory", "directory"),
        ("score --model m --input text.jsonl --output missing/o.jsonl", "missing"),
        ("synth --arch tiny --output t.jsonl", "t.jsonl"),
        ("synth --arch tiny --output t.jsonl/out", "t.jsonl/out"),
        ("synth --arch tiny --output /proc/irori", "/proc/irori"),
        ("synth --arch tiny --output m", "m is not empty"),
        ("quantize --model m --output t.jsonl/out", "t.jsonl/out"),
        ("quantize --model m --output m", "m is not empty"),
        ("merge --model m --adapter a --output t.jsonl/out", "t.jsonl/out"),
        ("merge --model m --adapter a --output a", "--output a"),
    ] {
        cases.case(line, &[1, 2], &[words]);
    }
    cases.end();
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let dir = inputs();
    let at = dir.path();
    let deep = "[".repeat(300_000);
    let long = format!("{{\"input\": \"{}\"", "あ".repeat(3_500_000));
    let contents: [(&str, &[u8]); 8] = [
        ("empty", b""),
        ("blank", b"\n\n  \n"),
        ("null", b"null"),
        ("cut", b"{\"samples\": [{\"input\": \"x\", \"out"),
        ("latin", b"{\"text\": \"caf\xe9\", \"input\": \"\xff\xfe\", \"output\": \"a\"}\n"),
        ("zeros", &[0; 4096]),
        ("deep", deep.as_bytes()),
        ("long", long.as_bytes()),
    ];
    for (name, bytes) in contents {
        fs::write(at.join(name), bytes).expect("written");
    }
    let mut cases = Cases::new(at);
    for line in FILES {
        for (name, _) in contents {
            let fine = line.contains("--config") && matches!(name, "empty" | "blank");
            // What is looked through for known questions may well hold none.
            if !fine && !line.contains("--check-against") {
                cases.case(&line.replace('%', name), &[1, 2], &[name]);
            }
        }
    }
    for (name, _) in &contents[4..5] {
        cases.case(&format!("generate --model m --prompt-file {name}"), &[1, 2], &[name]);
    }
    cases.end();
}

#[test]
fn lines_and_fields_are_named() {
    let dir = inputs();
    let mut cases = Cases::new(dir.path());
    let good = "{\"input_ids\":[1,2,3],\"labels\":[-100,2,3]}\n";
    let train = "train --model m --output-dir out --train-file bad.jsonl";
    for (line, words) in [
        ("{\"input_ids\":[1,2,\"x\"],\"labels\":[-100,2,3]}", &["line 2", "`input_ids[2]`"][..]),
        ("{\"input_ids\":[1,2,-3],\"labels\":[-100,2,3]}", &["line 2", "`input_ids[2]`"]),
        ("{\"input_ids\":[1,2,1e30],\"labels\":[-100,2,3]}", &["line 2", "`input_ids[2]`"]),
        ("{\"input_ids\":[1,2,18446744073709551615],\"labels\":[-100,2,3]}", &["line 2", "`input_ids[2]`"]),
        ("{\"input_ids\":[1,2,600],\"labels\":[-100,2,3]}", &["line 2", "600"]),
        ("{\"input_ids\":[1,2,3],\"labels\":[-100,2,600]}", &["line 2", "600"]),
        ("{\"input_ids\":[1,2,3],\"labels\":[-100,2]}", &["line 2", "2 labels for 3 input_ids"]),
        ("{\"input_ids\":[1,2,3],\"labels\":[-100,2,-1]}", &["line 2", "`labels[2]`"]),
        ("{\"input_ids\":[1,2,3]}", &["line 2", "`labels`"]),
        ("{\"input\":\"x\"}", &["line 2", "`output`"]),
        ("{\"input\":3,\"output\":\"a\"}", &["line 2", "`input`"]),
        ("{\"input\":\"x\",\"output\":null}", &["line 2", "`output`"]),
        ("{\"prompt\":\"x\",\"completion\":[]}", &["line 2", "`completion`"]),
        ("{\"messages\":{}}", &["line 2", "`messages`"]),
        ("{\"messages\":[{\"role\":\"user\"}]}", &["line 2", "`messages[0].content`"]),
        ("{\"messages\":[3,4]}", &["line 2", "`messages[0].role`"]),
        ("[1,2]", &["line 2", "expected an object"]),
        ("{\"unknown\":1}", &["line 2", "unknown"]),
        ("{\"input\":\"x\",\"output\":\"a\"", &["line 2", "not valid JSON"]),
    ] {
        fs::write(dir.path().join("bad.jsonl"), format!("{good}{line}\n{good}")).expect("written");
        cases.case(train, &[1], &[&["bad.jsonl"], words].concat());
    }
    // All of it in range, nothing to learn.
    fs::write(dir.path().join("bad.jsonl"), "{\"input_ids\":[1,2,3],\"labels\":[5,-100,-100]}\n").expect("written");
    cases.case(train, &[1], &["bad.jsonl"]);
    for (line, words) in [
        ("{\"text\":3}", &["line 2", "\"text\""][..]),
        ("{\"tokens\":[1,700]}", &["line 2", "700"]),
        ("{\"tokens\":[1,-1]}", &["line 2", "`tokens"]),
        ("{\"tokens\":\"x\"}", &["line 2", "\"tokens\""]),
        ("{}", &["line 2", "text"]),
        ("x", &["line 2"]),
    ] {
        fs::write(dir.path().join("bad.jsonl"), format!("{{\"text\":\"a\"}}\n{line}\n")).expect("written");
        cases.case("score --model m --output out.jsonl --input bad.jsonl", &[1], &[&["bad.jsonl"], words].concat());
    }
    for (text, words) in [
        ("lora-r = \"x\"", &["line 1", "`lora-r`"][..]),
        ("[[[[", &["line 1"]),
        ("learning-rate = nan", &["learning-rate"]),
        ("max-seq-length = 99999999999999999999", &["line 1", "max-seq-length"]),
        ("output-dir = 3", &["line 1", "`output-dir`"]),
        ("no-such-key = 1", &["line 1", "no-such-key"]),
    ] {
        fs::write(dir.path().join("bad.toml"), text).expect("written");
        cases.case("train --model m --train-file t.jsonl --output-dir out --config bad.toml", &[2], words);
    }
    cases.end();
}

#[test]
fn absurd_flag_values() {
    let dir = inputs();
    let at = dir.path();
    let mut cases = Cases::new(at);
    let whole: &[&str] = &["-1", "0", "nan", "1.5", "18446744073709551616", "∅", "x", "0x10"];
    let real: &[&str] = &["-1", "nan", "inf", "1e999", "∅", "x"];
    let train = "train --model m --train-file t.jsonl --output-dir out";
    for flag in ["batch-size", "gradient-accumulation-steps", "max-seq-length", "max-steps", "lora-r", "logging-steps"]
    {
        // As in transformers' scripts, -1 steps are no number of steps.
        for value in whole.iter().filter(|value| (flag, **value) != ("max-steps", "-1")) {
            cases.case(&format!("{train} --{flag} {value}"), &[2], &[flag]);
        }
    }
    for flag in ["num-epochs", "learning-rate", "warmup-ratio", "weight-decay", "lora-alpha", "lora-dropout"] {
        for value in real {
            cases.case(&format!("{train} --{flag} {value}"), &[2], &[flag]);
        }
    }
    for (line, flag) in [
        ("--max-steps -2", "--max-steps"),
        ("--seed -1", "--seed"),
        ("--seed 18446744073709551615", "--seed"),
        ("--batch-size 65536 --max-seq-length 1048576", "--batch-size"),
        ("--threads 0", "threads"),
        ("--threads 99999999", "threads"),
        ("--memory-limit 0", "--memory-limit"),
        ("--memory-limit -5GiB", "--memory-limit"),
        ("--memory-limit 1e400GiB", "--memory-limit"),
        ("--memory-limit 20GiBB", "--memory-limit"),
        ("--device gpu", "--device"),
        ("--device cuda:-1", "--device"),
        ("--device cuda:99999999999", "--device"),
        ("--lr-scheduler wild", "--lr-scheduler"),
        ("--target-modules nothing", "--target-modules"),
        ("--target-modules ∅", "--target-modules"),
        ("--bnb-4bit-quant-type fp4", "--bnb-4bit-quant-type"),
        ("--save-total-limit 0", "--save-total-limit"),
        ("--no-such-flag", "--no-such-flag"),
        ("--model m", "--model"),
    ] {
        cases.case(&format!("{train} {line}"), &[2], &[flag]);
    }
    cases.case(&format!("{train} --memory-limit 1"), &[1, 2], &["memory"]);
    // Without a driver the machine is at fault, with one the number is.
    cases.case(&format!("{train} --device cuda:77"), &[1, 2], &["cuda:77"]);
    cases.case(&format!("{train} --memory-limit 100KiB"), &[1, 2], &["memory"]);
    for (line, flag) in [
        ("eval --model m --data q.json --output out.json --samples 0", "--samples"),
        ("eval --model m --data q.json --output out.json --samples -4", "--samples"),
        ("eval --model m --data q.json --output out.json --samples 99999999999999999999", "--samples"),
        ("eval --model m --data q.json --output out.json --max-seq-length 0", "--max-seq-length"),
        ("eval --model m --data q.json --output out.json --threads 0", "--threads"),
        ("eval --model m --data q.json --output out.json --device cuda:x", "--device"),
        ("eval --model m --data q.json --output out.json --method guess", "--method"),
        ("generate --model m --prompt x --max-new-tokens 0", "--max-new-tokens"),
        ("generate --model m --prompt x --max-new-tokens 4294967296", "--max-new-tokens"),
        ("generate --model m --prompt x --max-seq-length 4294967295", "--max-seq-length"),
        ("score --model m --input text.jsonl --output out.jsonl --threads -1", "--threads"),
        ("score --model m --input text.jsonl --output out.jsonl --memory-limit lots", "--memory-limit"),
        ("synth --arch tiny --output out --seed -1", "--seed"),
        ("synth --arch tiny --output out --shard-size 0", "--shard-size"),
        ("synth --arch gigantic --output out", "--arch"),
        ("synth --arch ∅ --output out", "--arch"),
        ("dataset --input q.json --output-dir out --split train=9", "only 8"),
        ("dataset --input q.json --output-dir out --split train=-1", "--split"),
        ("dataset --input q.json --output-dir out --split train=nan,test=inf", "--split"),
        ("dataset --input q.json --output-dir out --split train=0.9,test=0.9", "1.8"),
        ("dataset --input q.json --output-dir out --split train=18446744073709551615,test=1", "split"),
        ("dataset --input q.json --output-dir out --permute-choices 0", "--permute-choices"),
        ("dataset inspect r.jsonl --model m --max-seq-length 1", "--max-seq-length"),
        ("merge --model m --adapter a --output out --base nonsense", "--base"),
        ("quantize --model m --output out --compute-dtype int3", "--compute-dtype"),
        ("nonsense", "nonsense"),
    ] {
        cases.case(line, &[2], &[flag]);
    }
    cases.case(
        "score --model synthetic:tiny@99999999999999999999 --input text.jsonl --output out.jsonl",
        &[2],
        &["seed"],
    );
    cases.case("score --model synthetic:huge --input text.jsonl --output out.jsonl", &[2], &["huge"]);
    cases.case("score --model ../../etc --input text.jsonl --output out.jsonl", &[1, 2], &["../../etc"]);
    cases.case("score --model a/b/c --input text.jsonl --output out.jsonl", &[2], &["a/b/c"]);
    cases.case("generate --model m --prompt x --memory-limit 10KiB", &[1, 2], &["memory"]);
    // A model that no machine holds is refused before a byte is made.
    let mut config: Value = serde_json::from_slice(&fs::read(at.join("m/config.json")).expect("read")).expect("JSON");
    for (field, value) in [("hidden_size", 1u64 << 17), ("intermediate_size", 1 << 19), ("vocab_size", 1 << 24)] {
        config[field] = value.into();
    }
    fs::write(at.join("huge.json"), config.to_string()).expect("written");
    cases.case("synth --arch huge.json --output out", &[1, 2], &["huge.json", "memory"]);
    cases.case(
        "train --model synthetic:qwen3-32b --no-4bit --train-file t.jsonl --output-dir out --memory-limit 30GiB",
        &[1, 2],
        &["try --use-4bit"],
    );
    cases.end();
}

/// A change to the directory of a model or adapter.
type Change = Box<dyn Fn(&Path)>;

fn edit(name: &'static str, change: impl Fn(&mut Value) + 'static) -> Change {
    Box::new(move |dir| {
        let path = dir.join(name);
        let mut json: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
        change(&mut json);
        fs::write(path, json.to_string()).expect("written");
    })
}

fn set(name: &'static str, field: &'static str, value: Value) -> Change {
    edit(name, move |json| json[field] = value.clone())
}

fn rewrite(name: &'static str, change: impl Fn(Vec<u8>) -> Vec<u8> + 'static) -> Change {
    Box::new(move |dir| {
        let bytes = change(fs::read(dir.join(name)).expect("read"));
        fs::write(dir.join(name), bytes).expect("written");
    })
}

fn remove(name: &'static str) -> Change {
    Box::new(move |dir| fs::remove_file(dir.join(name)).expect("removed"))
}

/// The same safetensors file with its header changed as text.
fn header(name: &'static str, change: impl Fn(String) -> String + 'static) -> Change {
    rewrite(name, move |bytes| {
        let len = u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
        let text = change(String::from_utf8(bytes[8..8 + len].to_vec()).expect("UTF-8"));
        [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &bytes[8 + len..]].concat()
    })
}

fn length(name: &'static str, len: u64) -> Change {
    rewrite(name, move |mut bytes| {
        bytes[..8].copy_from_slice(&len.to_le_bytes());
        bytes
    })
}

fn copied(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).expect("made");
    for entry in fs::read_dir(from).expect("listed") {
        let path: PathBuf = entry.expect("an entry").path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
        }
    }
}

#[test]
fn spoilt_models() {
    const WEIGHTS: &str = "model.safetensors";
    const CONFIG: &str = "config.json";
    const TEXT: &str = "tokenizer.json";
    const TEXT_CONFIG: &str = "tokenizer_config.json";
    let dir = inputs();
    let at = dir.path();
    let mut cases = Cases::new(at);
    let shard = |names: Value| -> Change {
        Box::new(move |dir| {
            fs::remove_file(dir.join(WEIGHTS)).expect("removed");
            fs::write(dir.join("model.safetensors.index.json"), names.to_string()).expect("written");
        })
    };
    let weights: Vec<(&str, Change)> = vec![
        ("config.json", remove(CONFIG)),
        ("config.json", rewrite(CONFIG, |_| b"{}".to_vec())),
        ("config.json", rewrite(CONFIG, |b| b[..b.len() / 2].to_vec())),
        ("config.json", rewrite(CONFIG, |_| vec![0xff; 99])),
        ("LlamaForCausalLM", set(CONFIG, "architectures", json!(["LlamaForCausalLM"]))),
        ("Qwen3MoeForCausalLM", set(CONFIG, "architectures", json!(["Qwen3MoeForCausalLM"]))),
        ("hidden_size", set(CONFIG, "hidden_size", json!("128"))),
        ("hidden_size", set(CONFIG, "hidden_size", json!(-1))),
        ("hidden_size", set(CONFIG, "hidden_size", json!(1e30))),
        ("hidden_size", set(CONFIG, "hidden_size", json!(0))),
        ("num_key_value_heads", set(CONFIG, "num_key_value_heads", json!(3))),
        ("head_dim", set(CONFIG, "head_dim", json!(63))),
        ("rms_norm_eps", set(CONFIG, "rms_norm_eps", json!("small"))),
        ("rope", set(CONFIG, "rope_scaling", json!({"rope_type": "longrope", "factor": 4.0}))),
        ("rope_scaling.factor", set(CONFIG, "rope_scaling", json!({"rope_type": "yarn", "factor": "4"}))),
        ("layer_types.0", set(CONFIG, "layer_types", json!(["sliding_attention", "full_attention"]))),
        ("model.layers.1.", set(CONFIG, "num_hidden_layers", json!(1))),
        ("attention_bias", set(CONFIG, "attention_bias", json!(true))),
        ("model.layers.2.", set(CONFIG, "num_hidden_layers", json!(3))),
        ("model.embed_tokens.weight", set(CONFIG, "vocab_size", json!(4096))),
        ("_proj.weight", set(CONFIG, "intermediate_size", json!(256))),
        ("lm_head.weight", set(CONFIG, "tie_word_embeddings", json!(false))),
        ("quant", set(CONFIG, "quantization_config", json!({"quant_method": "gptq", "bits": 4}))),
        (WEIGHTS, remove(WEIGHTS)),
        (WEIGHTS, rewrite(WEIGHTS, |_| Vec::new())),
        (WEIGHTS, rewrite(WEIGHTS, |b| b[..7].to_vec())),
        (WEIGHTS, rewrite(WEIGHTS, |b| b[..100].to_vec())),
        (WEIGHTS, rewrite(WEIGHTS, |b| b[..b.len() / 2].to_vec())),
        (WEIGHTS, rewrite(WEIGHTS, |b| b[..b.len() - 1].to_vec())),
        (WEIGHTS, length(WEIGHTS, u64::MAX)),
        (WEIGHTS, length(WEIGHTS, 1 << 63)),
        (WEIGHTS, length(WEIGHTS, 1 << 40)),
        (WEIGHTS, length(WEIGHTS, 0)),
        (WEIGHTS, length(WEIGHTS, 2)),
        ("model.norm.weight", header(WEIGHTS, |h| h.replace("model.norm.weight", "model.nrom.weight"))),
        (WEIGHTS, header(WEIGHTS, |h| h.replacen("[128]", "[129]", 1))),
        (WEIGHTS, header(WEIGHTS, |h| h.replacen("\"data_offsets\":[0,", "\"data_offsets\":[9,", 1))),
        (WEIGHTS, header(WEIGHTS, |h| h.replacen("BF16", "F8_E4M3", 1))),
        (WEIGHTS, header(WEIGHTS, |h| h.replacen("BF16", "I16", 1))),
        (WEIGHTS, header(WEIGHTS, |h| h.replacen("[128]", "[18446744073709551615,18446744073709551615]", 1))),
        (WEIGHTS, header(WEIGHTS, |h| h.replacen("[128]", "[-128]", 1))),
        ("weight_map", shard(json!({}))),
        ("weight_map", shard(json!({"weight_map": {}}))),
        ("weight_map", shard(json!({"weight_map": {"a": "../../etc/passwd"}}))),
        ("weight_map", shard(json!({"weight_map": {"a": "../m/model.safetensors"}}))),
        ("weight_map", shard(json!({"weight_map": {"a": "gone.safetensors"}}))),
        ("weight_map", shard(json!({"weight_map": {"a": 3}}))),
        ("of an adapter", header(WEIGHTS, |h| h.replace("up_proj.weight", "up_proj.base_layer.weight"))),
    ];
    for (word, change) in &weights {
        copied(&at.join("m"), &at.join("bad"));
        change(&at.join("bad"));
        cases.case("train --model bad --train-file t.jsonl --max-steps 1 --output-dir out", &[1], &["bad", word]);
        cases.case("quantize --model bad --output out", &[1], &["bad", word]);
    }
    let texts: Vec<(&str, Change)> = vec![
        (TEXT, remove(TEXT)),
        (TEXT, rewrite(TEXT, |_| Vec::new())),
        (TEXT, rewrite(TEXT, |_| b"{}".to_vec())),
        (TEXT, rewrite(TEXT, |b| b[..b.len() / 3].to_vec())),
        (TEXT, rewrite(TEXT, |b| b.iter().map(|&c| if c == b':' { b';' } else { c }).collect())),
        (TEXT, edit(TEXT, |t| t["model"]["type"] = "Magic".into())),
        (TEXT, edit(TEXT, |t| t["model"]["vocab"] = json!({}))),
        (TEXT, edit(TEXT, |t| t["model"]["merges"] = json!([["no", "such"]]))),
        (TEXT, edit(TEXT, |t| t["model"]["vocab"]["a"] = json!(-7))),
        // The tokenizers crate panics at this one.
        (TEXT, rewrite(TEXT, |b| String::from_utf8_lossy(&b).replace("\"decoder\":", "\"decoder\":!").into_bytes())),
        (TEXT_CONFIG, rewrite(TEXT_CONFIG, |_| b"[".to_vec())),
        ("chat template", set(TEXT_CONFIG, "chat_template", json!("{% for m in messages %}"))),
        ("eos_token", set(TEXT_CONFIG, "eos_token", json!("<|nowhere|>"))),
        ("eos_token_id", set("generation_config.json", "eos_token_id", json!("x"))),
        ("eos_token_id", set("generation_config.json", "eos_token_id", json!(99_999_999_999u64))),
        ("generation_config.json", rewrite("generation_config.json", |_| b"{".to_vec())),
    ];
    for (word, change) in &texts {
        copied(&at.join("m"), &at.join("bad"));
        change(&at.join("bad"));
        cases.case("generate --model bad --prompt x --max-new-tokens 1", &[1, 2], &["bad", word]);
        // Without any tokenizer a model is good for token ids, so the text is what does not fit.
        let word = if at.join("bad").join(TEXT).exists() { word } else { &"tokenizer" };
        cases.case("train --model bad --train-file r.jsonl --max-steps 1 --output-dir out", &[1, 2], &[word]);
    }
    // Legal, if odd: a header of a length that leaves every tensor unaligned.
    copied(&at.join("m"), &at.join("odd"));
    header(WEIGHTS, |h| format!("{h} ")).as_ref()(&at.join("odd"));
    let line = "train --model odd --train-file t.jsonl --max-steps 1 --max-seq-length 24 --output-dir odd-out";
    done(at, &line.split(' ').collect::<Vec<_>>());
    done(at, &["quantize", "--model", "odd", "--output", "odd-q"]);
    cases.end();
}

#[test]
fn spoilt_adapters() {
    const WEIGHTS: &str = "adapter_model.safetensors";
    const CONFIG: &str = "adapter_config.json";
    let dir = inputs();
    let at = dir.path();
    let mut cases = Cases::new(at);
    let changes: Vec<(&str, Change)> = vec![
        (CONFIG, remove(CONFIG)),
        (CONFIG, rewrite(CONFIG, |b| b[..b.len() / 2].to_vec())),
        ("`r`", set(CONFIG, "r", json!(0))),
        ("`r`", set(CONFIG, "r", json!(100_000))),
        ("`r`", set(CONFIG, "r", json!(2.5))),
        ("lora_A", set(CONFIG, "r", json!(4))),
        ("lora_alpha", set(CONFIG, "lora_alpha", json!("big"))),
        ("lora_alpha", set(CONFIG, "lora_alpha", json!(1e300))),
        ("lora_dropout", set(CONFIG, "lora_dropout", json!(2))),
        ("target_modules", set(CONFIG, "target_modules", json!(["lm_head"]))),
        ("target_modules", set(CONFIG, "target_modules", json!(7))),
        ("use_dora", set(CONFIG, "use_dora", json!(true))),
        ("peft_type", set(CONFIG, "peft_type", json!("PREFIX_TUNING"))),
        ("bias", set(CONFIG, "bias", json!("all"))),
        (WEIGHTS, remove(WEIGHTS)),
        (WEIGHTS, rewrite(WEIGHTS, |b| b[..b.len() / 2].to_vec())),
        (WEIGHTS, length(WEIGHTS, u64::MAX)),
        (WEIGHTS, header(WEIGHTS, |h| h.replacen("layers.1", "layers.7", 1))),
        (
            "finite",
            rewrite(WEIGHTS, |mut b| {
                let end = b.len();
                b[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
                b
            }),
        ),
    ];
    for (word, change) in &changes {
        copied(&at.join("a"), &at.join("bad"));
        change(&at.join("bad"));
        cases.case("merge --model m --adapter bad --output out", &[1, 2], &["bad", word]);
        cases.case("generate --model m --adapter bad --prompt x", &[1, 2], &["bad", word]);
        cases.case(
            "train --model m --init-adapter bad --lora-r 2 --train-file t.jsonl --output-dir out",
            &[1, 2],
            &["bad", word],
        );
    }
    cases.case("merge --model synthetic:qwen3-0.6b --adapter a --output out", &[1, 2], &["lora_A"]);
    cases.end();
}
