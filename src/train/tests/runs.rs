//! Whole runs: what they leave, how they end, how they go on.

use super::case::{Case, log, undisturbed};
use crate::{
    files::{
        RealDisk,
        faulty::{Fault, Faulty},
    },
    model::peft,
    train::{
        checkpoint,
        metrics::{EndReason, Record},
        output::{METRICS, OutputDir, RUN_CONFIG, Resume},
        provenance::PROVENANCE,
        state::{RunState, TRAINER_STATE},
    },
};
use std::fs;

#[test]
fn it_learns_and_leaves_what_it_should() {
    let mut case = Case::new("save-total-limit = 2");
    case.go(&RealDisk, Resume::No).unwrap();
    assert_eq!(
        case.names(),
        [peft::CONFIG, peft::WEIGHTS, "checkpoint-6", "checkpoint-9", METRICS, "run.toml", TRAINER_STATE]
    );
    let steps: Vec<_> =
        log(case.out()).into_iter().filter_map(|r| if let Record::Step(s) = r { Some(s) } else { None }).collect();
    assert_eq!(steps.len(), 9);
    assert!(steps[8].loss < steps[0].loss);
    assert_eq!(steps[0].learning_rate, 0.0); // warm-up of ⌈0.27⌉ steps
    assert_eq!(
        steps.iter().map(|s| s.tokens).sum::<u64>(),
        3 * case.samples.iter().map(|s| s.tokens.len() as u64).sum::<u64>()
    );
    assert_eq!(
        steps.iter().map(|s| s.targets).sum::<u64>(),
        3 * case.samples.iter().map(|s| s.targets() as u64).sum::<u64>()
    );
    let state: serde_json::Value = serde_json::from_slice(&fs::read(case.out().join(TRAINER_STATE)).unwrap()).unwrap();
    assert_eq!(
        (state["global_step"].as_u64(), state["max_steps"].as_u64(), state["epoch"].as_f64()),
        (Some(9), Some(9), Some(3.0))
    );
    assert_eq!(state["log_history"].as_array().unwrap().len(), 9);
}

#[test]
fn a_signal_ends_after_the_step_and_resume_is_bit_identical() {
    for text in
        ["", "logging-steps = 1\neval-file = \"e\"\neval-steps = 2\ndata-order = \"sequential\"\nweight-decay = 0.1"]
    {
        let want = undisturbed(text);
        for k in 1..9 {
            let mut case = Case::new(text);
            case.recorder.stop_after = Some(k);
            let outcome = case.go(&RealDisk, Resume::No).unwrap();
            assert_eq!((outcome.reason, outcome.step, outcome.signal), (EndReason::Interrupted, k, Some("SIGTERM")));
            assert_eq!(case.checkpoints().last(), Some(&k));
            assert!(!case.out().join(peft::WEIGHTS).exists());
            assert_eq!(case.resume().unwrap().step, 9);
            assert_eq!(case.learner.finished, 9 - k);
            assert!(case.traces() == want, "{text}: stopped after {k}");
        }
    }
}

#[test]
fn a_log_interval_cut_in_two_is_one_interval() {
    let want = undisturbed("logging-steps = 4\nsave-steps = 1");
    let mut case = Case::new("logging-steps = 4\nsave-steps = 1");
    let _ = case.go(&Faulty::new(80, Fault::Kill), Resume::No).unwrap_err();
    let last = *case.checkpoints().last().unwrap();
    assert!(!last.is_multiple_of(4), "the kill must fall inside an interval, not after {last}");
    case.resume().unwrap();
    assert!(case.traces() == want);
}

#[test]
fn a_finished_run_resumes_to_itself() {
    let mut case = Case::new("");
    case.go(&RealDisk, Resume::No).unwrap();
    let before = case.traces();
    case.resume().unwrap();
    assert_eq!(case.learner.finished, 0);
    assert!(case.traces() == before);
    assert_eq!(log(case.out()).iter().filter(|r| matches!(r, Record::End { .. })).count(), 1);
}

#[test]
fn an_output_directory_with_anything_in_it_is_refused() {
    let mut case = Case::new("");
    fs::create_dir_all(case.out()).unwrap();
    fs::write(case.out().join("thesis.txt"), "years of work").unwrap();
    let e = case.go(&RealDisk, Resume::No).unwrap_err();
    assert!(e.exit_code() == 2 && e.to_string().contains("thesis.txt") && e.to_string().contains("`resume`"), "{e}");
    case.resume().unwrap();
    assert!(case.recorder.notes[0].contains("nothing to resume"));
    assert_eq!(fs::read_to_string(case.out().join("thesis.txt")).unwrap(), "years of work");

    let mut case = Case::new("");
    fs::create_dir_all(case.out()).unwrap();
    fs::write(case.out().join(peft::WEIGHTS), "someone's adapter").unwrap();
    let e = case.resume().unwrap_err();
    assert!(e.to_string().contains("`init-adapter = "), "{e}");
}

