//! Checkpoints are whole or not there, whatever happens to the process, the disk, or a file of them.

use super::case::{Case, undisturbed};
use crate::{
    files::{
        RealDisk,
        faulty::{Fault, Faulty},
    },
    model::peft,
    train::{
        checkpoint::{self, MANIFEST},
        output::Resume,
        state::TRAINER_STATE,
    },
};
use std::{fs, path::Path};

/// Operations that a whole run makes.
fn operations(text: &str) -> u64 {
    let disk = Faulty::new(u64::MAX, Fault::Kill);
    Case::new(text).go(&disk, Resume::No).unwrap();
    disk.count()
}

#[test]
fn killed_at_any_file_operation_nothing_is_lost() {
    let text = "save-steps = 2\nsave-total-limit = 2\neval-file = \"e\"";
    let want = undisturbed(text);
    let n = operations(text);
    assert!(n > 60, "{n}");
    for at in 0..n {
        let mut case = Case::new(text);
        case.go(&Faulty::new(at, Fault::Kill), Resume::No).unwrap_err();
        case.all_whole();
        let before = case.checkpoints().last().copied().unwrap_or(0);
        let outcome = case.resume().unwrap_or_else(|e| panic!("killed at operation {at}: {e}"));
        assert_eq!((outcome.step, case.learner.finished), (9, 9 - before), "killed at operation {at}");
        assert!(case.traces() == want, "killed at operation {at}");
        assert!(case.names().iter().all(|n| !n.contains(".tmp-")), "{:?}", case.names());
    }
}

#[test]
fn a_full_disk_at_any_file_operation_stops_the_run_and_loses_nothing() {
    let text = "save-steps = 2\nsave-total-limit = 2\neval-file = \"e\"";
    let want = undisturbed(text);
    for at in 0..operations(text) {
        let mut case = Case::new(text);
        let e = case.go(&Faulty::new(at, Fault::Full), Resume::No).unwrap_err();
        assert_eq!(e.exit_code(), 1);
        let mut text = String::new();
        let mut cause: Option<&dyn std::error::Error> = Some(&e);
        while let Some(c) = cause {
            text.push_str(&format!("{c}\n"));
            cause = c.source();
        }
        assert!(text.contains(&case.out().display().to_string()), "{text}");
        case.all_whole();
        // A removal that failed leaves a name that is no checkpoint's; everything else cleans up after itself.
        let left: Vec<_> = case.names().into_iter().filter(|n| n.contains(".tmp-") && !n.contains(".old.")).collect();
        assert!(left.is_empty(), "operation {at}: {left:?}");
        let before = case.checkpoints().last().copied().unwrap_or(0);
        // A checkpoint whose directory entry could not be synced may be there, but is not promised.
        let entry = text.contains(&format!("cannot write {}\n", case.out().display()));
        if before > 0 && !entry && !text.contains("save-total-limit") && case.learner.finished < 9 {
            assert!(text.contains(&format!("checkpoint-{before}")), "operation {at}: {text}");
        }
        case.resume().unwrap();
        assert!(case.traces() == want, "operation {at}");
    }
}

/// A run with checkpoints 3, 6 and 9, its results removed.
fn cut_off() -> Case {
    let mut case = Case::new("");
    case.go(&RealDisk, Resume::No).unwrap();
    for name in [peft::CONFIG, peft::WEIGHTS, TRAINER_STATE] {
        fs::remove_file(case.out().join(name)).unwrap();
    }
    case
}

#[test]
fn broken_checkpoints_are_passed_over_aloud() {
    let want = undisturbed("");
    let files = [peft::CONFIG, peft::WEIGHTS, TRAINER_STATE, "optimizer.safetensors", "irori_state.json", MANIFEST];
    type Harm = fn(&Path);
    let damage: [(&str, Harm); 4] = [
        ("cut short", |p| fs::write(p, &fs::read(p).unwrap()[..1]).unwrap()),
        ("empty", |p| fs::write(p, "").unwrap()),
        ("missing", |p| fs::remove_file(p).unwrap()),
        ("one bit", |p| {
            let mut bytes = fs::read(p).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::write(p, bytes).unwrap();
        }),
    ];
    for file in files {
        for (what, harm) in damage {
            let mut case = cut_off();
            harm(&case.out().join("checkpoint-9").join(file));
            case.resume().unwrap_or_else(|e| panic!("{file} {what}: {e}"));
            let said = case.recorder.notes.join("\n");
            assert!(said.contains("checkpoint-9") && said.contains("passed over"), "{file} {what}: {said}");
            assert_eq!(case.learner.finished, 3, "{file} {what}");
            assert!(case.traces() == want, "{file} {what}");
            case.all_whole();
        }
    }
}

#[test]
fn every_single_bit_of_a_manifest_counts_or_is_harmless() {
    let case = cut_off();
    let path = case.out().join("checkpoint-9").join(MANIFEST);
    let good = fs::read(&path).unwrap();
    let whole = checkpoint::verify(path.parent().unwrap()).unwrap();
    for bit in (0..good.len() * 8).step_by(3) {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        if let Ok(read) = checkpoint::verify(path.parent().unwrap()) {
            assert_eq!(read, whole, "bit {bit}");
        }
    }
}

#[test]
fn two_broken_ones_fall_back_to_the_third_and_none_whole_is_an_error() {
    let mut case = cut_off();
    let manifest = |case: &Case, n: u64| checkpoint::directory(case.out(), n).join(MANIFEST);
    fs::remove_file(manifest(&case, 9)).unwrap();
    fs::remove_file(manifest(&case, 6)).unwrap();
    case.resume().unwrap();
    assert_eq!(case.learner.finished, 6);
    let mut case = cut_off();
    for n in [3, 6, 9] {
        fs::remove_file(manifest(&case, n)).unwrap();
    }
    let e = case.resume().unwrap_err();
    assert!(e.to_string().contains("none of the 3 checkpoints"), "{e}");
    assert_eq!(case.recorder.notes.len(), 3);
}

#[test]
fn a_changed_run_is_refused_by_name_unless_told() {
    let mut case = cut_off();
    case.config.learning_rate = 0.5;
    case.samples[3].labels[2] = 1;
    case.base = "another".into();
    let e = case.resume().unwrap_err();
    assert_eq!(e.exit_code(), 2);
    let text = format!("{}: {}", e, std::error::Error::source(&e).unwrap());
    for want in ["learning-rate was 0.05, is 0.5", "training samples", "base model", "`resume-anyway`", "checkpoint-9"]
    {
        assert!(text.contains(want), "{text}");
    }
    case.reborn();
    case.go(&RealDisk, Resume::Anyway).unwrap();
    assert!(case.recorder.notes.iter().any(|n| n.contains("learning-rate")), "{:?}", case.recorder.notes);
    // What does not decide the course of training may change freely.
    let mut case = cut_off();
    (case.config.logging_steps, case.config.save_steps, case.config.save_total_limit) = (2, 1, Some(3));
    case.resume().unwrap();
}
