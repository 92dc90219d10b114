//! Whole models: log-probabilities, losses, gradients, training steps and greedy text against transformers and peft.
//!
//! The references come out of f32 arithmetic on the same weights, in another order of summation: differences of 1e-5 are
//! rounding. 1e-4 leaves room for other machines' orders and is far below what a wrong epsilon, pairing, scale or
//! rounding of weights makes; in NF4 too, because both sides hold the same dequantised values.

use super::{Tensors, assert_close, assert_same, f32s, ids, json, numbers, path};
use irori::{
    backend::{AdamW, Backend, DType, cpu::CpuBackend},
    data::{MicroBatch, Sample, batch::NO_LOSS},
    model::{
        Engine, LoraConfig, Module,
        engine::{EngineSpec, Residency, Saved},
        peft,
        source::{HfDirectory, WeightSource},
    },
    train::schedule::{Schedule, Shape},
};
use serde_json::Value;

/// Largest difference allowed: of log-probabilities and losses in nats, of gradients relative to their tensor's largest.
const TOLERANCE: f32 = 1e-4;
const MODELS: [&str; 2] = ["untied", "tied"];

fn open(model: &str) -> Box<dyn WeightSource> {
    Box::new(HfDirectory::open(&path(&format!("models/{model}"))).expect(model))
}

fn backend() -> Box<dyn Backend> {
    Box::new(CpuBackend::new(Some(2)).expect("threads"))
}

/// PEFT's adapter of `model`: its configuration and weights in the engine's order.
fn adapter(model: &str, source: &dyn WeightSource) -> (LoraConfig, Vec<f32>) {
    let adapter = peft::load(&path(&format!("adapters/{model}")), source.config()).expect("adapter");
    (adapter.lora, adapter.flat)
}

/// How the engine under test holds its weights.
#[derive(Clone, Copy)]
struct Plan {
    residency: Residency,
    compute: DType,
    saved: Saved,
}

const PLAIN: Plan = Plan { residency: Residency::Dense, compute: DType::F32, saved: Saved::All };

fn engine(source: &dyn WeightSource, lora: Option<LoraConfig>, training: bool, plan: Plan) -> Engine {
    let model = source.config().clone();
    let spec = EngineSpec {
        saved: vec![plan.saved; model.layers],
        residency: vec![plan.residency; model.layers],
        lora,
        training,
        logit_rows: 16,
        compute: plan.compute,
        dense: DType::F32,
        kv_slots: 3,
        kv_capacity: 64,
        // As many rows as the vocabulary has: all columns are asked for at once.
        ..EngineSpec::new(model, 320, 64)
    };
    Engine::new(backend(), spec, source, &mut |_, _| ()).expect("engine")
}

fn with_adapter(source: &dyn WeightSource, lora: LoraConfig, weights: &[f32], training: bool, plan: Plan) -> Engine {
    let mut engine = engine(source, Some(lora), training, plan);
    engine.set_adapter(weights).expect("adapter fits");
    engine
}

fn samples(part: &str) -> Vec<Sample> {
    let file = json("samples.json");
    let each = |s: &Value| Sample {
        tokens: ids(&s["input_ids"]),
        labels: numbers(&s["labels"], |l| l.as_i64().map(|x| x as i32)),
    };
    file[part].as_array().expect(part).iter().map(each).collect()
}

/// All samples in one micro-batch.
fn packed<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> MicroBatch {
    let mut batch = MicroBatch::new();
    for (i, sample) in samples.into_iter().enumerate() {
        batch.push(i as u32, sample);
    }
    batch
}

/// Log-probability of every next token of every document.
fn logprobs(engine: &mut Engine, documents: &[Sample]) -> Vec<f32> {
    let whole: Vec<Sample> = documents
        .iter()
        .map(|s| Sample { tokens: s.tokens.clone(), labels: s.tokens.iter().map(|&t| t as i32).collect() })
        .collect();
    engine.target_logprobs(&packed(&whole)).expect("log-probabilities")
}

