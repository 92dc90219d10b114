//! The page of a training run, from what the run wrote: metrics.jsonl, run.toml, trainer_state.json, adapter_config.json.
//!
//! A report is made at the end of a run, of an interrupted one, or of one that is still going: missing files and a last line
//! cut short are no errors; a file that is there and is not what it should be is one.

use super::{markup, render, svg};
use crate::{
    Error, Result,
    files::{self, RealDisk},
};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Writes `report.html` into a run's output directory and returns its path.
pub fn run_report(output_dir: &Path) -> Result<PathBuf> {
    let page = run_html(output_dir)?;
    let path = output_dir.join("report.html");
    files::replace(&RealDisk, &path, page.as_bytes())?;
    Ok(path)
}

/// The records of metrics.jsonl; a last line without its newline is one being written.
fn records(path: &Path) -> Result<Vec<Value>> {
    let Some(text) = optional(path)? else { return Ok(Vec::new()) };
    let whole = &text[..text.rfind('\n').map_or(0, |i| i + 1)];
    let mut out = Vec::new();
    for (i, line) in whole.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let value: Value = serde_json::from_str(line)
            .map_err(|e| Error::content(path, format!("line {}", i + 1), format!("not JSON: {e}")))?;
        if !value.is_object() {
            return Err(Error::content(path, format!("line {}", i + 1), "expected an object"));
        }
        out.push(value);
    }
    Ok(out)
}

fn optional(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

fn json(path: &Path) -> Result<Value> {
    match optional(path)? {
        None => Ok(Value::Null),
        Some(text) => serde_json::from_str(&text)
            .map_err(|e| Error::content(path, format!("line {}", e.line()), format!("not JSON: {e}"))),
    }
}

/// Settings as rows, nested tables by dotted names.
fn settings(output_dir: &Path) -> Result<Vec<[String; 2]>> {
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

/// Points (step, field) of the records of `kind`.
fn points(records: &[Value], kind: &str, field: &str) -> Vec<(f64, f64)> {
    let of = records.iter().filter(|r| r["type"] == kind);
    of.filter_map(|r| Some((r["step"].as_f64()?, r[field].as_f64()?))).collect()
}

/// Exponential moving average with a span of about a twentieth of the points, started without bias.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 2.0 / (points.len() as f64 / 20.0 + 1.0).max(2.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let step = |&(x, y): &(f64, f64)| {
        if y.is_finite() {
            sum = keep * sum + y;
            weight = keep * weight + 1.0;
        }
        (x, if weight > 0.0 { sum / weight } else { f64::NAN })
    };
    points.iter().map(step).collect()
}

#[derive(serde::Serialize)]
struct Chart {
    title: &'static str,
    svg: minijinja::Value,
    legend: Vec<(&'static str, &'static str)>,
}

fn loss_chart(records: &[Value]) -> Option<Chart> {
    let (train, eval) = (points(records, "step", "loss"), points(records, "eval", "loss"));
    let series = |class, points, dots| svg::Series { name: String::new(), class, points, dots };
    let mut lines = Vec::new();
    if train.len() > 40 {
        lines.push(series("s-faint", train.clone(), false));
        lines.push(series("s-cand", smooth(&train), false));
    } else {
        lines.push(series("s-cand", train.clone(), false));
    }
    let mut legend = vec![("s-cand", if train.len() > 40 { "training, smoothed (raw behind it)" } else { "training" })];
    if !eval.is_empty() {
        lines.push(series("s-base", eval, true));
        legend.push(("s-base", "evaluation"));
    }
    let chart = svg::line_chart(svg::WIDE, "Loss in nats per target token", "step", "", true, &lines);
    (!chart.is_empty()).then(|| Chart { title: "Loss (nats per target token)", svg: markup(chart), legend })
}

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

fn gib(bytes: f64) -> String {
    let (value, unit) =
        if bytes >= 1024f64.powi(3) { (bytes / 1024f64.powi(3), "GiB") } else { (bytes / 1024f64.powi(2), "MiB") };
    format!("{value:.2} {unit}")
}

fn number(v: &Value, digits: usize) -> String {
    v.as_f64().map_or_else(String::new, |x| format!("{x:.digits$}"))
}

