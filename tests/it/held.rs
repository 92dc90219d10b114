//! Weights are held as the checkpoint says, in every command: compared with models whose quantised weights were dequantised by
//! hand, and which are dense.

use crate::program::{done, irori, samples};
use irori::{
    files::RealDisk,
    model::{
        catalogue::{ModelTensor, Role, tensors},
        sink::{HfOptions, HfSink, WeightSink},
        source::{self, LinearData},
    },
    quant::nf4::Nf4,
    tensor::{DType, Tensor},
};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// How a tensor is written, by what it was.
type Write<'a> = &'a dyn Fn(&ModelTensor, Tensor) -> Written;

enum Written {
    Dense(Vec<f32>, DType),
    Nf4(Vec<f32>),
}

/// The model `from` written anew as `to`, each tensor as `write` says; `change` changes its config.json.
fn written(at: &Path, from: &str, to: &str, write: Write, change: impl Fn(&mut Value)) {
    let opened = source::open(at.join(from).to_str().expect("a path")).expect("opens");
    let options = HfOptions { double_quant: false, ..HfOptions::new(500) };
    let mut sink: Box<dyn WeightSink> = Box::new(HfSink::create(&RealDisk, &at.join(to), options).expect("begins"));
    let mut config = opened.config_json().expect("read");
    change(&mut config);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        sink.file(file, &fs::read(at.join(from).join(file)).expect("read")).expect("written");
    }
    sink.file("config.json", config.to_string().as_bytes()).expect("written");
    for t in tensors(opened.source.config()) {
        match write(&t, opened.source.tensor(&t.name, &t.shape).expect("read")) {
            Written::Dense(values, dtype) => {
                sink.tensor(&t, &Tensor::new(dtype, &t.shape[..], dtype.encode(&values))).expect("written");
            }
            Written::Nf4(values) => sink.nf4(&t, &quantised(&values), DType::F32).expect("written"),
        }
    }
    sink.commit().expect("committed");
}

fn quantised(values: &[f32]) -> Nf4<'static> {
    Nf4::of(Tensor::vector(values).floats().expect("floats"))
}

/// A model of f32 that is on no coarser grid, as `m`, and texts to score.
fn inputs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    done(at, &["synth", "--arch", "tiny", "--output", "made"]);
    let fine = |_: &ModelTensor, w: Tensor| {
        let values = w.to_f32().expect("floats");
        Written::Dense(values.iter().enumerate().map(|(i, x)| x * (1.0 + (i % 61) as f32 * 1e-4)).collect(), DType::F32)
    };
    written(at, "made", "m", &fine, |_| ());
    let lines = ["{\"tokens\":[1,2,3,400,17,256,99]}", "{\"tokens\":[5,4,3,2,1,0]}"];
    fs::write(at.join("text.jsonl"), lines.join("\n")).expect("written");
    dir
}

fn f32s(w: &Tensor) -> Vec<f32> {
    w.to_f32().expect("floats")
}

/// What `score` says, and what it says beside.
fn scored(at: &Path, line: &str) -> (String, String) {
    let args: Vec<&str> = line.split(' ').collect();
    let ended = done(at, &[&["score", "--input", "text.jsonl", "--device", "cpu"], &args[..]].concat());
    (ended.stdout, ended.stderr)
}

fn quantization(skip: &[&str]) -> Value {
    json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4",
           "bnb_4bit_compute_dtype": "bfloat16", "llm_int8_skip_modules": skip})
}

/// One up_proj, a part of a fused product, two parts of it, a whole layer, and several together.
const EXCEPTED: [&[&str]; 5] = [
    &["model.layers.0.mlp.up_proj"],
    &["model.layers.1.self_attn.q_proj"],
    &["k_proj", "v_proj"],
    &["model.layers.0"],
    &["model.layers.0.mlp.gate_proj", "o_proj", "model.layers.1.mlp.down_proj", "lm_head"],
];

