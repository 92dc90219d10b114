//! Which samples make up which step.
//!
//! An epoch is a permutation of the samples, a function of (seed, epoch); a step takes the next batch-size ×
//! accumulation of them, the last of an epoch what remains. So the step number alone is the position in the data, and a
//! resumed run goes on with the very samples that the undisturbed one would have seen.

use super::config::TrainConfig;
use crate::{
    Error, Result,
    data::{MicroBatch, Sample, order::DataOrder, packing},
};
use std::ops::Range;

/// The course of a run through its samples.
#[derive(Debug, Clone)]
pub struct StepPlan {
    samples: usize,
    per_step: usize,
    total: u64,
    seed: u64,
    order: DataOrder,
    /// The permutation used last: steps ask for the same epoch many times over.
    cached: Option<(u64, Vec<usize>)>,
}

impl StepPlan {
    /// The plan of `config` for a data set of `samples`.
    ///
    /// # Errors
    /// If there are none, or more than 2³² − 1.
    pub fn new(config: &TrainConfig, samples: usize) -> Result<Self> {
        if samples == 0 {
            return Err(Error::content(&config.train_file, "", "holds no sample to train on"));
        }
        if u32::try_from(samples).is_err() {
            return Err(Error::content(&config.train_file, "", "holds more samples than 2^32"));
        }
        let per_step = config.samples_per_step();
        let per_epoch = samples.div_ceil(per_step) as u64;
        let total = config
            .max_steps
            .map(i64::unsigned_abs)
            .unwrap_or_else(|| ((config.num_epochs * per_epoch as f64).ceil() as u64).max(1));
        Ok(Self { samples, per_step, total, seed: config.seed, order: config.data_order, cached: None })
    }

    /// Steps of the whole run.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Steps of one epoch.
    pub fn per_epoch(&self) -> u64 {
        self.samples.div_ceil(self.per_step) as u64
    }

    /// Epochs done after `step` steps, with the fraction that transformers logs.
    pub fn epoch(&self, step: u64) -> f64 {
        step as f64 / self.per_epoch() as f64
    }

    /// Whether `step` (from 1) is the last of its epoch.
    pub fn ends_epoch(&self, step: u64) -> bool {
        step.is_multiple_of(self.per_epoch())
    }

    /// Numbers of the samples of `step` (from 1).
    pub fn samples_of(&mut self, step: u64) -> &[usize] {
        let done = step.saturating_sub(1);
        let epoch = done / self.per_epoch();
        let range = self.range(done % self.per_epoch());
        let (samples, seed, order) = (self.samples, self.seed, self.order);
        if self.cached.as_ref().is_none_or(|(cached, _)| *cached != epoch) {
            self.cached = None;
        }
        let (_, permutation) = self.cached.get_or_insert_with(|| (epoch, order.epoch(seed, epoch, samples)));
        &permutation[range]
    }

    fn range(&self, in_epoch: u64) -> Range<usize> {
        let start = in_epoch as usize * self.per_step;
        start..(start + self.per_step).min(self.samples)
    }
}

/// The micro-batches of the samples `numbers`, none with more than `budget` rows.
///
/// # Errors
/// If a sample alone is longer than the budget.
pub fn micro_batches(samples: &[Sample], numbers: &[usize], budget: usize) -> Result<Vec<MicroBatch>> {
    let lengths: Vec<usize> = numbers.iter().map(|&n| samples[n].tokens.len()).collect();
    let packed = packing::pack(&lengths, budget)?;
    Ok(packed
        .into_iter()
        .map(|group| {
            let mut batch = MicroBatch::new();
            for i in group {
                batch.push(numbers[i] as u32, &samples[numbers[i]]);
            }
            batch
        })
        .collect())
}