/// Mean loss over the documents' targets.
fn loss(engine: &mut Engine, documents: &[Sample]) -> f32 {
    let found = engine.target_logprobs(&packed(documents)).expect("log-probabilities");
    let count = documents.iter().map(Sample::targets).sum::<usize>();
    assert_eq!(found.len(), count);
    -(found.iter().map(|&p| f64::from(p)).sum::<f64>() / count as f64) as f32
}

fn expected_logprobs(entry: &Value) -> Vec<f32> {
    entry["logprobs"].as_array().expect("logprobs").iter().flat_map(f32s).collect()
}

#[track_caller]
fn check(what: &str, engine: &mut Engine, entry: &Value, tolerance: f32) {
    let documents = samples("documents");
    assert_close(
        &format!("{what} log-probabilities"),
        &logprobs(engine, &documents),
        &expected_logprobs(entry),
        tolerance,
    );
    assert_close(&format!("{what} loss"), &[loss(engine, &documents)], &[number(&entry["loss"])], tolerance);
}

fn number(value: &Value) -> f32 {
    value.as_f64().expect("a number") as f32
}

/// Log-softmax by rows, in f64.
fn log_softmax(logits: &[f32], vocab: usize) -> Vec<f32> {
    let rows = logits.chunks_exact(vocab).flat_map(|row| {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&x| f64::from(x - top).exp()).sum();
        row.iter().map(move |&x| (f64::from(x - top) - sum.ln()) as f32)
    });
    rows.collect()
}

/// Every column of every row.
fn distribution(engine: &mut Engine) -> Vec<f32> {
    let batch = packed(&samples("documents"));
    let rows: Vec<u32> = (0..batch.rows() as u32).collect();
    let columns: Vec<u32> = (0..engine.spec().model.vocab as u32).collect();
    engine.choice_logprobs(&batch, &rows, &columns).expect("log-probabilities")
}

#[test]
fn base_model_is_that_of_transformers() {
    for name in MODELS {
        let (source, expected) = (open(name), json(&format!("{name}.json")));
        let mut engine = engine(source.as_ref(), None, false, PLAIN);
        check(name, &mut engine, &expected["base"], TOLERANCE);
        let logits = Tensors::open(&format!("{name}.safetensors")).f32("base.logits");
        let vocab = source.config().vocab;
        assert_close(
            &format!("{name} distribution"),
            &distribution(&mut engine),
            &log_softmax(&logits, vocab),
            TOLERANCE,
        );
    }
}

#[test]
fn adapter_is_that_of_peft() {
    for name in MODELS {
        let (source, expected) = (open(name), json(&format!("{name}.json")));
        let (lora, weights) = adapter(name, source.as_ref());
        assert_eq!((lora.r, lora.alpha, lora.rslora, lora.dropout), (8, 16.0, false, 0.0));
        assert_eq!(lora.targets, Module::ALL.into());
        let mut engine = with_adapter(source.as_ref(), lora.clone(), &weights, false, PLAIN);
        check(&format!("{name} adapter"), &mut engine, &expected["adapter"], TOLERANCE);
        if name == "untied" {
            let logits = Tensors::open("untied.safetensors").f32("adapter.logits");
            let reference = log_softmax(&logits, source.config().vocab);
            assert_close("untied adapter distribution", &distribution(&mut engine), &reference, TOLERANCE);
        }
        let lora = LoraConfig { rslora: true, ..lora };
        let mut engine = with_adapter(source.as_ref(), lora, &weights, false, PLAIN);
        check(&format!("{name} rsLoRA"), &mut engine, &expected["rslora"], TOLERANCE);
    }
}