#[test]
fn what_is_excepted_from_quantisation_stays_dense_in_every_command() {
    let dir = inputs();
    let at = dir.path();
    let all_quantised = scored(at, "--model m").0;
    for (i, skip) in EXCEPTED.into_iter().enumerate() {
        let excepted = |t: &ModelTensor| {
            let path = t.path();
            !matches!(t.role, Role::Linear(..))
                || skip.iter().any(|s| path.ends_with(s) || path.starts_with(&format!("{s}.")))
        };
        let name = |kind: &str| format!("{kind}{i}");
        // By hand: every value as it is in use, in f32.
        let by_hand = |t: &ModelTensor, w: Tensor| {
            let values = f32s(&w);
            Written::Dense(if excepted(t) { values } else { quantised(&values).to_bf16_values() }, DType::F32)
        };
        written(at, "m", &name("hand"), &by_hand, |_| ());
        // As bitsandbytes stores it, and dense with a configuration that says so.
        let stored = |t: &ModelTensor, w: Tensor| {
            let values = f32s(&w);
            if excepted(t) { Written::Dense(values, DType::F32) } else { Written::Nf4(values) }
        };
        let says = |c: &mut Value| c["quantization_config"] = quantization(skip);
        written(at, "m", &name("stored"), &stored, says);
        written(at, "m", &name("says"), &|_, w| Written::Dense(f32s(&w), DType::F32), says);
        let quantize = format!("quantize --model says{i} --output made{i} --no-double-quant");
        done(at, &quantize.split(' ').collect::<Vec<_>>());
        let expected = scored(at, &format!("--model hand{i} --no-4bit")).0;
        assert_ne!(expected, all_quantised, "{skip:?}");
        for model in ["stored", "says", "made"] {
            let (found, beside) = scored(at, &format!("--model {}", name(model)));
            assert_eq!(found, expected, "{model} {skip:?}");
            assert_eq!(beside.contains("the files hold them all dense"), model == "says", "{beside}");
        }
        let plan = format!("plan --model stored{i} --json --max-seq-length 32");
        let plan: Value = serde_json::from_str(&done(at, &plan.split(' ').collect::<Vec<_>>()).stdout).expect("JSON");
        let source = source::open(at.join(name("stored")).to_str().expect("a path")).expect("opens").source;
        let dense = tensors(source.config()).iter().filter(|t| t.linear().is_some() && excepted(t)).count();
        assert_eq!(plan["linears_dense"], dense, "{skip:?}");
    }
}

/// In f16, in f32, and one matrix of another type among bf16: without 4 bits nothing is rounded on the CPU.
#[test]
fn without_four_bits_every_value_is_the_stored_one() {
    let dir = inputs();
    let at = dir.path();
    let as_type = |t: &ModelTensor, kind: &str| match kind {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::Bf16,
        part if t.name.contains(part) => DType::F32,
        _ => DType::Bf16,
    };
    let rounded = |values: &[f32], dtype: DType| {
        Tensor::new(dtype, [values.len()], dtype.encode(values)).to_f32().expect("floats")
    };
    let coarse = scored(at, "--model made --no-4bit").0;
    for kind in ["f32", "f16", "bf16", "embed_tokens", "layers.1.mlp.down_proj", "k_proj"] {
        let stored = |t: &ModelTensor, w: Tensor| Written::Dense(f32s(&w), as_type(t, kind));
        let exact = |t: &ModelTensor, w: Tensor| Written::Dense(rounded(&f32s(&w), as_type(t, kind)), DType::F32);
        written(at, "m", kind, &stored, |_| ());
        written(at, "m", &format!("{kind} exact"), &exact, |_| ());
        for four_bit in [&["--no-4bit"][..], &[]] {
            let score = |model: &str| {
                let common = ["score", "--input", "text.jsonl", "--device", "cpu", "--model", model];
                done(at, &[&common[..], four_bit].concat()).stdout
            };
            let (found, expected) = (score(kind), score(&format!("{kind} exact")));
            assert!(found == expected && found != coarse, "{kind} {four_bit:?}");
        }
    }
}

