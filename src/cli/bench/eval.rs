//! Evaluation: log-likelihoods of documents scored together in one packed pass, and greedy generation with a cache.

use super::{Figure, Found, Job, step::documents, time};
use crate::{
    Result,
    model::{engine::EngineSpec, source::Opened},
};

/// Sequences generated at once.
const SEQUENCES: usize = 8;
/// Tokens generated for each.
const NEW_TOKENS: usize = 32;

/// Tokens per second scored, and tokens per second generated after prompts of `--length` tokens.
pub(super) fn measure(job: &Job, opened: &Opened) -> Result<Found> {
    let scoring = EngineSpec { lora: Some(job.lora(0.0)), ..job.asked(opened) };
    let batch = documents(scoring.max_rows, scoring.max_len, scoring.model.vocab);
    let repeats = job.args.repeats;
    let mut figures = Vec::new();
    let mut engine = job.engine(opened, scoring.clone())?;
    let seconds = time(repeats, || engine.target_logprobs(&batch).map(drop))?;
    figures.push(Figure::new("log-likelihood", "tokens/s", batch.rows() as f64, &seconds));
    figures.push(Figure::new("log-likelihood", "texts/s", batch.docs() as f64, &seconds));
    let device = engine.describe();
    drop(engine);

    // Prompts so long that all of them enter together.
    let length = scoring.max_len.min(scoring.max_rows / SEQUENCES).max(1);
    let generating =
        EngineSpec { kv_slots: SEQUENCES, kv_capacity: length + NEW_TOKENS, max_len: length, ..scoring.clone() };
    let prompts: Vec<Vec<u32>> = batch.tokens.chunks_exact(length).take(SEQUENCES).map(<[u32]>::to_vec).collect();
    let mut engine = job.engine(opened, generating)?;
    let new = prompts.len() * NEW_TOKENS;
    let seconds = time(repeats, || engine.generate(&prompts, NEW_TOKENS, &[], &mut |_, _, _| {}).map(drop))?;
    figures.push(Figure::new(format!("{} sequences", prompts.len()), "tokens/s", new as f64, &seconds));
    let workload = format!(
        "{} rows in {} documents scored; {NEW_TOKENS} tokens after each of {} prompts of {length}; {}, adapter of rank {}",
        batch.rows(),
        batch.docs(),
        prompts.len(),
        if job.base.use_4bit { "NF4" } else { "unquantised" },
        job.args.lora_r
    );
    Ok(Found { workload, device, figures, operations: Vec::new() })
}