#[test]
fn adapter_files_are_written_as_peft_writes_them() {
    for name in MODELS {
        let source = open(name);
        let (lora, weights) = adapter(name, source.as_ref());
        let ours = Tensors(peft::weights_file(&lora, source.config(), &weights).expect("file"));
        let theirs = Tensors::open(&format!("adapters/{name}/adapter_model.safetensors"));
        let sorted = |file: &Tensors| {
            let mut names = file.names();
            names.sort();
            names
        };
        assert_eq!(sorted(&ours), sorted(&theirs));
        for tensor in theirs.names() {
            assert_eq!(ours.shape(&tensor), theirs.shape(&tensor), "{tensor}");
            assert_same(&tensor, &ours.bytes(&tensor), &theirs.bytes(&tensor));
        }
        // PEFT's record, with rsLoRA switched on, reads as such; ours reads as what it was made of.
        let dir = tempfile::tempdir().expect("directory");
        std::fs::write(dir.path().join(peft::WEIGHTS), &ours.0).expect("written");
        for rslora in [false, true] {
            let mut record = json(&format!("adapters/{name}/adapter_config.json"));
            record["use_rslora"] = rslora.into();
            std::fs::write(dir.path().join(peft::CONFIG), record.to_string()).expect("written");
            let expected = LoraConfig { rslora, ..lora.clone() };
            assert_eq!(peft::read_config(dir.path(), source.config().layers).expect("record"), expected);
            std::fs::write(dir.path().join(peft::CONFIG), peft::config_file(&expected, name)).expect("written");
            assert_eq!(peft::read_config(dir.path(), source.config().layers).expect("record"), expected);
        }
    }
}

#[test]
fn every_adapter_gradient_is_that_of_autograd() {
    for name in MODELS {
        let source = open(name);
        let (lora, weights) = adapter(name, source.as_ref());
        let golden = Tensors::open(&format!("{name}.safetensors"));
        let documents = samples("documents");
        let count = documents.iter().map(Sample::targets).sum::<usize>();
        for saved in [Saved::All, Saved::NoGateUp, Saved::InputOnly] {
            let plan = Plan { saved, ..PLAIN };
            let mut engine = with_adapter(source.as_ref(), lora.clone(), &weights, true, plan);
            engine.begin_step().expect("begin");
            engine.accumulate(&packed(&documents), 1.0 / count as f32, 0).expect("accumulate");
            let found = engine.gradients().expect("gradients");
            for slot in lora.slots(source.config()) {
                for (part, range) in [("lora_A", slot.a_range()), ("lora_B", slot.b_range())] {
                    let key = format!("grad.{}.{part}.weight", slot.peft_path());
                    let reference = golden.f32(&key);
                    let largest = reference.iter().fold(0.0f32, |m, g| m.max(g.abs()));
                    assert!(largest > 0.0, "{key}");
                    assert_close(&format!("{name} {saved:?} {key}"), &found[range], &reference, TOLERANCE * largest);
                }
            }
        }
    }
}

#[test]
fn ten_steps_are_those_of_torch() {
    for name in MODELS {
        let source = open(name);
        let (lora, mut weights) = adapter(name, source.as_ref());
        let expected = &json(&format!("{name}.json"))["train"];
        let plan = &expected["plan"];
        let whole = |key: &str| plan[key].as_u64().expect(key);
        let schedule = Schedule {
            shape: serde_json::from_value(plan["lr_scheduler"].clone()).expect("a schedule"),
            peak: plan["learning_rate"].as_f64().expect("a rate"),
            warmup: whole("warmup_steps"),
            total: whole("steps"),
        };
        assert_eq!(schedule.shape, if name == "untied" { Shape::Linear } else { Shape::Cosine });
        let slots = lora.slots(source.config());
        if plan["b_starts_at_zero"] == true {
            slots.iter().for_each(|slot| weights[slot.b_range()].fill(0.0));
        }
        let mut engine = with_adapter(source.as_ref(), lora, &weights, true, PLAIN);
        let data = samples("training");
        let mut next = data.iter().cycle();
        for log in expected["log"].as_array().expect("log") {
            let batch: Vec<&Sample> = next.by_ref().take(whole("batch") as usize).collect();
            let count = batch.iter().map(|s| s.targets()).sum::<usize>();
            assert_eq!(count as u64, log["targets"]);
            engine.begin_step().expect("begin");
            // Two micro-batches: the first sample alone, then the others.
            for part in [&batch[..1], &batch[1..]] {
                engine.accumulate(&packed(part.iter().copied()), 1.0 / count as f32, 0).expect("accumulate");
            }
            let step = log["step"].as_u64().expect("step");
            let rate = schedule.rate(step);
            assert!(
                (rate - log["learning_rate"].as_f64().expect("a rate")).abs() < 1e-15,
                "{name} step {step}: {rate}"
            );
            let adamw = AdamW {
                lr: rate,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: plan["weight_decay"].as_f64().expect("a number"),
                step,
                max_norm: Some(number(&plan["max_grad_norm"])),
            };
            let stats = engine.finish_step(&adamw).expect("step");
            let what = format!("{name} step {step}");
            assert_close(
                &format!("{what} loss"),
                &[(stats.loss_sum / count as f64) as f32],
                &[number(&log["loss"])],
                TOLERANCE,
            );
            let norm = number(&log["grad_norm"]);
            assert_close(&format!("{what} gradient norm"), &[stats.grad_norm as f32], &[norm], TOLERANCE * norm);
        }
        let found = engine.adapter().expect("adapter");
        let golden = Tensors::open(&format!("{name}.safetensors"));
        for slot in slots {
            for (part, range) in [("lora_A", slot.a_range()), ("lora_B", slot.b_range())] {
                let key = format!("trained.{}.{part}.weight", slot.peft_path());
                assert_close(&format!("{name} {key}"), &found[range], &golden.f32(&key), TOLERANCE);
            }
        }
    }
}

