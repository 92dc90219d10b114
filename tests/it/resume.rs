//! A run that is cut off at any moment ends, after `--resume`, with the bytes of the run that was not. With the real
//! process, real signals and a disk that is really full.

use crate::program::{Ended, IRORI, command, done, finish, irori, last_step, samples, signal, steps, wait_for_step};
use irori::{rng::mix64, train::checkpoint};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Steps of the run that these tests cut off: 12 samples, 4 a step, 8 epochs.
const STEPS: u64 = 24;

/// Arguments of that run. A checkpoint every other step keeps the process in the code that must not be interrupted.
fn arguments(output: &str) -> Vec<&str> {
    let line = "train --model synthetic:tiny --train-file train.jsonl --eval-file eval.jsonl --num-epochs 8 \
                --batch-size 2 --gradient-accumulation-steps 2 --max-seq-length 24 --lora-r 4 --lora-dropout 0.1 \
                --learning-rate 1e-3 --save-steps 2 --save-total-limit 3 --output-dir";
    line.split_whitespace().chain([output]).collect()
}

/// A directory with the data and, in `whole`, the undisturbed run.
fn undisturbed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    samples(&dir.path().join("train.jsonl"), 12, 1);
    samples(&dir.path().join("eval.jsonl"), 3, 2);
    done(dir.path(), &arguments("whole"));
    assert_eq!(last_step(&dir.path().join("whole")), STEPS);
    dir
}

fn start(dir: &Path, args: &[&str]) -> Child {
    let err = fs::OpenOptions::new().create(true).append(true).open(dir.join("stderr")).expect("a file");
    command(dir, args).stdout(Stdio::null()).stderr(err).spawn().expect("the program starts")
}

/// What must be equal, byte for byte or number for number: the adapter, every step once with its loss and gradient norm,
/// the history, and both moments of the last checkpoint.
fn assert_same_run(whole: &Path, other: &Path) {
    let bytes = |dir: &Path, name: &str| fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let last = format!("checkpoint-{STEPS}");
    for name in ["adapter_model.safetensors".into(), format!("{last}/optimizer.safetensors")] {
        assert!(bytes(whole, &name) == bytes(other, &name), "{name} differs in {}", other.display());
    }
    let course = |dir: &Path| -> Vec<[Value; 4]> {
        steps(dir).iter().map(|r| ["step", "loss", "grad_norm", "learning_rate"].map(|k| r[k].clone())).collect()
    };
    assert_eq!(course(whole), course(other));
    let history = |dir: &Path| -> Value {
        serde_json::from_slice::<Value>(&bytes(dir, "trainer_state.json")).expect("JSON")["log_history"].clone()
    };
    assert_eq!(history(whole), history(other));
    let left: Vec<String> = fs::read_dir(other)
        .expect("listed")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains(".tmp"))
        .collect();
    assert!(left.is_empty(), "half-written things are left: {left:?}");
}

/// The names in an output directory that are checkpoints, ascending.
fn checkpoints(output: &Path) -> Vec<PathBuf> {
    checkpoint::list(output).expect("listed").into_iter().map(|(_, dir)| dir).collect()
}

#[test]
fn killed_at_random_moments_then_resumed() {
    let dir = undisturbed();
    let at = dir.path();
    for seed in [3, 4] {
        let name = format!("killed{seed}");
        let output = at.join(&name);
        // Another number of threads in every process: it must not matter.
        let mut threads = ["1", "2"].iter().cycle();
        let mut kills = 0;
        loop {
            let mut args = arguments(&name);
            args.extend(["--resume", "--threads", threads.next().expect("endless")]);
            let mut child = start(at, &args);
            // Up to six steps after those of the last process, and up to 15 ms: within a step, a checkpoint, a rotation.
            let random = mix64(seed << 32 | kills);
            let mark = last_step(&output) + 1 + random % 6;
            if mark <= STEPS {
                wait_for_step(&mut child, &output, mark);
                std::thread::sleep(Duration::from_micros(mix64(random) % 15_000));
                let _ = child.kill();
                kills += 1;
            }
            let status = child.wait().expect("it ends");
            if status.success() {
                break;
            }
            assert_eq!(
                status.code(),
                None,
                "it failed by itself: {}",
                fs::read_to_string(at.join("stderr")).expect("read")
            );
            assert!(kills < 60, "no progress");
        }
        eprintln!("killed {kills} times");
        assert!(kills >= 3, "only {kills} kills");
        assert_same_run(&at.join("whole"), &output);
    }
}

