//! The whole job on the public data set with the real tokenizer: `tests/real_job.sh`, which says what it checks.

use std::{io::Write, path::Path, process::Command};

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
    // Not `eprint!`, which the harness hides of a test that passes: a skip must be seen.
    std::io::stderr().write_all(&output.stderr).expect("written");
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("the real job is done") || err.contains("SKIP:"), "{out}\n{err}");
}