/// What has the name of a file of a run is not always one.
#[test]
fn files_that_are_no_runs_are_not_overwritten() {
    let others: [(&str, &str); 8] = [
        (METRICS, "{\"loss\": 3}\n"),
        (METRICS, "my notes"),
        (RUN_CONFIG, "learning-rate = 0.1\n"),
        (RUN_CONFIG, ""),
        ("report.html", "<h1>my report</h1>"),
        (peft::CONFIG, "{}"),
        (PROVENANCE, "{}"),
        (TRAINER_STATE, "{}"),
    ];
    for (name, text) in others {
        for resume in [Resume::Yes, Resume::Anyway] {
            let mut case = Case::new("");
            fs::create_dir_all(case.out()).unwrap();
            fs::write(case.out().join(name), text).unwrap();
            fs::write(case.out().join("run.toml.tmp-1"), "a run's, or is it").unwrap();
            let e = case.go(&RealDisk, resume).unwrap_err();
            assert!(e.exit_code() == 2 && e.to_string().contains(name), "{name}: {e}");
            assert_eq!(fs::read_to_string(case.out().join(name)).unwrap(), text);
            assert_eq!(case.names().len(), 2, "nothing else is made or removed: {:?}", case.names());
        }
    }
    // What a run has written when it dies before its first checkpoint is begun anew; once somebody changed it, it is theirs.
    let mut case = Case::new("");
    case.go(&RealDisk, Resume::No).unwrap();
    let out = case.out().to_path_buf();
    for step in case.checkpoints() {
        fs::remove_dir_all(checkpoint::directory(&out, step)).unwrap();
    }
    for name in [peft::WEIGHTS, peft::CONFIG, TRAINER_STATE] {
        fs::remove_file(out.join(name)).unwrap();
    }
    let config = fs::read_to_string(out.join(RUN_CONFIG)).unwrap();
    fs::write(out.join(RUN_CONFIG), format!("{config}# mine\n")).unwrap();
    assert_eq!(case.resume().unwrap_err().exit_code(), 2);
    fs::write(out.join(RUN_CONFIG), config).unwrap();
    case.resume().unwrap();
    assert_eq!(case.learner.finished, 9);
}

#[test]
fn two_runs_do_not_share_a_directory() {
    let mut case = Case::new("");
    let held = OutputDir::open(&RealDisk, case.out(), Resume::No, &mut |_| ()).unwrap();
    let e = case.go(&RealDisk, Resume::No).unwrap_err();
    assert!(e.to_string().contains("another irori"), "{e}");
    drop(held);
    case.go(&RealDisk, Resume::No).unwrap();
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint() {
    let mut case = Case::new("");
    case.learner.nan_at = Some(5);
    let e = case.go(&RealDisk, Resume::No).unwrap_err();
    let text = format!("{e}: {}", std::error::Error::source(&e).unwrap());
    assert!(text.contains("checkpoint-3") && text.contains("step 5") && text.contains("NaN"), "{text}");
    assert_eq!(case.checkpoints(), [3]);
    assert!(!case.out().join(peft::WEIGHTS).exists());
}

#[test]
fn the_best_is_kept_and_patience_ends_the_run() {
    let text = "eval-file = \"e\"\neval-steps = 1\nsave-total-limit = 1\nearly-stopping-patience = 3\nload-best-model-at-end = true";
    let mut case = Case::new(text);
    case.learner.scripted = vec![5.0, 4.0, 4.5, 4.0, 4.2, 1.0];
    let outcome = case.go(&RealDisk, Resume::No).unwrap();
    assert_eq!((outcome.reason, outcome.step), (EndReason::EarlyStopped, 5));
    assert_eq!(outcome.best.map(|b| (b.step, b.value)), Some((2, 4.0)));
    assert_eq!(case.checkpoints(), [2, 5]);
    let best = fs::read(case.out().join("checkpoint-2").join(peft::WEIGHTS)).unwrap();
    assert_eq!(fs::read(case.out().join(peft::WEIGHTS)).unwrap(), best);
    let state = RunState::read(&case.out().join("checkpoint-5")).unwrap();
    assert_eq!((state.stale_evals, state.best.unwrap().step), (3, 2));
    // Resumed, it knows that it had given up.
    let again = case.resume().unwrap();
    assert_eq!((again.reason, again.step, case.learner.finished), (EndReason::EarlyStopped, 5, 0));
    assert_eq!(fs::read(case.out().join(peft::WEIGHTS)).unwrap(), best);
}

#[test]
fn fewer_rows_a_pass_give_the_same_steps_but_for_rounding() {
    let losses = |settings: &str| {
        let mut case = Case::new(settings);
        case.go(&RealDisk, Resume::No).unwrap();
        (case.config.token_budget(), case.learner.w)
    };
    let (whole, of_whole) = losses("");
    let (part, of_part) = losses("micro-batch-rows = 16");
    assert!(part < whole);
    for (a, b) in of_whole.iter().zip(of_part) {
        assert!((a - b).abs() < 1e-5, "{of_whole:?} and {of_part:?}");
    }
}

#[test]
fn a_sample_without_a_target_is_refused() {
    let mut case = Case::new("");
    case.samples[4].labels.fill(-100);
    let e = case.go(&RealDisk, Resume::No).unwrap_err();
    assert!(e.to_string().contains("sample 5"), "{e}");
}
