//! One training step of a small synthetic Qwen3 on the CPU, forward, backward and update, in tokens a second:
//! `cargo bench --bench step`.

// `criterion_group!` makes a public function without a doc line.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use irori::{
    backend::{AdamW, Heads, cpu::CpuBackend},
    data::{MicroBatch, Sample, batch::NO_LOSS},
    model::{
        Engine, LoraConfig, ModelConfig, Module,
        engine::{EngineSpec, Residency, Saved},
        peft,
        source::Synthetic,
    },
    rng::{Dropout, Rng},
};

/// Two layers as wide as those of benches/peers/model.json, and a vocabulary that does not hide them.
fn model() -> ModelConfig {
    ModelConfig {
        hidden: 512,
        intermediate: 1536,
        layers: 2,
        heads: Heads { q: 8, kv: 4, dim: 64 },
        vocab: 8192,
        rope_theta: 1e6,
        rope_scaling: irori::model::rope::RopeScaling::Default,
        rms_eps: 1e-6,
        tied: true,
        max_positions: 4096,
    }
}

/// Documents of the lengths of short law questions; the last four tokens of each carry loss.
fn batch(vocab: usize) -> MicroBatch {
    let mut rng = Rng::new(3, 3);
    let mut batch = MicroBatch::new();
    for (number, len) in [276usize, 332, 265, 151].into_iter().enumerate() {
        let tokens: Vec<u32> = (0..len).map(|_| rng.below(vocab as u32)).collect();
        let labels = (0..len).map(|t| if t + 4 >= len { tokens[t] as i32 } else { NO_LOSS }).collect();
        batch.push(number as u32, &Sample { tokens, labels });
    }
    batch
}

fn step(c: &mut Criterion) {
    let model = model();
    let batch = batch(model.vocab);
    let mut group = c.benchmark_group("training step, width 512, 2 layers");
    group.sample_size(10).throughput(Throughput::Elements(batch.rows() as u64));
    for (name, residency, dropout, saved) in [
        ("unquantised", Residency::Dense, 0.0, Saved::All),
        ("NF4", Residency::Nf4, 0.0, Saved::All),
        ("NF4, dropout 0.05", Residency::Nf4, 0.05, Saved::All),
        ("NF4, recomputed", Residency::Nf4, 0.0, Saved::InputOnly),
    ] {
        let lora = LoraConfig { r: 16, alpha: 32.0, dropout, rslora: false, targets: Module::ALL.into() };
        let adapter = peft::initial(&lora, &model, 1);
        let spec = EngineSpec {
            lora: Some(lora),
            training: true,
            saved: vec![saved; model.layers],
            residency: vec![residency; model.layers],
            ..EngineSpec::new(model.clone(), batch.rows(), batch.max_len())
        };
        let source = Synthetic::new("bench", model.clone(), 1);
        let backend = Box::new(CpuBackend::new(None).expect("threads start"));
        let mut engine = Engine::new(backend, spec, &source, &mut |_, _| {}).expect("an engine");
        engine.set_adapter(&adapter).expect("an adapter");
        let mut step = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                step += 1;
                let adamw = AdamW {
                    lr: 1e-4,
                    beta1: 0.9,
                    beta2: 0.999,
                    eps: 1e-8,
                    weight_decay: 0.0,
                    step,
                    max_norm: Some(1.0),
                };
                engine.begin_step().expect("begins");
                engine.accumulate(&batch, 1.0 / 16.0, Dropout::key(1, step)).expect("runs");
                engine.finish_step(&adamw).expect("ends")
            });
        });
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
