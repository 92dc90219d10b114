//! `irori train`: settings in, one run, what it learned out.
//!
//! Exit code 0 means that the run is done (also by early stopping). A run that a signal ended has exit code 1: it is
//! whole on disk, but it is not done, and a script must not go on to evaluate it.

use super::common::{TrainingSetup, note, parse_bytes, set_up_training};
use crate::{
    Error, Result,
    train::{
        Run, Settings, TrainConfig,
        disk::RealDisk,
        labels::Labels,
        learner::Learner,
        metrics::EndReason,
        output::{OutputDir, Resume},
        progress::Console,
        steps::StepPlan,
        stop::Stop,
        train,
        trainer::interrupted,
    },
};
use std::path::PathBuf;

/// Arguments of `irori train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Read settings from this TOML file; keys are the names of the flags, and flags win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Go on from the newest whole checkpoint in --output-dir; start afresh if there is none
    #[arg(long)]
    resume: bool,
    /// The same, even if settings, data or base model have changed
    #[arg(long)]
    resume_anyway: bool,
    /// Accepted and ignored: `irori train` always trains
    #[arg(long, hide = true)]
    do_train: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let file = args.config.as_deref().map(Settings::from_file).transpose()?.unwrap_or_default();
    let config = args.settings.or(file).resolve()?;
    check(&config)?;
    let resume = match (args.resume, args.resume_anyway) {
        (_, true) => Resume::Anyway,
        (true, false) => Resume::Yes,
        (false, false) => Resume::No,
    };
    let output = OutputDir::open(&RealDisk, &config.output_dir, resume, &mut |text| note(text))?;
    let mut setup = set_up_training(&config)?;
    for line in summary(&config, &setup) {
        note(&line);
    }
    let total = StepPlan::new(&config, setup.samples.len())?.total();
    let stop = Stop::install()?;
    let outcome = train(Run {
        config: &config,
        output: &output,
        learner: &mut setup.learner,
        samples: &setup.samples,
        eval_samples: setup.eval_samples.as_deref(),
        accuracy: None,
        base: setup.base,
        disk: &RealDisk,
        stop: &stop,
        observer: &mut Console::new(total),
    })?;
    if outcome.reason == EndReason::Interrupted {
        return Err(interrupted(&outcome, &output));
    }
    // The report of the run (report.html) is made here, from metrics.jsonl and trainer_state.json.
    super::print(&format!("{}\n", output.path.display()))
}

/// What can be known to be wrong before anything is opened.
fn check(config: &TrainConfig) -> Result<()> {
    if let Some(limit) = &config.memory_limit {
        parse_bytes(limit).map_err(|e| Error::usage(format!("--memory-limit: {e}")))?;
    }
    for file in [Some(&config.train_file), config.eval_file.as_ref()].into_iter().flatten() {
        std::fs::File::open(file).map_err(Error::io("open", file))?;
    }
    Ok(())
}

/// What is trained on, for the user to look at before it starts.
fn summary(config: &TrainConfig, setup: &TrainingSetup) -> Vec<String> {
    let tokens: usize = setup.samples.iter().map(|s| s.tokens.len()).sum();
    let targets: usize = setup.samples.iter().map(|s| s.targets()).sum();
    let n = setup.samples.len().max(1);
    let mut lines = vec![format!(
        "{}: {} samples, {tokens} tokens ({} on average), loss on {targets} of them",
        config.train_file.display(),
        setup.samples.len(),
        tokens / n
    )];
    if setup.truncated > 0 {
        lines.push(format!("{} samples are cut to --max-seq-length {}", setup.truncated, config.max_seq_length));
    }
    if setup.dropped > 0 {
        lines.push(format!("warning: {} samples dropped: nothing that carries loss was left of them", setup.dropped));
    }
    let labels = Labels::count(setup.answers.iter().copied());
    lines.extend(labels.line().map(|l| format!("answers: {l}")));
    lines.extend(labels.warning());
    lines.extend(setup.plan.iter().cloned());
    lines.push(format!("{} parameters are trained: {}", setup.learner.parameters(), config.target_modules.join(", ")));
    lines
}
