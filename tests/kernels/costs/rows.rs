//! A line of the table: launches of one kernel on one shape, with what each takes at least.

use super::{CLOCK, L2_BYTES, bandwidth, greatest};
use crate::{harness::SLICE, work::Work};

/// What one launch does.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// The work of the busiest multiprocessor.
    pub busiest: Work,
    /// Bytes that it asks of L2.
    pub asked: f64,
    /// Bytes that it must at least move to and from memory.
    pub least: f64,
}

impl Cost {
    /// Of `blocks` equal blocks, dealt out evenly.
    pub fn of_blocks(block: Work, blocks: u32, least: usize) -> Self {
        let busiest = block * f64::from(blocks.div_ceil(SLICE.sms));
        Self { busiest, ..Self::spread(block * f64::from(blocks), least) }
    }

    /// Of many unequal blocks, taken as spread evenly.
    pub fn spread(all: Work, least: usize) -> Self {
        Self { busiest: all * (1.0 / f64::from(SLICE.sms)), asked: all.asked, least: least as f64 }
    }
}

/// Launches of one kernel on one shape; where their shapes differ a little (parts of a fused linear), their mean.
pub struct Row {
    pub kernel: &'static str,
    /// Which operands, of which linear.
    pub what: String,
    /// In a micro-batch.
    pub launches: usize,
    sum: Cost,
}

impl Row {
    /// One launch.
    pub fn new(kernel: &'static str, what: impl Into<String>, cost: Cost) -> Self {
        Self { kernel, what: what.into(), launches: 1, sum: cost }
    }

    /// Adds a launch of the same kernel and operands.
    pub fn add(&mut self, other: &Self) {
        self.launches += other.launches;
        self.sum.busiest += other.sum.busiest;
        self.sum.asked += other.sum.asked;
        self.sum.least += other.sum.least;
    }

    /// Of one launch.
    pub fn cost(&self) -> Cost {
        let share = 1.0 / self.launches as f64;
        let Cost { busiest, asked, least } = self.sum;
        Cost { busiest: busiest * share, asked: asked * share, least: least * share }
    }

    /// What one launch takes at least, microseconds by bound.
    pub fn bounds(&self) -> [(&'static str, f64); 5] {
        let cycles = |c: f64| c / CLOCK * 1e6;
        let Cost { busiest, asked, least } = self.cost();
        [
            ("tensor", cycles(busiest.tensor_cycles())),
            ("issue", cycles(busiest.issue_cycles())),
            ("shared", cycles(busiest.shared)),
            ("L2", cycles(asked / L2_BYTES)),
            ("memory", least / bandwidth() * 1e6),
        ]
    }

    pub fn binds(&self) -> (&'static str, f64) {
        greatest(self.bounds())
    }

    /// Milliseconds of all launches.
    pub fn ms(&self) -> f64 {
        self.binds().1 * self.launches as f64 / 1e3
    }
}
