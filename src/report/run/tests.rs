use super::*;
use crate::{
    files::RealDisk,
    model::{LoraConfig, Module, peft},
    train::metrics::{MetricsLog, Record, Start, Step},
};
use serde_json::Value;

/// What a run of `steps` steps and six evaluations logs.
fn records(steps: u64) -> Vec<Record> {
    let start = Start {
        step: 0,
        steps,
        steps_per_epoch: steps / 3,
        samples: 100,
        tokens: 30_512,
        targets: 412,
        parameters: 43_646_976,
        seed: 42,
        device: "cpu, 2 threads".into(),
    };
    let mut records = vec![Record::Start(start)];
    for step in 1..=steps {
        let t = step as f64 / steps as f64;
        let noise = f64::from((step as u32).wrapping_mul(2_654_435_761) >> 20) / 4096.0 - 0.5;
        records.push(Record::Step(Step {
            step,
            epoch: 3.0 * t,
            loss: 2.3 * (-3.0 * t).exp() + 0.3 + 0.25 * noise,
            learning_rate: 2e-4 * (t / 0.03).min((1.0 - t) / 0.97),
            grad_norm: 1.4 - t + 0.4 * noise.abs(),
            targets: 8,
            tokens: 2400,
            tokens_per_second: 812.0 + 60.0 * noise,
            peak_memory_bytes: 3 << 30,
        }));
        if step.is_multiple_of(steps / 6) {
            let (best, epoch) = (t < 0.8, 3.0 * t);
            let loss = 1.9 * (-2.0 * t).exp() + 0.45 + 0.7 * t * t;
            let accuracy = Some(0.3 + 0.3 * t);
            records.push(Record::Eval(Eval {
                step,
                epoch,
                loss,
                targets: 80,
                accuracy,
                unknown: None,
                seconds: 4.2,
                best,
            }));
            records.push(Record::Checkpoint { step, checkpoint: format!("checkpoint-{step}"), best });
        }
    }
    records.push(Record::End { step: steps, epoch: 3.0, reason: EndReason::Finished });
    records
}

/// A directory with the log, as the trainer writes it, and the other files that a page shows.
fn run(records: &[Record]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = MetricsLog::open(&RealDisk, &dir.path().join("metrics.jsonl"), None).expect("a log");
    for record in records {
        log.write(record).expect("written");
    }
    let settings = "model = \"<b>synthetic\"\nlearning-rate = 2e-4\ntarget-modules = [\"q_proj\"]\n[extra]\nx = true\n";
    std::fs::write(dir.path().join("run.toml"), settings).expect("written");
    let lora = LoraConfig { r: 16, alpha: 32.0, dropout: 0.05, rslora: false, targets: Module::ALL.into() };
    std::fs::write(dir.path().join(peft::CONFIG), peft::config_file(&lora, "Qwen3-0.6B")).expect("written");
    dir
}

#[test]
fn what_a_run_logs_is_on_its_page() {
    let dir = run(&records(120));
    let page = std::fs::read_to_string(run_report(dir.path()).expect("written")).expect("read");
    let titles = [
        "Loss (nats per target token)",
        "Evaluation accuracy",
        "Learning rate",
        "Gradient norm before clipping",
        "Speed (tokens per second)",
        "Peak memory (GiB)",
    ];
    for title in titles {
        assert!(page.contains(&format!("<h3>{title}</h3>")), "no chart of {title}");
    }
    assert_eq!(page.matches("<svg").count(), titles.len());
    assert_eq!(page.matches("class=\"dot s-base\"").count(), 12, "six evaluations in two charts");
    for said in [
        "120 &#x2f; 120",
        "43,646,976",
        "30,512",
        "cpu, 2 threads",
        "3.00 GiB",
        "60.0%",
        "All steps are done.",
        "ended: all steps are done",
        "checkpoint-20 written, the best so far",
        "checkpoint-120 written",
        "extra.x",
        "&lt;b&gt;synthetic",
        "Qwen3-0.6B",
        "0.05",
        "q_proj, k_proj",
        "begun to learn its samples by heart",
    ] {
        assert!(page.contains(said), "the page does not say {said}");
    }
    assert!(!page.contains("<b>synthetic") && !page.contains("http") && !page.contains("NaN"));
    run_report(dir.path()).expect("a report may be made again");
    if let Some(keep) = std::env::var_os("IRORI_KEEP_REPORT") {
        std::fs::copy(dir.path().join("report.html"), Path::new(&keep).join("run.html")).expect("kept");
    }
}

/// A log with another name for a field is an error that says the field, never a page that lacks a chart.
#[test]
fn a_field_by_another_name_is_an_error() {
    let dir = run(&[]);
    let path = dir.path().join("metrics.jsonl");
    for record in [&records(6)[0], &records(6)[1], &records(6)[3]] {
        let Value::Object(fields) = serde_json::to_value(record).expect("JSON") else { panic!("an object") };
        for name in fields.keys().filter(|name| *name != "accuracy") {
            let mut renamed = fields.clone();
            let value = renamed.remove(name).expect("a field");
            renamed.insert(format!("{name}_2"), value);
            std::fs::write(&path, format!("{}\n", Value::Object(renamed))).expect("written");
            let e = run_html(dir.path()).expect_err(name).to_string();
            assert!(e.contains("metrics.jsonl: line 1") && e.contains(&format!("`{name}`")), "{e}");
        }
    }
}

#[test]
fn a_run_that_goes_on_has_a_page() {
    let mut records = records(60);
    records.truncate(9);
    let dir = run(&records);
    let log = dir.path().join("metrics.jsonl");
    let mut text = std::fs::read_to_string(&log).expect("read");
    text.push_str("{\"type\":\"step\",\"st");
    std::fs::write(&log, text).expect("written");
    let page = run_html(dir.path()).expect("a page");
    assert!(page.contains("has not ended") && page.contains("8 &#x2f; 60"));
    std::fs::remove_file(dir.path().join(peft::CONFIG)).expect("removed");
    std::fs::remove_file(log).expect("removed");
    assert!(run_html(dir.path()).expect("a page").contains("No step is logged yet"));
}

#[test]
fn broken_files_are_named() {
    let empty = tempfile::tempdir().expect("a directory");
    assert!(run_html(empty.path()).expect_err("empty").to_string().contains("not the output directory of a run"));
    for (file, text, says) in [
        ("metrics.jsonl", "{\n", "line 1: not a record"),
        ("metrics.jsonl", "\n3\n", "line 2: not a record"),
        ("metrics.jsonl", "{\"type\":\"step\",\"step\":1,\"loss\":null}\n", "line 1: not a record"),
        ("metrics.jsonl", "{\"type\":5,\"step\":\"x\"}\n", "line 1: not a record"),
        ("run.toml", "= 3", "run.toml"),
        (peft::CONFIG, "{\"r\": 16}", "base_model_name_or_path"),
    ] {
        let dir = run(&records(6));
        std::fs::write(dir.path().join(file), text).expect("written");
        let e = run_html(dir.path()).expect_err(text).to_string();
        assert!(e.contains(file) && e.contains(says), "{e}");
    }
}
