//! The tables of a run's page: rows of texts.

use super::log::{Log, optional};
use crate::{
    Error, Result,
    model::peft,
    train::metrics::{EndReason, Record, Start},
};
use serde::Deserialize;
use std::path::Path;

/// What was trained on, and where.
pub(super) fn data(start: &Start) -> Vec<[String; 2]> {
    let row = |name: &str, value: String| [name.to_owned(), value];
    vec![
        row("device", start.device.clone()),
        row("samples", thousands(start.samples as u64)),
        row("tokens (no padding)", thousands(start.tokens)),
        row("target tokens", thousands(start.targets)),
        row("trained parameters", thousands(start.parameters as u64)),
        row("steps an epoch", thousands(start.steps_per_epoch)),
        row("seed", start.seed.to_string()),
    ]
}

/// What the page shows of `adapter_config.json`, which is there from the end of a run on.
#[derive(Deserialize)]
struct AdapterConfig {
    base_model_name_or_path: String,
    r: u64,
    lora_alpha: f64,
    lora_dropout: f64,
    target_modules: Vec<String>,
}

/// The adapter that the run made.
pub(super) fn adapter(output_dir: &Path) -> Result<Vec<[String; 2]>> {
    let path = output_dir.join(peft::CONFIG);
    let Some(text) = optional(&path)? else { return Ok(Vec::new()) };
    let config: AdapterConfig =
        serde_json::from_str(&text).map_err(|e| Error::content(&path, "", format!("not an adapter of a run: {e}")))?;
    Ok(vec![
        ["base model".into(), config.base_model_name_or_path],
        ["LoRA rank".into(), config.r.to_string()],
        ["LoRA alpha".into(), config.lora_alpha.to_string()],
        ["LoRA dropout".into(), config.lora_dropout.to_string()],
        ["LoRA modules".into(), config.target_modules.join(", ")],
    ])
}

/// Settings of `run.toml`, nested tables by dotted names.
pub(super) fn settings(output_dir: &Path) -> Result<Vec<[String; 2]>> {
    let path = output_dir.join("run.toml");
    let Some(text) = optional(&path)? else { return Ok(Vec::new()) };
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| Error::content(&path, "", e.message()))?;
    let mut rows = Vec::new();
    flatten("", &table, &mut rows);
    Ok(rows)
}

fn flatten(prefix: &str, table: &toml::Table, rows: &mut Vec<[String; 2]>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(t) => flatten(&format!("{prefix}{key}."), t, rows),
            toml::Value::String(s) => rows.push([format!("{prefix}{key}"), s.clone()]),
            toml::Value::Array(a) => {
                let items: Vec<String> =
                    a.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
                rows.push([format!("{prefix}{key}"), items.join(", ")]);
            }
            other => rows.push([format!("{prefix}{key}"), other.to_string()]),
        }
    }
}

/// Checkpoints, resumptions and the end, by step.
pub(super) fn events(log: &Log) -> Vec<[String; 2]> {
    let event = |r: &Record| {
        let what = match r {
            Record::Start(_) | Record::Step(_) | Record::Eval(_) => return None,
            Record::Resume { checkpoint, .. } => format!("resumed from {checkpoint}"),
            Record::Checkpoint { checkpoint, best: true, .. } => format!("{checkpoint} written, the best so far"),
            Record::Checkpoint { checkpoint, best: false, .. } => format!("{checkpoint} written"),
            Record::End { reason: EndReason::Finished, .. } => "ended: all steps are done".into(),
            Record::End { reason: EndReason::EarlyStopped, .. } => "ended: stopped early".into(),
            Record::End { reason: EndReason::Interrupted, .. } => "ended: interrupted".into(),
        };
        Some([format!("step {}", r.step()), what])
    };
    log.records.iter().filter_map(event).collect()
}

/// Step, epoch, loss, accuracy, seconds and "best" of each evaluation.
pub(super) fn evaluations(log: &Log) -> Vec<[String; 6]> {
    log.evals()
        .map(|e| {
            [
                e.step.to_string(),
                format!("{:.2}", e.epoch),
                format!("{:.4}", e.loss),
                e.accuracy.map_or_else(String::new, |a| {
                    let unknown = e.unknown.map_or_else(String::new, |n| format!(" ({n} unknown)"));
                    format!("{:.1}%{unknown}", 100.0 * a)
                }),
                format!("{:.1}", e.seconds),
                if e.best { "best".into() } else { String::new() },
            ]
        })
        .collect()
}

/// 1234567 as "1,234,567".
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}
