//! The tables of plans in the documentation are what `irori plan` says.

use serde_json::Value;
use std::{collections::HashMap, path::Path, process::Command};

/// Pages with lines of the table.
const PAGES: [&str; 4] = ["docs/plans.md", "docs/plans.ja.md", "README.md", "README.ja.md"];

/// What a plan counts in a column of its own; the rest is the column after them.
const COLUMNS: [&[&str]; 4] = [
    &["NF4 weights and absmax", "dense weights"],
    &["embedding, head, norms"],
    &["adapter weights", "gradients and moments"],
    &["saved activations"],
];

/// A line of the table: the flags, then GiB of the arena and of its parts, layers by what is kept of them, layers unpacked,
/// GiB in host memory.
fn row(flags: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_irori"));
    let output = command.arg("plan").args(flags.split(' ')).arg("--json").output().unwrap();
    assert!(output.status.success(), "{flags}: {}", String::from_utf8_lossy(&output.stderr));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let bytes = |v: &Value| v.as_u64().unwrap_or_else(|| panic!("{flags}: {v} in {plan}"));
    let total = bytes(&plan["bytes"]);
    // A plan without any bytes of a kind does not list it.
    let items = plan["items"].as_object().unwrap();
    let parts = COLUMNS.map(|kinds| kinds.iter().filter_map(|k| items.get(*k)).map(bytes).sum::<u64>());
    assert!(parts.iter().all(|&p| p > 0), "{flags}: a column of nothing: {parts:?} of {plan}");
    let gib = |bytes: u64| format!("{:.2}", bytes as f64 / (1u64 << 30) as f64);
    let rest = total - parts.iter().sum::<u64>();
    let saved = ["all", "without_gate_up", "input_only"].map(|k| plan["layers_saved"][k].to_string()).join(" / ");
    let cells = std::iter::once(total).chain(parts).chain([rest]).map(gib);
    let cells: Vec<String> =
        cells.chain([saved, plan["layers_unpacked"].to_string(), gib(bytes(&plan["host_bytes"]))]).collect();
    format!("| `{flags}` | {} |", cells.join(" | "))
}

/// Makes the tables anew.
const REGENERATE: &str = "IRORI_WRITE_DOCS=1 cargo test --test it plans";

/// The flags in the pages decide; what stands behind them is what the program says.
#[test]
fn the_plans_in_the_documentation_are_what_the_program_plans() {
    let is_row = |line: &&str| line.starts_with("| `--model ");
    let flags = |line: &str| line.split('`').nth(1).unwrap().to_owned();
    let mut rows: HashMap<String, String> = HashMap::new();
    for name in PAGES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let page = std::fs::read_to_string(&path).unwrap();
        let found = page.lines().filter(is_row).count();
        assert!(found >= if name.starts_with("README") { 3 } else { 6 }, "{name}: few plans were found");
        let mut made = String::new();
        for line in page.lines() {
            let row = if is_row(&line) { rows.entry(flags(line)).or_insert_with_key(|f| row(f)) } else { line };
            made += row;
            made.push('\n');
        }
        if std::env::var_os("IRORI_WRITE_DOCS").is_some() {
            std::fs::write(&path, made).unwrap();
        } else if let Some((old, new)) = page.lines().zip(made.lines()).find(|(old, new)| old != new) {
            panic!("{name}: now\n{new}\nbut there is\n{old}\nMake the tables anew: {REGENERATE}");
        }
    }
}

/// The adapter of this run has 3.7 GB: a process that may not have them is told that the run does not fit.
#[test]
fn nothing_large_is_made_before_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    crate::program::samples(&dir.path().join("t.jsonl"), 8, 1);
    for command in ["train --output-dir out", "plan"] {
        let flags = "--model synthetic:qwen3-32b --lora-r 256 --train-file t.jsonl --device cpu --threads 2 --memory-limit 1GiB";
        let script = format!("ulimit -v 2000000 && exec {} {command} {flags}", env!("CARGO_BIN_EXE_irori"));
        let output = Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(said.contains("this run needs at least"), "{command}: {said}");
        assert!(!dir.path().join("out").exists());
    }
}
