//! Arguments and set-up that several commands share.

use crate::{Error, Result};

/// Parses a size such as `20GiB`, `9.5GiB`, `800MB` or a plain number of bytes (for clap's `value_parser`).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: f64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("unknown unit `{other}`: use B, KiB, MiB, GiB, KB, MB or GB")),
    };
    let value: f64 = digits.trim().parse().map_err(|_| format!("`{text}` is not a size; write 20GiB or 9.5GiB"))?;
    let bytes = value * unit;
    if bytes.is_finite() && (1.0..9e18).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err(format!("{text} is out of range"))
    }
}

/// Prints a line on standard error, where progress and warnings go.
pub fn note(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A destination that must not exist yet unless it is an empty directory: nothing the user made is overwritten.
pub fn ensure_new_dir(path: &std::path::Path) -> Result<()> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::usage(format!(
                "{} is not empty: choose a new directory, or remove it first",
                path.display()
            ))),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).map_err(Error::io("create", path))
        }
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// What the rooms below make of a training configuration: the model on its device and the samples as tokens.
pub struct TrainingSetup {
    /// The engine with its adapter: fresh (A uniform in ±1/√in, B zero), or that of `--init-adapter`.
    pub learner: crate::train::EngineLearner,
    /// Samples to train on, cut to `--max-seq-length`, those without a target dropped.
    pub samples: Vec<crate::data::Sample>,
    /// The answer's letter of each sample, where it is one.
    pub answers: Vec<Option<char>>,
    /// Samples to evaluate on.
    pub eval_samples: Option<Vec<crate::data::Sample>>,
    /// Training samples that were cut.
    pub truncated: usize,
    /// Training samples that were dropped, since nothing that carries loss was left of them.
    pub dropped: usize,
    /// Fingerprint of the base weights.
    pub base: String,
    /// What the run will take, in lines to print.
    pub plan: Vec<String>,
}

/// Opens the model, reads and tokenises the data, plans the memory and loads the weights.
///
/// # Errors
/// What is missing, malformed or does not fit, before the weights are loaded wherever that is possible.
pub fn set_up_training(config: &crate::train::TrainConfig) -> Result<TrainingSetup> {
    Err(Error::failed(format!("irori train cannot open {} yet: the model's set-up is not built", config.model)))
}