#[test]
fn asked_to_stop_it_finishes_the_step_and_says_where_it_is() {
    let dir = undisturbed();
    let at = dir.path();
    for name in ["TERM", "INT", "HUP"] {
        let output = at.join(name);
        let mut child =
            command(at, &arguments(name)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        wait_for_step(&mut child, &output, 5);
        signal(&child, name);
        let out = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&out.stderr);
        // Not done: a script that goes on to evaluate must not take it for done.
        assert_eq!(out.status.code(), Some(1), "{said}");
        let step = last_step(&output);
        assert!((5..STEPS).contains(&step), "{step}");
        let sentence = format!("interrupted by SIG{name} after step {step} of {STEPS}");
        assert!(said.contains(&format!("error: {sentence}")) && said.contains("--resume"), "{said}");
        assert_eq!(checkpoint::verify(&checkpoint::directory(&output, step)).expect("whole").step, step);
        assert!(!output.join("adapter_model.safetensors").exists(), "there is no result before the end");
        done(at, &[&arguments(name)[..], &["--resume"]].concat());
        assert_same_run(&at.join("whole"), &output);
    }
}

/// Under nohup a run outlives its terminal.
#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    let dir = undisturbed();
    let at = dir.path();
    let output = at.join("nohup");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh", IRORI]).args(arguments("nohup")).current_dir(at);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    wait_for_step(&mut child, &output, 5);
    signal(&child, "HUP");
    assert!(child.wait().expect("it ends").success());
    assert_same_run(&at.join("whole"), &output);
}

/// Cuts, flips and mangles the newest checkpoints one way after another; each time the next older one is taken.
#[test]
fn broken_checkpoints_are_passed_over_aloud() {
    let dir = undisturbed();
    let at = dir.path();
    let output = at.join("broken");
    let mut child = start(at, &arguments("broken"));
    wait_for_step(&mut child, &output, 9);
    let _ = child.kill();
    child.wait().expect("it ends");
    let all = checkpoints(&output);
    assert!(all.len() >= 2, "{all:?}");
    let base = at.join("base");
    copy(&output, &base);

    type Damage = fn(&Path);
    let damages: [(&str, Damage); 8] = [
        ("adapter_model.safetensors", |dir| shorten(&dir.join("adapter_model.safetensors"))),
        ("adapter_model.safetensors", |dir| flip(&dir.join("adapter_model.safetensors"), 4001)),
        ("optimizer.safetensors", |dir| flip(&dir.join("optimizer.safetensors"), 70_003)),
        ("optimizer.safetensors", |dir| fs::remove_file(dir.join("optimizer.safetensors")).expect("removed")),
        ("irori_state.json", |dir| flip(&dir.join("irori_state.json"), 77)),
        ("MANIFEST.json", |dir| shorten(&dir.join("MANIFEST.json"))),
        ("MANIFEST.json", |dir| fs::remove_file(dir.join("MANIFEST.json")).expect("removed")),
        ("MANIFEST.json", |dir| fs::write(dir.join("MANIFEST.json"), b"").expect("written")),
    ];
    for (i, (file, damage)) in damages.iter().enumerate() {
        let name = format!("broken{i}");
        let output = at.join(&name);
        copy(&base, &output);
        let newest = checkpoints(&output).pop().expect("some");
        damage(&newest);
        // A directory that a killed process left half-written is no checkpoint, and is cleared away.
        let torn = output.join("checkpoint-99.tmp-4242");
        fs::create_dir(&torn).expect("made");
        fs::write(torn.join("adapter_model.safetensors"), b"half").expect("written");
        let end = done(at, &[&arguments(&name)[..], &["--resume"]].concat());
        let shown = newest.file_name().expect("a name").to_string_lossy();
        let told = end.stderr.lines().find(|l| l.starts_with("warning:") && l.contains("passed over"));
        assert!(told.is_some_and(|l| l.contains(&*shown) && l.contains(file)), "{file}: {}", end.stderr);
        assert!(end.stderr.contains("checkpoint-99.tmp-4242"), "{}", end.stderr);
        assert_same_run(&at.join("whole"), &output);
    }

    // None whole: nothing is thrown away, nothing is overwritten.
    for dir in checkpoints(&base) {
        shorten(&dir.join("optimizer.safetensors"));
    }
    let end = irori(at, &[&arguments("base")[..], &["--resume"]].concat());
    assert_eq!(end.code, Some(1));
    let error = end.stderr.lines().find(|l| l.starts_with("error: ")).unwrap_or_default();
    assert!(error.contains("cannot resume") && error.contains("base"), "{}", end.stderr);
    assert_eq!(checkpoints(&base).len(), all.len());
}

