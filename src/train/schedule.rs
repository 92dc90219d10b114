//! The learning rate of each step: transformers' `get_linear_schedule_with_warmup`, `get_cosine_schedule_with_warmup`
//! and `get_constant_schedule_with_warmup`.
//!
//! As there, the factor of step s (from 1) is λ(s − 1), so with warm-up the first step has learning rate 0. What irori
//! logs is the rate that the step used; transformers logs the one after it.

use serde::{Deserialize, Serialize};

/// How the learning rate goes after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Falls in a straight line to 0.
    Linear,
    /// Falls along half a cosine to 0.
    Cosine,
    /// Stays.
    Constant,
}

/// The learning rate as a function of the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Course after warm-up.
    pub shape: Shape,
    /// The highest learning rate.
    pub peak: f64,
    /// Steps over which the rate rises from 0.
    pub warmup: u64,
    /// Steps of the whole run.
    pub total: u64,
}

/// transformers' `get_warmup_steps`: a positive number of steps wins, else ⌈steps·ratio⌉.
pub fn warmup_steps(steps: Option<u64>, ratio: f64, total: u64) -> u64 {
    match steps {
        Some(n) if n > 0 => n,
        _ => (total as f64 * ratio).ceil() as u64,
    }
}

impl Schedule {
    /// The learning rate of `step`, counted from 1.
    pub fn rate(&self, step: u64) -> f64 {
        let done = step.saturating_sub(1);
        self.peak * self.factor(done)
    }

    /// The highest learning rate of the run: less than [`Schedule::peak`] where warm-up lasts longer than the run.
    pub fn highest(&self) -> f64 {
        self.rate(self.total.min(self.warmup.saturating_add(1)))
    }

    /// λ: the factor after `done` steps.
    fn factor(&self, done: u64) -> f64 {
        if done < self.warmup {
            return done as f64 / self.warmup.max(1) as f64;
        }
        let rest = self.total.saturating_sub(self.warmup).max(1) as f64;
        match self.shape {
            Shape::Constant => 1.0,
            Shape::Linear => (self.total.saturating_sub(done) as f64 / rest).max(0.0),
            Shape::Cosine => {
                let progress = (done - self.warmup) as f64 / rest;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(shape: Shape, warmup: u64, total: u64) -> Vec<f64> {
        let s = Schedule { shape, peak: 1.0, warmup, total };
        (1..=total).map(|i| s.rate(i)).collect()
    }

    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < 1e-12, "{got:?} is not {want:?}");
        }
    }

    /// The values that transformers' own test of its schedules expects (10 steps, 2 of warm-up, peak 10).
    #[test]
    fn as_transformers() {
        close(&rates(Shape::Linear, 2, 10), &[0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]);
        close(&rates(Shape::Constant, 4, 10), &[0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let cosine = rates(Shape::Cosine, 2, 10);
        for (got, want) in cosine.iter().zip([0.0, 5.0, 10.0, 9.61, 8.53, 6.91, 5.0, 3.08, 1.46, 0.38]) {
            assert!((got * 10.0 - want).abs() < 0.01, "{cosine:?}");
        }
    }

    #[test]
    fn without_warm_up_the_first_step_is_the_peak() {
        for shape in [Shape::Linear, Shape::Cosine, Shape::Constant] {
            assert_eq!(rates(shape, 0, 5)[0], 1.0);
        }
    }

    #[test]
    fn warm_up_from_ratio_rounds_up_and_steps_win() {
        assert_eq!(warmup_steps(None, 0.03, 33), 1);
        assert_eq!(warmup_steps(None, 0.1, 1000), 100);
        assert_eq!(warmup_steps(Some(7), 0.1, 1000), 7);
        assert_eq!(warmup_steps(Some(0), 0.1, 1000), 100);
        assert_eq!(warmup_steps(None, 0.0, 1000), 0);
    }

    #[test]
    fn the_highest_rate_is_that_of_some_step() {
        for shape in [Shape::Linear, Shape::Cosine, Shape::Constant] {
            for (warmup, total) in
                [(0, 1), (1, 1), (5, 1), (1, 2), (2, 2), (3, 2), (9, 10), (10, 10), (100, 10), (0, 10)]
            {
                let of_steps = rates(shape, warmup, total).into_iter().fold(0.0, f64::max);
                assert_eq!(
                    Schedule { shape, peak: 1.0, warmup, total }.highest(),
                    of_steps,
                    "{shape:?} {warmup} {total}"
                );
            }
        }
    }

    #[test]
    fn warm_up_longer_than_the_run_only_rises() {
        close(&rates(Shape::Linear, 10, 4), &[0.0, 0.1, 0.2, 0.3]);
    }
}
