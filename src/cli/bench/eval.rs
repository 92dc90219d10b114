//! Evaluation: log-likelihoods of documents scored together in one packed pass, and greedy generation with a cache.

use super::{Args, Figure, Found, job, step::documents, time};
use crate::{
    Result,
    cli::common,
    model::{LoraConfig, Module, source::Opened},
};

/// Sequences generated at once.
const SEQUENCES: usize = 8;
/// Tokens generated for each.
const NEW_TOKENS: usize = 32;

/// Tokens per second scored, and tokens per second generated after prompts of `--length` tokens.
pub(super) fn measure(args: &Args, opened: &Opened) -> Result<Found> {
    let model = opened.source.config().clone();
    let lora = LoraConfig {
        r: args.lora_r as usize,
        alpha: 2.0 * args.lora_r as f32,
        dropout: 0.0,
        rslora: false,
        targets: Module::ALL.to_vec(),
    };
    let scoring = common::Job { lora: Some(lora), ..job(args, opened) };
    let batch = documents(scoring.rows, scoring.max_len, model.vocab);
    let mut figures = Vec::new();
    let mut engine = common::engine(opened, &scoring, &args.device)?;
    let seconds = time(args.repeats, || engine.target_logprobs(&batch).map(drop))?;
    figures.push(Figure::new("log-likelihood", "tokens/s", batch.rows() as f64, &seconds));
    figures.push(Figure::new("log-likelihood", "texts/s", batch.docs() as f64, &seconds));
    let device = engine.describe();
    drop(engine);

    // Prompts so long that all of them enter together.
    let length = scoring.max_len.min(scoring.rows / SEQUENCES).max(1);
    let generating =
        common::Job { kv_slots: SEQUENCES, kv_capacity: length + NEW_TOKENS, max_len: length, ..scoring.clone() };
    let prompts: Vec<Vec<u32>> = batch.tokens.chunks_exact(length).take(SEQUENCES).map(<[u32]>::to_vec).collect();
    let mut engine = common::engine(opened, &generating, &args.device)?;
    let new = prompts.len() * NEW_TOKENS;
    let seconds = time(args.repeats, || engine.generate(&prompts, NEW_TOKENS, &[], &mut |_, _, _| {}).map(drop))?;
    figures.push(Figure::new(format!("{} sequences", prompts.len()), "tokens/s", new as f64, &seconds));
    let workload = format!(
        "{} rows in {} documents scored; {NEW_TOKENS} tokens after each of {} prompts of {length}; {}, adapter of rank {}",
        batch.rows(),
        batch.docs(),
        prompts.len(),
        if scoring.four_bit { "NF4" } else { "unquantised" },
        args.lora_r
    );
    Ok(Found { workload, device, figures, operations: Vec::new() })
}