#[test]
fn what_is_not_used_is_said_by_every_command_that_reads_the_weights() {
    let dir = inputs();
    let at = dir.path();
    samples(&at.join("t.jsonl"), 4, 1);
    let train = "train --model m --train-file t.jsonl --lora-r 2 --max-steps 1 --max-seq-length 24 --output-dir a";
    done(at, &train.split(' ').collect::<Vec<_>>());
    // The embedding's twin, and a value head.
    let path = at.join("m/model.safetensors");
    let bytes = fs::read(&path).expect("read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut all: Vec<(String, safetensors::tensor::TensorView)> =
        file.tensors().into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    let embedding = file.tensor("model.embed_tokens.weight").expect("there");
    let mut head = embedding.data().to_vec();
    fn view<'d>(shape: &[usize], data: &'d [u8]) -> safetensors::tensor::TensorView<'d> {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), data).expect("a tensor")
    }
    all.push(("v_head.summary.weight".into(), view(&[1], &embedding.data()[..4])));
    let with_head = |head: &[u8]| {
        let head = ("lm_head.weight".to_owned(), view(embedding.shape(), head));
        safetensors::serialize(all.iter().cloned().chain([head]), None).expect("bytes")
    };
    fs::write(&path, with_head(&head)).expect("written");
    let config = at.join("m/config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&config).expect("read")).expect("JSON");
    json["logit_scale"] = json!(0.5);
    fs::write(&config, json.to_string()).expect("written");
    let lines = [
        "score --model m --input text.jsonl",
        "generate --model m --prompt x --max-new-tokens 1",
        "train --model m --train-file t.jsonl --lora-r 2 --max-steps 1 --max-seq-length 24 --output-dir b",
        "plan --model m --max-seq-length 24",
        "plan --model m --max-seq-length 24 --json",
        "quantize --model m --output q",
        "merge --model m --adapter a --output merged",
    ];
    for line in lines {
        let ended = done(at, &line.split(' ').collect::<Vec<_>>());
        for says in ["field `logit_scale`", "`v_head.summary.weight`"] {
            assert_eq!(ended.stderr.matches(says).count(), 1, "{line} of {says}: {}", ended.stderr);
        }
    }
    // Another head than the embedding: which of the two is meant, versions of transformers do not agree on.
    *head.last_mut().expect("a value") ^= 1;
    fs::write(&path, with_head(&head)).expect("written");
    for line in lines {
        let ended = irori(
            at,
            &line.replace(" b", " c").replace(" q", " r").replace("merged", "other").split(' ').collect::<Vec<_>>(),
        );
        let says = "tensor `lm_head.weight`: is not model.embed_tokens.weight";
        assert!(ended.code == Some(1) && ended.stderr.contains(says), "{line}: {ended:?}");
    }
}