#[test]
fn another_configuration_or_other_data_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    samples(&at.join("train.jsonl"), 12, 1);
    samples(&at.join("eval.jsonl"), 3, 2);
    let mut child = start(at, &arguments("out"));
    wait_for_step(&mut child, &at.join("out"), 4);
    signal(&child, "TERM");
    child.wait().expect("it ends");
    let again = |extra: &[&str]| irori(at, &[&arguments("out")[..], &["--resume"], extra].concat());
    for (extra, wanted) in [
        (&["--learning-rate", "0.002"][..], "learning-rate was 0.001, is 0.002"),
        (&["--seed", "7"], "seed was 42, is 7"),
        (&["--lora-dropout", "0"], "lora-dropout was 0.1, is 0"),
        (&["--no-4bit"], "use-4bit was true, is false"),
        (&["--head-4bit"], "head-4bit was false, is true"),
        (&["--model", "synthetic:tiny@5"], "base model is not the same"),
    ] {
        // A later flag of the same name would be refused by the parser, so the earlier one goes.
        let mut args = arguments("out");
        if let Some(i) = args.iter().position(|a| extra.first() == Some(a)).filter(|_| extra.len() == 2) {
            args.drain(i..i + 2);
        }
        let end = irori(at, &[&args[..], &["--resume"], extra].concat());
        assert_eq!(end.code, Some(2), "{}", end.stderr);
        assert!(end.stderr.contains(wanted) && end.stderr.contains("--resume-anyway"), "{}", end.stderr);
    }
    let without = irori(at, &arguments("out"));
    assert!(without.code == Some(2) && without.stderr.contains("not empty"), "{}", without.stderr);
    let kept = fs::read(at.join("train.jsonl")).expect("read");
    samples(&at.join("train.jsonl"), 12, 8);
    let end = again(&[]);
    assert_eq!(end.code, Some(2), "{}", end.stderr);
    assert!(end.stderr.contains("training samples are not the same"), "{}", end.stderr);
    fs::write(at.join("train.jsonl"), kept).expect("written");
    let end = again(&["--logging-steps", "2", "--threads", "1"]);
    assert_eq!(end.code, Some(0), "what changes no result may change: {}", end.stderr);
    assert!(!end.stderr.contains("may differ"), "{}", end.stderr);
}

/// Rewrites a file of a checkpoint, and what the manifest says of it.
fn rewrite(checkpoint: &Path, name: &str, edit: impl Fn(&mut Value)) {
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(checkpoint.join(name)).expect("read")).expect("JSON")
    };
    let mut content = read(name);
    edit(&mut content);
    let bytes = content.to_string().into_bytes();
    let mut manifest = read("MANIFEST.json");
    let sha256: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    manifest["files"][name] = serde_json::json!({"bytes": bytes.len(), "sha256": sha256});
    fs::write(checkpoint.join(name), bytes).expect("written");
    fs::write(checkpoint.join("MANIFEST.json"), manifest.to_string()).expect("written");
}

