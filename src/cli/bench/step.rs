//! Training steps: one micro-batch of synthetic documents, forward, backward and update.

use super::{Args, Figure, Found, job, time};
use crate::{
    Result,
    backend::AdamW,
    cli::common,
    data::{MicroBatch, Sample, batch::NO_LOSS},
    model::{Engine, LoraConfig, Module, engine::HeadStore, peft, source::Opened},
    plan::cost::{Work, step_flops},
    rng::{Dropout, Rng},
};

/// Tokens of a document that carry loss: a letter and the end of the turn.
const TARGETS: usize = 2;

/// Documents of `length` random tokens, the last one shorter, that fill `rows` rows.
pub(super) fn documents(rows: usize, length: usize, vocab: usize) -> MicroBatch {
    let mut rng = Rng::new(1, 0xBE);
    let mut batch = MicroBatch::new();
    for (number, start) in (0..rows).step_by(length).enumerate() {
        let len = length.min(rows - start);
        let tokens: Vec<u32> = (0..len).map(|_| rng.below(vocab as u32)).collect();
        let label = |t: usize| if t + TARGETS >= len { tokens[t] as i32 } else { NO_LOSS };
        batch.push(number as u32, &Sample { labels: (0..len).map(label).collect(), tokens });
    }
    batch
}

/// Tokens per second of whole steps, and seconds of a step by operation.
pub(super) fn measure(args: &Args, opened: &Opened) -> Result<Found> {
    let model = opened.source.config().clone();
    let lora = LoraConfig {
        r: args.lora_r as usize,
        alpha: 2.0 * args.lora_r as f32,
        dropout: args.lora_dropout,
        rslora: false,
        targets: Module::ALL.to_vec(),
    };
    let adapter = peft::initial(&lora, &model, 1);
    let job = common::Job { lora: Some(lora), training: true, ..job(args, opened) };
    let device = args.device.open()?;
    let peak = device.backend.sizes().own_memory().then_some(device.speed.flops * 1e-12);
    let plan = common::plan(opened, &job, &device)?;
    let mut engine = common::load(opened, plan, device)?;
    engine.set_adapter(&adapter)?;
    let batch = documents(job.rows, job.max_len, model.vocab);
    let scale = 1.0 / batch.target_ids.len().max(1) as f32;
    let mut step = 0;
    let mut run = |engine: &mut Engine| {
        step += 1;
        engine.begin_step()?;
        engine.accumulate(&batch, scale, Dropout::key(1, step))?;
        let adamw =
            AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step, max_norm: Some(1.0) };
        engine.finish_step(&adamw).map(drop)
    };
    let seconds = time(args.repeats, || run(&mut engine))?;
    // One more step for the times of its operations: measuring them costs something on a GPU.
    engine.measure_times(true);
    engine.take_times()?;
    run(&mut engine)?;
    let operations = engine.take_times()?.into_iter().map(|t| (t.operation, t.seconds)).collect();
    let (rows, targets) = (batch.rows() as f64, batch.target_ids.len() as f64);
    let work = Work { rows, len: rows / batch.docs() as f64, targets };
    let teraflop = 1e-12 * step_flops(engine.spec(), engine.sizes(), &work)?;
    let figures = vec![
        Figure::new("step", "tokens/s", rows, &seconds),
        Figure::new("its products and attention", "TFLOP/s", teraflop, &seconds).of(peak),
    ];
    let workload = format!(
        "a training step of {} rows in {} documents, {} targets, {}, adapter of rank {} on all linears{}",
        batch.rows(),
        batch.docs(),
        batch.target_ids.len(),
        match (job.four_bit, job.head) {
            (true, HeadStore::Nf4) => "NF4, the head too",
            (true, HeadStore::Dense) => "NF4",
            (false, _) => "unquantised",
        },
        args.lora_r,
        if args.lora_dropout > 0.0 { format!(", dropout {}", args.lora_dropout) } else { String::new() }
    );
    Ok(Found { workload, device: engine.describe(), figures, operations })
}
