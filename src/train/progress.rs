//! What the user sees while it runs: a bar on a terminal, one plain line per record elsewhere. Both on standard error.

use super::metrics::{EndReason, Record, Start};
use crate::error::printable;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// Receives each logged record, and what the user should read.
pub trait Observer {
    /// A record that was just logged.
    fn record(&mut self, record: &Record);
    /// Something the user should read.
    fn note(&mut self, text: &str);
}

/// Shows a run on standard error.
pub struct Console {
    bar: Option<ProgressBar>,
    clock: Clock,
}

/// Estimates the time left from the steps of this process.
#[derive(Debug, Default)]
struct Clock {
    total: u64,
    first: Option<(u64, Instant)>,
}

impl Clock {
    fn left(&mut self, step: u64) -> Option<Duration> {
        let (from, since) = *self.first.get_or_insert((step, Instant::now()));
        let done = step.checked_sub(from).filter(|&n| n > 0)?;
        Some(since.elapsed().div_f64(done as f64).mul_f64(self.total.saturating_sub(step) as f64))
    }
}

impl Console {
    /// For a run of `total` steps.
    pub fn new(total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, clock: Clock { total, first: None } }
    }

    fn line(&self, text: &str) {
        let text = &printable(text);
        match &self.bar {
            Some(bar) => bar.println(text),
            None => {
                let _ = writeln!(std::io::stderr(), "{text}");
            }
        }
    }
}

impl Observer for Console {
    fn record(&mut self, record: &Record) {
        match record {
            Record::Start(s) => {
                self.clock.first = Some((0, Instant::now()));
                self.line(&start_line(s));
            }
            Record::Resume { step, .. } => {
                self.clock.first = Some((*step, Instant::now()));
                if let Some(bar) = &self.bar {
                    bar.set_position(*step);
                }
                self.line(&line(record, self.clock.total, None));
            }
            Record::Step(s) => {
                let left = self.clock.left(s.step);
                let text = line(record, self.clock.total, left);
                match &self.bar {
                    Some(bar) => {
                        bar.set_position(s.step);
                        let message = text.split_once("  ").map_or(text.as_str(), |(_, rest)| rest);
                        bar.set_message(message.to_string());
                    }
                    None => self.line(&text),
                }
            }
            Record::End { .. } => {
                if let Some(bar) = &self.bar {
                    bar.finish_and_clear();
                }
                self.line(&line(record, self.clock.total, None));
            }
            other => self.line(&line(other, self.clock.total, None)),
        }
    }

    fn note(&mut self, text: &str) {
        self.line(text);
    }
}

fn start_line(s: &Start) -> String {
    format!(
        "training {} parameters on {} samples ({} tokens, {} of them targets): {} steps, {} an epoch, on {}",
        s.parameters, s.samples, s.tokens, s.targets, s.steps, s.steps_per_epoch, s.device
    )
}

/// A record as one readable line.
pub fn line(record: &Record, total: u64, left: Option<Duration>) -> String {
    match record {
        Record::Start(s) => start_line(s),
        Record::Resume { step, checkpoint } => format!("resuming from {checkpoint}: step {step}/{total} is done"),
        Record::Step(s) => {
            let eta = left.map_or_else(String::new, |d| format!("  eta {}", clock_time(d)));
            format!(
                "step {}/{total}  epoch {:.2}  loss {:.4}  lr {:.1e}  norm {:.3}  {:.0} tok/s{eta}",
                s.step, s.epoch, s.loss, s.learning_rate, s.grad_norm, s.tokens_per_second
            )
        }
        Record::Eval(e) => {
            let unknown = e.unknown.map_or_else(String::new, |n| format!(" ({n} unknown)"));
            let accuracy = e.accuracy.map_or_else(String::new, |a| format!("  accuracy {a:.4}{unknown}"));
            let best = if e.best { "  (best so far)" } else { "" };
            format!("eval after step {}  loss {:.4}{accuracy}  {:.1} s{best}", e.step, e.loss, e.seconds)
        }
        Record::Checkpoint { checkpoint, best, .. } => {
            format!("wrote {checkpoint}{}", if *best { " (best so far)" } else { "" })
        }
        Record::End { step, reason, .. } => match reason {
            EndReason::Finished => format!("done after step {step}"),
            EndReason::EarlyStopped => format!("stopped early after step {step}: the evaluation no longer improves"),
            EndReason::Interrupted => format!("interrupted after step {step}"),
        },
    }
}

/// 02:15, or 1:02:15 from an hour on.
fn clock_time(d: Duration) -> String {
    let s = d.as_secs();
    if s >= 3600 {
        format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
    } else {
        format!("{:02}:{:02}", s / 60, s % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::metrics::Step;

    #[test]
    fn a_step_is_a_line_one_can_read() {
        let step = Record::Step(Step {
            step: 12,
            epoch: 12.0 / 11.0,
            loss: 2.34561,
            learning_rate: 1.8e-4,
            grad_norm: 0.12,
            targets: 16,
            tokens: 2000,
            tokens_per_second: 412.3,
            peak_memory_bytes: 0,
        });
        assert_eq!(
            line(&step, 33, Some(Duration::from_secs(135))),
            "step 12/33  epoch 1.09  loss 2.3456  lr 1.8e-4  norm 0.120  412 tok/s  eta 02:15"
        );
        assert_eq!(clock_time(Duration::from_secs(3735)), "1:02:15");
    }
}