/// A run that a version cut off which had `loss-on-output-only` and no `loss-on` goes on with this one.
#[test]
fn a_run_of_an_earlier_version_is_resumed() {
    let dir = undisturbed();
    let at = dir.path();
    let output = at.join("old");
    let mut child = start(at, &arguments("old"));
    wait_for_step(&mut child, &output, 5);
    signal(&child, "TERM");
    child.wait().expect("it ends");
    for dir in checkpoints(&output) {
        rewrite(&dir, "irori_state.json", |state| {
            let config = state["identity"]["config"].as_object_mut().expect("an object");
            assert_eq!(config.remove("loss-on"), Some("answer".into()));
            config.remove("head-4bit");
            config.insert("loss-on-output-only".into(), true.into());
            state["identity"]["config_hash"] = "of another version".into();
        });
    }
    let again = |extra: &[&str]| irori(at, &[&arguments("old")[..], &["--resume"], extra].concat());
    let end = again(&["--loss-on", "everything"]);
    assert!(end.code == Some(2) && end.stderr.contains(r#"loss-on was "answer", is "everything""#), "{}", end.stderr);
    let end = again(&["--loss-on-output-only"]);
    assert_eq!(end.code, Some(0), "{}", end.stderr);
    assert_same_run(&at.join("whole"), &output);
}

/// A run on a disk that fills up in the middle; then the disk grows and the run goes on.
#[test]
fn a_full_disk_loses_nothing() {
    let dir = undisturbed();
    let at = dir.path();
    // A file system of its own, seen by this script alone. Room for two or three checkpoints of 180 kB at first.
    let train = format!("{IRORI} {}", arguments("full/out").join(" "));
    let script = format!(
        "mkdir full && mount -t tmpfs -o size=700k tmpfs full || exit 77
         {train} --save-total-limit 9 >first.out 2>first.err; echo $? >first.code
         cp -r full/out after
         mount -o remount,size=100m full || exit 78
         {train} --save-total-limit 9 --resume >second.out 2>second.err; echo $? >second.code
         cp -r full/out out"
    )
    .replace("--save-total-limit 3", "");
    let read = |name: &str| fs::read_to_string(at.join(name)).unwrap_or_default();
    let ran = Command::new("unshare").args(["-rm", "sh", "-c", &script]).current_dir(at).output();
    match ran.map(|out| out.status.code()) {
        Ok(Some(0)) => {}
        other => {
            eprintln!("SKIP: no small file system can be mounted here ({other:?}); a limit on file size instead");
            return limited_files(at);
        }
    }
    assert_eq!(read("first.code").trim(), "1", "{}", read("first.err"));
    out_of_space(
        &Ended { code: Some(1), signal: None, stdout: String::new(), stderr: read("first.err") },
        "No space left",
    );
    let whole = checkpoints(&at.join("after"));
    assert!(!whole.is_empty());
    for dir in &whole {
        checkpoint::verify(dir).expect("a checkpoint written before the disk was full is whole");
    }
    assert_eq!(read("second.code").trim(), "0", "{}", read("second.err"));
    assert_same_run(&at.join("whole"), &at.join("out"));
}

/// The same with a file that may not grow: the optimizer's is the largest.
fn limited_files(at: &Path) {
    let train = format!("trap '' XFSZ; ulimit -f 100; exec {IRORI} {}", arguments("out").join(" "));
    let end = finish(Command::new("sh").args(["-c", &train]).current_dir(at));
    out_of_space(&end, "File too large");
    assert!(checkpoints(&at.join("out")).is_empty());
    done(at, &[&arguments("out")[..], &["--resume"]].concat());
    assert_same_run(&at.join("whole"), &at.join("out"));
}

fn out_of_space(end: &Ended, reason: &str) {
    assert_eq!(end.code, Some(1), "{end:?}");
    let told = end.stderr.find("error: ").map(|i| &end.stderr[i..]).unwrap_or_default();
    assert!(told.contains("cannot write ") && told.contains("out/") && told.contains(reason), "{}", end.stderr);
    assert!(!end.stderr.contains("panicked"), "{}", end.stderr);
}

fn shorten(path: &Path) {
    let bytes = fs::read(path).expect("read");
    fs::write(path, &bytes[..bytes.len() * 2 / 3]).expect("written");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("read");
    let at = at % bytes.len();
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("written");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("made");
    for entry in fs::read_dir(from).expect("listed") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("copied");
        }
    }
}
