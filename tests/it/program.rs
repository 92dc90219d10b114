//! The program as a process: started, watched, signalled, killed. And the small files that it reads.

use irori::rng::mix64;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The program under test.
pub const IRORI: &str = env!("CARGO_BIN_EXE_irori");

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A command in `dir`, without standard input.
pub fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(IRORI);
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Ended {
    let out = command.output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: out.status.code(), signal: out.status.signal(), stdout: text(&out.stdout), stderr: text(&out.stderr) }
}

/// Runs `irori ARGS` in `dir`.
pub fn irori(dir: &Path, args: &[&str]) -> Ended {
    finish(&mut command(dir, args))
}

/// Runs `irori ARGS` in `dir`, which must succeed.
pub fn done(dir: &Path, args: &[&str]) -> Ended {
    let end = irori(dir, args);
    assert_eq!(end.code, Some(0), "irori {}: {end:?}", args.join(" "));
    end
}

/// Sends a signal by name ("TERM").
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status();
    assert!(sent.expect("sh is there").success());
}

/// The records of a metrics log, whole lines only. A log that is not there yet has none.
pub fn metrics(output: &Path) -> Vec<Value> {
    let text = fs::read_to_string(output.join("metrics.jsonl")).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
    whole.map(|l| serde_json::from_str(l).expect("a line of the log is JSON")).collect()
}

/// The step records of a log.
pub fn steps(output: &Path) -> Vec<Value> {
    metrics(output).into_iter().filter(|r| r["type"] == "step").collect()
}

/// The last step that a log tells of; 0 without one.
pub fn last_step(output: &Path) -> u64 {
    steps(output).last().and_then(|r| r["step"].as_u64()).unwrap_or(0)
}

/// Waits until the log of a running process has reached `step`, or the process has ended.
pub fn wait_for_step(child: &mut Child, output: &Path, step: u64) {
    let patience = Instant::now() + Duration::from_secs(120);
    while last_step(output) < step && child.try_wait().expect("a child of ours").is_none() {
        assert!(Instant::now() < patience, "no step {step} in two minutes");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Pretokenised samples of 4 to 24 tokens below 512; loss on the last third of each.
pub fn samples(path: &Path, count: u64, seed: u64) -> PathBuf {
    let mut text = String::new();
    for sample in 0..count {
        let random = |i: u64| mix64(seed ^ mix64(sample << 32 | i));
        let len = 4 + random(99) % 21;
        let ids: Vec<u64> = (0..len).map(|i| random(i) % 512).collect();
        let labels: Vec<i64> =
            ids.iter().zip(0..).map(|(&id, i)| if 3 * i < 2 * len { -100 } else { id as i64 }).collect();
        text += &format!("{}\n", json!({"input_ids": ids, "labels": labels}));
    }
    fs::write(path, text).expect("written");
    path.to_path_buf()
}