/// Quantised by irori while loading, and as transformers saved it in 4 bit.
#[test]
fn nf4_models_are_those_of_bitsandbytes() {
    for name in MODELS {
        let expected = &json(&format!("{name}.json"))["nf4"];
        // tied-nf4 was saved without double quantisation, untied-nf4 with.
        let saved = if name == "tied" { "" } else { "-double" };
        for (checkpoint, double) in [(name.to_owned(), ""), (format!("{name}-nf4"), saved)] {
            let source = open(&checkpoint);
            let (lora, weights) = adapter(name, source.as_ref());
            for (compute, label) in [(DType::F32, "f32"), (DType::Bf16, "bf16")] {
                for residency in [Residency::Nf4, Residency::Unpacked] {
                    let plan = Plan { residency, compute, ..PLAIN };
                    let entry = &expected[format!("{label}{double}")];
                    let what = format!("{checkpoint} {label} {residency:?}");
                    let mut base = engine(source.as_ref(), None, false, plan);
                    check(&what, &mut base, &entry["base"], TOLERANCE);
                    let mut tuned = with_adapter(source.as_ref(), lora.clone(), &weights, false, plan);
                    check(&format!("{what} adapter"), &mut tuned, &entry["adapter"], TOLERANCE);
                }
            }
        }
    }
}

#[test]
fn greedy_text_is_that_of_the_reference() {
    for name in MODELS {
        let (source, expected) = (open(name), json(&format!("{name}.json")));
        let (lora, weights) = adapter(name, source.as_ref());
        let prompts: Vec<Vec<u32>> = samples("documents").into_iter().map(|s| s.tokens).collect();
        let mut base = engine(source.as_ref(), None, false, PLAIN);
        let mut tuned = with_adapter(source.as_ref(), lora, &weights, false, PLAIN);
        for (part, engine) in [("base", &mut base), ("adapter", &mut tuned)] {
            let reference = expected[part]["greedy"].as_array().expect("greedy");
            let found = engine.generate(&prompts, 12, &[], &mut |_, _, _| ()).expect("text");
            for (i, (found, reference)) in found.iter().zip(reference).enumerate() {
                // The nearest rival of a chosen token is this far below it.
                assert!(number(&reference["margin"]) > 10.0 * TOLERANCE);
                assert_eq!(*found, ids(&reference["tokens"]), "{name} {part}: document {i}");
            }
        }
    }
}

#[test]
fn masked_labels_are_no_targets() {
    for sample in samples("documents").iter().chain(&samples("training")) {
        let batch = packed([sample]);
        assert_eq!(batch.target_ids.len(), sample.targets());
        assert!(sample.labels.iter().all(|&l| l == NO_LOSS || l >= 0));
    }
}
