//! The page of a training run, from what the run wrote: metrics.jsonl, run.toml, adapter_config.json.
//!
//! A report is made at the end of a run, of an interrupted one, or of one that is still going: missing files and a last line
//! cut short are no errors; a file that is there and is not what it should be is one.

mod charts;
mod log;
mod tables;

#[cfg(test)]
mod tests;

use super::{render, svg};
use crate::{
    Error, Result,
    files::{self, RealDisk},
    train::{
        metrics::{EndReason, Eval},
        state::TRAINER_STATE,
    },
};
use log::Log;
use std::path::{Path, PathBuf};

/// Writes `report.html` into a run's output directory and returns its path.
///
/// # Errors
/// If the directory is not that of a run, one of its files is not what it should be, or the page cannot be written.
pub fn run_report(output_dir: &Path) -> Result<PathBuf> {
    let page = run_html(output_dir)?;
    let path = output_dir.join("report.html");
    files::replace(&RealDisk, &path, page.as_bytes())?;
    Ok(path)
}

/// The page of the run in `output_dir`.
fn run_html(output_dir: &Path) -> Result<String> {
    let log = Log::read(&output_dir.join("metrics.jsonl"))?;
    let settings = tables::settings(output_dir)?;
    if log.records.is_empty() && settings.is_empty() && !output_dir.join(TRAINER_STATE).is_file() {
        let message = "there is no metrics.jsonl, run.toml or trainer_state.json: not the output directory of a run";
        return Err(Error::content(output_dir, "", message));
    }
    let mut data = log.start().map(tables::data).unwrap_or_default();
    data.extend(tables::adapter(output_dir)?);
    render(
        include_str!("../templates/run.html"),
        minijinja::context! {
            name => name(output_dir),
            summary => summary(&log),
            notices => overfitting(&log).into_iter().collect::<Vec<_>>(),
            facts => facts(&log),
            wide => charts::loss(&log).into_iter().collect::<Vec<_>>(),
            small => charts::small(&log),
            data,
            events => tables::events(&log),
            settings,
            evals => tables::evaluations(&log),
            version => env!("CARGO_PKG_VERSION"),
        },
    )
}

/// The directory's own name, also where it was given as "." or "..".
fn name(output_dir: &Path) -> String {
    let full = std::path::absolute(output_dir).unwrap_or_else(|_| output_dir.to_path_buf());
    full.file_name().map_or_else(|| full.display().to_string(), |n| n.to_string_lossy().into_owned())
}

/// How the run ended, or that it did not.
fn summary(log: &Log) -> &'static str {
    match log.end() {
        Some(EndReason::Finished) => "All steps are done.",
        Some(EndReason::EarlyStopped) => "Stopped early: the evaluation no longer improved.",
        Some(EndReason::Interrupted) => "Interrupted; resumed, it goes on from the last checkpoint.",
        None if log.steps().next().is_some() => "This run has not ended: the page shows it up to its last logged step.",
        None => "No step is logged yet.",
    }
}

fn lowest_loss(log: &Log) -> Option<&Eval> {
    log.evals().min_by(|a, b| a.loss.total_cmp(&b.loss))
}

/// The figures at the head of the page, each with its name.
fn facts(log: &Log) -> Vec<[String; 2]> {
    let mut facts = Vec::new();
    if let Some(last) = log.steps().last() {
        // A run that was resumed under other settings may have more steps than it began with.
        let total = log.start().map(|s| s.steps).filter(|&total| total >= last.step);
        let of = total.map_or_else(String::new, |n| format!(" / {n}"));
        facts.push([format!("{}{of}", last.step), "steps".into()]);
        facts.push([format!("{:.4}", last.loss), "last training loss".into()]);
    }
    if let Some(best) = lowest_loss(log) {
        facts.push([format!("{:.4}", best.loss), format!("best evaluation loss, step {}", best.step)]);
    }
    let accuracies = log.evals().filter_map(|e| Some((e.step, e.accuracy?)));
    if let Some((step, best)) = accuracies.max_by(|a, b| a.1.total_cmp(&b.1)) {
        facts.push([format!("{:.1}%", 100.0 * best), format!("best evaluation accuracy, step {step}")]);
    }
    let timed = || log.steps().filter(|s| s.tokens_per_second > 0.0);
    let seconds: f64 = timed().map(|s| s.tokens as f64 / s.tokens_per_second).sum();
    if seconds > 0.0 {
        let tokens: u64 = timed().map(|s| s.tokens).sum();
        facts.push([svg::short((tokens as f64 / seconds).round()), "tokens per second".into()]);
    }
    if let Some(peak) = log.steps().map(|s| s.peak_memory_bytes).max() {
        facts.push([memory(peak), "peak memory".into()]);
    }
    facts
}

/// A warning where the evaluation loss has risen by more than a twentieth from its lowest.
fn overfitting(log: &Log) -> Option<String> {
    let (best, now) = (lowest_loss(log)?, log.evals().last()?);
    (log.evals().count() > 2 && now.loss > 1.05 * best.loss).then(|| {
        format!(
            "The evaluation loss has risen from {:.4} at step {} to {:.4}: the adapter has begun to learn its samples by \
             heart. The checkpoint near step {} is the better one.",
            best.loss, best.step, now.loss, best.step
        )
    })
}

fn memory(bytes: u64) -> String {
    let bytes = bytes as f64;
    let (value, unit) =
        if bytes >= 1024f64.powi(3) { (bytes / 1024f64.powi(3), "GiB") } else { (bytes / 1024f64.powi(2), "MiB") };
    format!("{value:.2} {unit}")
}
