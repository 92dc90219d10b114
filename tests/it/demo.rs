//! `irori demo` as a newcomer runs it: it ends well, shows its commands, and leaves what it promises.

use std::{path::Path, process::Command};

#[test]
fn the_demo_ends_in_a_report() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let output =
        Command::new(env!("CARGO_BIN_EXE_irori")).current_dir(dir.path()).arg("demo").output().expect("irori runs");
    let [out, err] = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b).into_owned());
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    for command in ["dataset", "synth", "plan", "eval", "train", "compare"] {
        assert!(out.contains(&format!("\n$ irori {command} ")), "{command} is not shown:\n{out}");
    }
    // The lesson: what was trained on is known by heart.
    assert!(out.contains("learned the training questions by heart"), "{out}");
    for file in ["report.html", "report-on-train.html", "run/adapter_model.safetensors", "run/metrics.jsonl"] {
        let path = Path::new("irori-demo").join(file);
        assert!(dir.path().join(&path).is_file(), "{} is missing", path.display());
    }
    // Every path that it ends with is there to be opened.
    let named: Vec<_> = out.split_whitespace().filter(|w| w.ends_with(".html")).collect();
    assert!(named.len() >= 2, "{out}");
    for path in named {
        assert!(dir.path().join(path).is_file(), "{path} is named but missing");
    }
}