/// The page of the run in `output_dir`.
pub fn run_html(output_dir: &Path) -> Result<String> {
    let records = records(&output_dir.join("metrics.jsonl"))?;
    let state = json(&output_dir.join("trainer_state.json"))?;
    let adapter = json(&output_dir.join("adapter_config.json"))?;
    let settings = settings(output_dir)?;
    if records.is_empty() && state.is_null() && settings.is_empty() {
        let message = "there is no metrics.jsonl, run.toml or trainer_state.json: not the output directory of a run";
        return Err(Error::content(output_dir, "", message));
    }
    let of = |kind: &'static str| records.iter().filter(move |r| r["type"] == kind);
    let (start, last, end) = (of("start").next_back(), of("step").next_back(), of("end").next_back());
    let losses = points(&records, "step", "loss");

    let mut facts = Vec::new();
    if let Some(last) = last {
        let total = start.map_or(&state["max_steps"], |s| &s["steps"]);
        facts.push([
            format!("{}{}", last["step"], total.as_u64().map_or_else(String::new, |n| format!(" / {n}"))),
            "steps".into(),
        ]);
        facts.push([number(&last["loss"], 4), "last training loss".into()]);
    }
    if let Some(best) = points(&records, "eval", "loss").into_iter().min_by(|a, b| a.1.total_cmp(&b.1)) {
        facts.push([format!("{:.4}", best.1), format!("best evaluation loss, step {}", best.0)]);
    }
    if let Some(best) = points(&records, "eval", "accuracy").into_iter().max_by(|a, b| a.1.total_cmp(&b.1)) {
        facts.push([format!("{:.1}%", 100.0 * best.1), format!("best evaluation accuracy, step {}", best.0)]);
    }
    let speeds: Vec<(f64, f64)> =
        of("step").filter_map(|r| Some((r["tokens"].as_f64()?, r["tokens_per_second"].as_f64()?))).collect();
    let seconds: f64 = speeds.iter().filter(|s| s.1 > 0.0).map(|s| s.0 / s.1).sum();
    if seconds > 0.0 {
        let tokens: f64 = speeds.iter().filter(|s| s.1 > 0.0).map(|s| s.0).sum();
        facts.push([svg::short((tokens / seconds).round()), "tokens per second".into()]);
    }
    if let Some(peak) = points(&records, "step", "peak_memory_bytes").into_iter().map(|p| p.1).reduce(f64::max) {
        facts.push([gib(peak), "peak memory".into()]);
    }

    let mut notices = Vec::new();
    if losses.iter().any(|l| !l.1.is_finite()) || of("step").any(|r| r["loss"].is_null()) {
        notices.push("A loss in this log is not a finite number.".to_owned());
    }
    let evals = points(&records, "eval", "loss");
    if let (Some(best), Some(now)) = (evals.iter().min_by(|a, b| a.1.total_cmp(&b.1)), evals.last())
        && evals.len() > 2
        && now.1 > 1.05 * best.1
    {
        notices.push(format!(
            "The evaluation loss has risen from {:.4} at step {} to {:.4}: the adapter has begun to learn its samples by heart. The checkpoint near step {} is the better one.",
            best.1, best.0, now.1, best.0
        ));
    }
    let summary = match (end.and_then(|e| e["reason"].as_str()), last) {
        (Some("finished"), _) => "All steps are done.".to_owned(),
        (Some("early-stopped"), _) => "Stopped early: the evaluation no longer improved.".into(),
        (Some("interrupted"), _) => "Interrupted; --resume goes on from the last checkpoint.".into(),
        (Some(other), _) => format!("Ended: {other}."),
        (None, Some(_)) => "This run has not ended: the page shows it up to its last logged step.".into(),
        (None, None) => "No step is logged yet.".into(),
    };

    let line = |field: &str, title: &'static str, class, scale: f64, unit: &str| -> Option<Chart> {
        let points: Vec<(f64, f64)> =
            points(&records, "step", field).into_iter().map(|(x, y)| (x, y * scale)).collect();
        let chart = svg::line_chart(
            svg::HALF,
            title,
            "step",
            unit,
            true,
            &[svg::Series { name: String::new(), class, points, dots: false }],
        );
        (!chart.is_empty()).then(|| Chart { title, svg: markup(chart), legend: Vec::new() })
    };
    let accuracy = {
        let points: Vec<(f64, f64)> =
            points(&records, "eval", "accuracy").into_iter().map(|(x, y)| (x, 100.0 * y)).collect();
        let chart = svg::line_chart(
            svg::HALF,
            "Evaluation accuracy",
            "step",
            "%",
            true,
            &[svg::Series { name: String::new(), class: "s-base", points, dots: true }],
        );
        (!chart.is_empty()).then(|| Chart { title: "Evaluation accuracy", svg: markup(chart), legend: Vec::new() })
    };
    let small: Vec<Chart> = [
        accuracy,
        line("learning_rate", "Learning rate", "s-base", 1.0, ""),
        line("grad_norm", "Gradient norm before clipping", "s-cand", 1.0, ""),
        line("tokens_per_second", "Speed (tokens per second)", "s-base", 1.0, ""),
        line("peak_memory_bytes", "Peak memory (GiB)", "s-base", 1.0 / 1024f64.powi(3), ""),
    ]
    .into_iter()
    .flatten()
    .collect();

    let mut data: Vec<[String; 2]> = Vec::new();
    if let Some(s) = start {
        for (field, name) in [
            ("device", "device"),
            ("samples", "samples"),
            ("tokens", "tokens (no padding)"),
            ("targets", "target tokens"),
            ("parameters", "trained parameters"),
            ("steps_per_epoch", "steps an epoch"),
            ("seed", "seed"),
        ] {
            match &s[field] {
                Value::String(t) => data.push([name.into(), t.clone()]),
                Value::Number(n) => data.push([name.into(), n.as_u64().map_or_else(|| n.to_string(), thousands)]),
                _ => {}
            }
        }
    }
    for (field, name) in [
        ("base_model_name_or_path", "base model"),
        ("r", "LoRA rank"),
        ("lora_alpha", "LoRA alpha"),
        ("lora_dropout", "LoRA dropout"),
    ] {
        match &adapter[field] {
            Value::String(t) => data.push([name.into(), t.clone()]),
            Value::Number(n) => data.push([name.into(), n.to_string()]),
            _ => {}
        }
    }
    if let Some(modules) = adapter["target_modules"].as_array() {
        let names: Vec<&str> = modules.iter().filter_map(Value::as_str).collect();
        data.push(["LoRA modules".into(), names.join(", ")]);
    }
    let events: Vec<[String; 2]> = records
        .iter()
        .filter_map(|r| {
            let what = match r["type"].as_str()? {
                "resume" => format!("resumed from {}", r["checkpoint"].as_str().unwrap_or("a checkpoint")),
                "checkpoint" if r["best"] == true => {
                    format!("{} written, the best so far", r["checkpoint"].as_str().unwrap_or("checkpoint"))
                }
                "checkpoint" => format!("{} written", r["checkpoint"].as_str().unwrap_or("checkpoint")),
                "end" => format!("ended: {}", r["reason"].as_str().unwrap_or("?")),
                _ => return None,
            };
            Some([format!("step {}", r["step"]), what])
        })
        .collect();
    let eval_rows: Vec<[String; 6]> = of("eval")
        .map(|e| {
            [
                e["step"].to_string(),
                number(&e["epoch"], 2),
                number(&e["loss"], 4),
                e["accuracy"].as_f64().map_or_else(String::new, |a| format!("{:.1}%", 100.0 * a)),
                number(&e["seconds"], 1),
                if e["best"] == true { "best".into() } else { String::new() },
            ]
        })
        .collect();
    let full = std::path::absolute(output_dir).unwrap_or_else(|_| output_dir.to_path_buf());
    let name = full.file_name().map_or_else(|| full.display().to_string(), |n| n.to_string_lossy().into_owned());
    let wide: Vec<Chart> = loss_chart(&records).into_iter().collect();
    render(
        include_str!("templates/run.html"),
        minijinja::context! {
            name, summary, notices, facts, wide, small, data, events, settings, evals => eval_rows,
            version => env!("CARGO_PKG_VERSION"),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fmt::Write;

    fn write_run(dir: &Path, steps: u32) {
        let mut log = String::new();
        let start = json!({"type":"start","step":0,"steps":steps,"steps_per_epoch":steps/3,"samples":100,"tokens":30_512,"targets":412,"parameters":43_646_976,"seed":42,"device":"cpu, 2 threads"});
        let _ = writeln!(log, "{start}");
        for s in 1..=steps {
            let t = f64::from(s) / f64::from(steps);
            let noise = f64::from(s.wrapping_mul(2_654_435_761) >> 20) / 4096.0 - 0.5;
            let step = json!({"type":"step","step":s,"epoch":3.0*t,"loss":2.3*(-3.0*t).exp()+0.3+0.25*noise,"learning_rate":2e-4*(t/0.03).min((1.0-t)/0.97),"grad_norm":1.4-t+0.4*noise.abs(),"targets":8,"tokens":2400,"tokens_per_second":812.0+60.0*noise,"peak_memory_bytes":3_221_225_472u64});
            let _ = writeln!(log, "{step}");
            if s % (steps / 6) == 0 {
                let eval = json!({"type":"eval","step":s,"epoch":3.0*t,"loss":1.9*(-2.0*t).exp()+0.45+0.5*t*t,"targets":80,"accuracy":0.3+0.3*t,"seconds":4.2,"best":t<0.8});
                let _ = writeln!(log, "{eval}");
                let _ = writeln!(
                    log,
                    "{}",
                    json!({"type":"checkpoint","step":s,"checkpoint":format!("checkpoint-{s}"),"best":t<0.8})
                );
            }
        }
        let _ = writeln!(log, "{}", json!({"type":"end","step":steps,"epoch":3.0,"reason":"finished"}));
        log.push_str("{\"type\":\"step\",\"st");
        std::fs::write(dir.join("metrics.jsonl"), log).expect("written");
        std::fs::write(dir.join("run.toml"), "model = \"<b>synthetic\"\nlearning-rate = 2e-4\ntarget-modules = [\"q_proj\", \"v_proj\"]\n[extra]\nx = true\n").expect("written");
        std::fs::write(
            dir.join("adapter_config.json"),
            json!({"r":16,"lora_alpha":32,"target_modules":["q_proj"]}).to_string(),
        )
        .expect("written");
    }

    #[test]
    fn a_run_as_page() {
        let dir = tempfile::tempdir().expect("a directory");
        write_run(dir.path(), 120);
        let path = run_report(dir.path()).expect("written");
        let page = std::fs::read_to_string(path).expect("read");
        assert_eq!(page.matches("<svg").count(), 6, "loss, accuracy, learning rate, norm, speed, memory");
        assert!(page.contains("&lt;b&gt;synthetic") && !page.contains("<b>synthetic"));
        assert!(page.contains("43,646,976") && page.contains("extra.x") && page.contains("120 &#x2f; 120"));
        assert!(!page.contains("http") && !page.contains("NaN"));
        run_report(dir.path()).expect("a report may be made again");
        if let Some(keep) = std::env::var_os("IRORI_KEEP_REPORT") {
            std::fs::copy(dir.path().join("report.html"), Path::new(&keep).join("run.html")).expect("kept");
        }
    }

    #[test]
    fn partial_and_broken_directories() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(run_html(dir.path()).expect_err("empty").to_string().contains("not the output directory of a run"));
        let log = dir.path().join("metrics.jsonl");
        std::fs::write(&log, "{\"type\":\"step\",\"step\":1,\"loss\":null}\n").expect("written");
        let page = run_html(dir.path()).expect("rendered");
        assert!(page.contains("not a finite number") && page.contains("has not ended"));
        for (text, says) in [("{\n", "line 1: not JSON"), ("{}\n3\n", "line 2: expected an object")] {
            std::fs::write(&log, text).expect("written");
            let e = run_html(dir.path()).expect_err(text).to_string();
            assert!(e.contains("metrics.jsonl") && e.contains(says), "{e}");
        }
        std::fs::write(&log, "{\"type\":5,\"step\":\"x\"}\n").expect("written");
        assert!(run_html(dir.path()).is_ok());
        std::fs::write(dir.path().join("run.toml"), "= 3").expect("written");
        assert!(run_html(dir.path()).expect_err("bad").to_string().contains("run.toml"));
    }
}
