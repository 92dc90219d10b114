//! Training steps: one micro-batch of synthetic documents, forward, backward and update.

use super::{Figure, Found, Job, time};
use crate::{
    Result,
    backend::AdamW,
    cli::common::Terminal,
    data::{MicroBatch, Sample, batch::NO_LOSS},
    model::{Engine, engine::EngineSpec, peft, source::Opened},
    plan::cost::{Work, step_flops},
    rng::{Dropout, Rng},
    run::{device, engine},
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
pub(super) fn measure(job: &Job, opened: &Opened) -> Result<Found> {
    let (args, base) = (&job.args, &job.base);
    let model = opened.source.config().clone();
    let lora = job.lora(args.lora_dropout);
    let adapter = peft::initial(&lora, &model, 1);
    let asked = EngineSpec { lora: Some(lora), training: true, ..job.asked(opened) };
    let device = device::open(&job.machine, &mut Terminal::default())?;
    let peak = device.backend.properties().own_memory().then_some(device.speed.flops * 1e-12);
    let (rows, length) = (asked.max_rows, asked.max_len);
    let plan = engine::plan(opened, asked, &device)?;
    let mut engine = engine::load(opened, plan, device, &mut Terminal::default())?;
    engine.set_adapter(&adapter)?;
    let batch = documents(rows, length, model.vocab);
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
    let teraflop = 1e-12 * step_flops(engine.spec(), engine.properties(), &work)?;
    let figures = vec![
        Figure::new("step", "tokens/s", rows, &seconds),
        Figure::new("its products and attention", "TFLOP/s", teraflop, &seconds).of(peak),
    ];
    let workload = format!(
        "a training step of {} rows in {} documents, {} targets, {}, adapter of rank {} on all linears{}",
        batch.rows(),
        batch.docs(),
        batch.target_ids.len(),
        match (base.use_4bit, base.head_4bit) {
            (true, true) => "NF4, the head too",
            (true, false) => "NF4",
            (false, _) => "unquantised",
        },
        args.lora_r,
        if args.lora_dropout > 0.0 { format!(", dropout {}", args.lora_dropout) } else { String::new() }
    );
    Ok(Found { workload, device: engine.describe(), figures, operations })
}
