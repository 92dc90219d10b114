//! `metrics.jsonl`: one typed record per line, whole lines only.
//!
//! After a resume the file is cut back to the resumed step, so that it tells one history: that of the steps which led
//! to the adapter.

use crate::{
    Error, Result,
    files::{Appender, Disk, replace},
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Record {
    /// The run began.
    Start(Start),
    /// The run went on from a checkpoint.
    Resume {
        /// The step it goes on from.
        step: u64,
        /// The checkpoint's directory name.
        checkpoint: String,
    },
    /// One or more (`logging-steps`) steps.
    Step(Step),
    /// An evaluation.
    Eval(Eval),
    /// A checkpoint was written.
    Checkpoint {
        /// The step after which it was written.
        step: u64,
        /// Its directory name.
        checkpoint: String,
        /// Whether it is the best so far.
        best: bool,
    },
    /// The run ended.
    End {
        /// The last step.
        step: u64,
        /// Epochs done.
        epoch: f64,
        /// Why.
        reason: EndReason,
    },
}

/// What a run is, said once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// 0.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Samples trained on.
    pub samples: usize,
    /// Rows of all samples.
    pub tokens: u64,
    /// Targets of all samples.
    pub targets: u64,
    /// Trained parameters.
    pub parameters: usize,
    /// Seed.
    pub seed: u64,
    /// The device in words.
    pub device: String,
}

/// Steps since the last record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The step that ended.
    pub step: u64,
    /// Epochs done.
    pub epoch: f64,
    /// Mean −ln p over the targets.
    pub loss: f64,
    /// The learning rate that the step used.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping, of the last step.
    pub grad_norm: f64,
    /// Targets.
    pub targets: u64,
    /// Real rows: there is no padding to count.
    pub tokens: u64,
    /// Real rows per second of training.
    pub tokens_per_second: f64,
    /// Most memory taken so far.
    pub peak_memory_bytes: u64,
}

/// An evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Eval {
    /// The step after which it ran.
    pub step: u64,
    /// Epochs done.
    pub epoch: f64,
    /// Mean −ln p over the targets of the evaluation samples.
    pub loss: f64,
    /// Those targets.
    pub targets: u64,
    /// Part of the questions answered rightly, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accuracy: Option<f64>,
    /// Of those questions the ones without a certain answer (two letters as likely as each other), where there are any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unknown: Option<u64>,
    /// How long it took.
    pub seconds: f64,
    /// Whether it is the best so far.
    pub best: bool,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// All steps are done.
    Finished,
    /// No new best for as many evaluations as `early-stopping-patience` says.
    EarlyStopped,
    /// A signal.
    Interrupted,
}

impl Record {
    /// The step that the record belongs to.
    pub fn step(&self) -> u64 {
        match self {
            Self::Start(s) => s.step,
            Self::Step(s) => s.step,
            Self::Eval(e) => e.step,
            Self::Resume { step, .. } | Self::Checkpoint { step, .. } | Self::End { step, .. } => *step,
        }
    }
}

/// Whether `text` is a log of irori's: records, then at most one that is cut off. An empty file is one too.
pub fn wrote(text: &[u8]) -> bool {
    const BEGIN: &[u8] = b"{\"type\":\"";
    text.split_inclusive(|b| *b == b'\n').all(|line| match line.last() {
        Some(b'\n') => serde_json::from_slice::<Record>(line).is_ok(),
        _ => line.starts_with(BEGIN) || BEGIN.starts_with(line),
    })
}

/// The log, open for appending.
#[derive(Debug)]
pub struct MetricsLog(Appender);

impl MetricsLog {
    /// Starts an empty log, or cuts an existing one back to what happened up to `step`.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn open(disk: &dyn Disk, path: &Path, step: Option<u64>) -> Result<Self> {
        let kept = match (step, std::fs::read(path)) {
            (Some(step), Ok(text)) => history(&String::from_utf8_lossy(&text), step),
            (Some(_), Err(e)) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("read", path)(e)),
            _ => String::new(),
        };
        replace(disk, path, kept.as_bytes())?;
        Ok(Self(Appender::open(path)?))
    }

    /// Appends a record.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_string(record).map_err(|e| Error::internal(format!("a log record: {e}")))?;
        line.push('\n');
        self.0.append(line.as_bytes())
    }

    /// Makes what was written durable: before a checkpoint, whose history it is.
    ///
    /// # Errors
    /// If the device fails.
    pub fn sync(&self) -> Result<()> {
        self.0.sync()
    }
}

/// The lines of `text` up to and with `step`: without a torn last line and without the end of an earlier process.
fn history(text: &str, step: u64) -> String {
    let mut kept = String::new();
    for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
        match serde_json::from_str::<Record>(line) {
            Ok(Record::End { .. }) => {}
            Ok(record) if record.step() <= step => kept.push_str(line),
            Ok(_) | Err(_) => break,
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Record {
        Record::Step(Step {
            step,
            epoch: 0.5,
            loss: 1.25,
            learning_rate: 2e-4,
            grad_norm: 0.5,
            targets: 3,
            tokens: 10,
            tokens_per_second: 7.5,
            peak_memory_bytes: 1 << 40,
        })
    }

    #[test]
    fn a_step_has_the_fields_that_scripts_read() {
        assert_eq!(
            serde_json::to_string(&step(4)).unwrap(),
            r#"{"type":"step","step":4,"epoch":0.5,"loss":1.25,"learning_rate":0.0002,"grad_norm":0.5,"targets":3,"tokens":10,"tokens_per_second":7.5,"peak_memory_bytes":1099511627776}"#
        );
    }

    #[test]
    fn one_history_after_a_resume() {
        let end = Record::End { step: 2, epoch: 1.0, reason: EndReason::Interrupted };
        let line = |r: &Record| serde_json::to_string(r).unwrap() + "\n";
        let mut text: String = [step(1), step(2), end, step(3), step(4)].iter().map(line).collect();
        text.push_str("{\"type\":\"step\",\"st");
        assert_eq!(history(&text, 3), line(&step(1)) + &line(&step(2)) + &line(&step(3)));
        assert_eq!(history(&text, 9).lines().count(), 4);
        assert_eq!(history(&text, 0), "");
        assert_eq!(history("garbage\n", 5), "");
    }

    #[test]
    fn a_log_of_irori_is_told_from_others() {
        let whole = serde_json::to_string(&step(1)).unwrap() + "\n";
        for cut in 0..whole.len() {
            assert!(wrote(&whole.as_bytes()[..cut]), "{cut}");
            assert!(wrote((whole.clone() + &whole[..cut]).as_bytes()), "{cut}");
        }
        for other in ["mine", "mine\n", "{\"loss\":1}\n", "{\"type\":\"step\"}\n", "\n", "{\"loss\":1}"] {
            assert!(!wrote(other.as_bytes()), "{other:?}");
            assert!(!wrote((whole.clone() + other).as_bytes()), "{other:?}");
        }
    }
}
