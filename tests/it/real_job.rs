//! The whole job on the public data set with the real tokenizer: `tests/real_job.sh`, which says what it checks.

use std::{path::Path, process::Command};

#[test]
fn from_140_questions_to_a_comparison() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real_job.sh");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new("bash")
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_irori"))
        .arg(dir.path())
        .output()
        .expect("bash runs the script");
    let [out, err] = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b));
    // A skip must be heard, whatever the test harness does with standard error of a test that passes.
    eprint!("{err}");
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("the real job is done") || err.contains("SKIP:"), "{out}\n{err}");
}