/// In each tensor, and in the scales of quantised ones: the tensor is named, the exit code is 1, and there is no result.
#[test]
fn no_answer_is_made_of_weights_that_are_no_numbers() {
    let dir = inputs();
    let at = dir.path();
    let question = |i: usize| {
        json!({"ファイル名": format!("法_{i}"), "コンテキスト": "条文", "問題文": format!("問{i}はどれか。"),
               "選択肢": "a 一\nb 二\nc 三\nd 四", "output": (["a", "b", "c", "d"][i % 4])})
    };
    let all: Vec<Value> = (0..4).map(question).collect();
    fs::write(at.join("q.json"), json!({"samples": all}).to_string()).expect("written");
    done(at, &["quantize", "--model", "m", "--output", "q"]);
    for (model, tensor, value) in [
        ("m", "model.embed_tokens.weight", f32::NAN),
        ("m", "model.layers.1.self_attn.v_proj.weight", f32::INFINITY),
        ("m", "model.layers.0.self_attn.k_norm.weight", f32::NEG_INFINITY),
        ("q", "model.layers.0.mlp.gate_proj.weight.nested_absmax", f32::NAN),
        ("q", "model.norm.weight", f32::INFINITY),
    ] {
        let path = at.join(model).join("model.safetensors");
        let whole = fs::read(&path).expect("read");
        let file = safetensors::SafeTensors::deserialize(&whole).expect("safetensors");
        let data = file.tensor(tensor).expect("there").data();
        let place = data.as_ptr() as usize - whole.as_ptr() as usize + data.len() - 4;
        let mut spoilt = whole.clone();
        spoilt[place..place + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, spoilt).expect("written");
        for line in [
            "eval --data q.json --method loglik --output out.json",
            "eval --data q.json --method generate --output out.json",
            "score --input text.jsonl --output out.json",
            "generate --prompt x --max-new-tokens 1 --json",
        ] {
            let ended = irori(at, &[&line.split(' ').collect::<Vec<_>>()[..], &["--model", model]].concat());
            let says = format!("model.safetensors: tensor `{tensor}`: element ");
            assert!(ended.code == Some(1) && ended.stderr.contains(&says), "{line} {tensor}: {ended:?}");
            assert!(ended.stderr.contains(&format!(" is {value}, not a finite number")), "{}", ended.stderr);
            assert!(ended.stdout.is_empty() && !at.join("out.json").exists(), "{line} {tensor}");
        }
        fs::write(&path, whole).expect("written");
    }
}

/// A head that is stored quantised is the one that is computed with.
#[test]
fn a_quantised_head_is_the_head() {
    let dir = inputs();
    let at = dir.path();
    let untied = |c: &mut Value| c["tie_word_embeddings"] = false.into();
    let opened = source::open(at.join("m").to_str().expect("a path")).expect("opens").source;
    let c = irori::model::ModelConfig { tied: false, ..opened.config().clone() };
    let head = |sink: &mut dyn WeightSink, packed: bool| {
        for t in tensors(&c) {
            let from = if t.role == Role::Head { "model.embed_tokens.weight" } else { &t.name };
            let mut values = f32s(&opened.tensor(from, &t.shape).expect("read"));
            let in_4_bits = matches!(t.role, Role::Head | Role::Linear(..));
            if in_4_bits && packed {
                sink.nf4(&t, &quantised(&values), DType::F32).expect("written");
                continue;
            }
            if in_4_bits {
                values = quantised(&values).to_bf16_values();
            }
            sink.tensor(&t, &Tensor::new(DType::F32, &t.shape[..], DType::F32.encode(&values))).expect("written");
        }
    };
    for (name, packed) in [("packed", true), ("hand", false)] {
        let options = HfOptions { double_quant: false, ..HfOptions::new(500) };
        let mut sink: Box<dyn WeightSink> =
            Box::new(HfSink::create(&RealDisk, &at.join(name), options).expect("begins"));
        let mut config: Value =
            serde_json::from_slice(&fs::read(at.join("m/config.json")).expect("read")).expect("JSON");
        untied(&mut config);
        if packed {
            config["quantization_config"] = quantization(&["no_module"]);
        }
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            sink.file(file, &fs::read(at.join("m").join(file)).expect("read")).expect("written");
        }
        sink.file("config.json", config.to_string().as_bytes()).expect("written");
        head(sink.as_mut(), packed);
        sink.commit().expect("committed");
    }
    let packed = source::open(at.join("packed").to_str().expect("a path")).expect("opens").source;
    assert!(matches!(packed.linear("lm_head", c.vocab, c.hidden), Ok(LinearData::Nf4(_))));
    assert_eq!(scored(at, "--model packed").0, scored(at, "--model hand --no-4bit").0);
    let refused = irori(at, &["score", "--input", "text.jsonl", "--model", "packed", "--no-4bit"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("quantised to 4 bits already"), "{refused:?}");
}
