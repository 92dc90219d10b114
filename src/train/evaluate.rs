//! Evaluation during training: mean loss on held-out samples, which evaluation is the best, and when to give up.

use super::{
    config::{BestBy, TrainConfig},
    learner::Learner,
    state::{Best, RunState},
    steps::micro_batches,
};
use crate::{
    Error, Result,
    data::{MicroBatch, Sample},
};

/// How questions were answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Rightly.
    pub right: u64,
    /// With no answer that is certain. They are not right.
    pub unknown: u64,
    /// Questions in all.
    pub asked: u64,
}

impl Answered {
    /// Part of the questions answered rightly.
    pub fn accuracy(self) -> f64 {
        self.right as f64 / self.asked.max(1) as f64
    }
}

/// Asks the learner as it is now. The multiple-choice evaluator lives in a room above this one and is handed down as a
/// function.
pub type AccuracyHook<'a, L> = Box<dyn FnMut(&mut L) -> Result<Answered> + 'a>;

/// Evaluation samples, packed once.
#[derive(Debug)]
pub struct EvalSet {
    batches: Vec<MicroBatch>,
    /// Targets of all.
    pub targets: u64,
}

impl EvalSet {
    /// Packs `samples` under the token budget of training.
    ///
    /// # Errors
    /// If none has a target.
    pub fn new(config: &TrainConfig, samples: &[Sample]) -> Result<Self> {
        let numbers: Vec<usize> = (0..samples.len()).collect();
        let batches = micro_batches(samples, &numbers, config.token_budget())?;
        let targets = batches.iter().map(|b| b.target_ids.len() as u64).sum();
        if targets == 0 {
            let file = config.eval_file.as_deref().unwrap_or(std::path::Path::new(""));
            return Err(Error::content(file, "", "no sample to evaluate on has a token that carries loss"));
        }
        Ok(Self { batches, targets })
    }

    /// Mean −ln p over the targets.
    ///
    /// # Errors
    /// If the device fails or the loss is not finite.
    pub fn loss<L: Learner>(&self, learner: &mut L) -> Result<f64> {
        let mut sum = 0.0;
        for batch in &self.batches {
            sum += learner.loss(batch)?;
        }
        let loss = sum / self.targets as f64;
        if loss.is_finite() { Ok(loss) } else { Err(Error::failed(format!("the evaluation loss is {loss}"))) }
    }
}

/// Notes an evaluation in `state`; true if it is a new best.
pub fn judge(state: &mut RunState, by: BestBy, value: f64) -> bool {
    let old = state.best.filter(|b| b.by == by); // a best by another metric says nothing
    let best = old.is_none_or(|b| by.better(value, b.value));
    if best {
        state.best = Some(Best { step: state.step, value, by });
        state.stale_evals = 0;
    } else {
        state.stale_evals += 1;
    }
    best
}

/// Whether patience is at its end.
pub fn exhausted(state: &RunState, config: &TrainConfig) -> bool {
    config.early_stopping_patience.is_some_and(|patience| state.stale_evals >= patience)
}
