//! `irori train`: settings in, one run, what it learned out.
//!
//! Exit code 0 means that the run is done (also by early stopping). A run that a signal ended has exit code 1: it is
//! whole on disk, but it is not done, and a script must not go on to evaluate it.

use super::{
    common::{Terminal, note},
    errors::with_flags,
    flags::Flags,
};
use crate::{
    Error, Result,
    data::balance,
    eval::accuracy::accuracy,
    files::RealDisk,
    plan::Plan,
    report,
    run::training::{self, Prepared},
    settings::Group,
    train::{
        Run, Settings, TrainConfig, checkpoint,
        evaluate::AccuracyHook,
        learner::EngineLearner,
        metrics::EndReason,
        output::{OutputDir, Resume},
        progress::Console,
        steps::StepPlan,
        stop::Stop,
        train,
        trainer::Outcome,
    },
};
use std::path::PathBuf;

/// Arguments of `irori train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: Flags<Settings>,
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
    let mut terminal = Terminal::default();
    let config = training::decide(args.settings.0.over(file), &mut terminal)?;
    let resume = match (args.resume, args.resume_anyway) {
        (_, true) => Resume::Anyway,
        (true, false) => Resume::Yes,
        (false, false) => Resume::No,
    };
    let prepared = training::prepare(&config, &mut terminal)?;
    let output = OutputDir::open(&RealDisk, &config.output_dir, resume, &mut |text| note(&with_flags(text)))?;
    for line in summary(&config, &prepared) {
        note(&line);
    }
    let total = StepPlan::new(&config, prepared.inputs.train.samples.len())?.total();
    let stop = Stop::install()?;
    let (inputs, mut learner) = prepared.load(&config.base.model, &mut terminal)?;
    let accuracy: Option<AccuracyHook<EngineLearner>> = match inputs.questions.as_slice() {
        [] => None,
        questions => Some(Box::new(move |learner| accuracy(learner.engine(), questions))),
    };
    let outcome = train(Run {
        config: &config,
        output: &output,
        learner: &mut learner,
        samples: &inputs.train.samples,
        eval_samples: inputs.eval.as_ref().map(|e| e.samples.as_slice()),
        accuracy,
        base: inputs.provenance.base.fingerprint.clone(),
        disk: &RealDisk,
        stop: &stop,
        observer: &mut Console::new(total),
    })?;
    if outcome.reason == EndReason::Interrupted {
        return Err(interrupted(&outcome, &output));
    }
    report::run_report(&output.path)?;
    super::print(&format!("{}\n", output.path.display()))
}

/// The error of a run that a signal ended.
fn interrupted(outcome: &Outcome, output: &OutputDir) -> Error {
    let signal = outcome.signal.unwrap_or("a signal");
    let place = checkpoint::directory(&output.path, outcome.step);
    Error::failed(match outcome.step {
        0 => format!("interrupted by {signal} before the first step"),
        step => format!(
            "interrupted by {signal} after step {step} of {}; {} is written: the same command with --resume goes on",
            outcome.total,
            place.display()
        ),
    })
}

/// What is trained on, for the user to look at before it starts.
fn summary(config: &TrainConfig, prepared: &Prepared) -> Vec<String> {
    let report = &prepared.inputs.train.report;
    let mut lines = vec![format!(
        "{}: {} samples, {} tokens ({} on average), loss on {} of them",
        config.train_file.display(),
        report.samples,
        report.tokens,
        report.tokens / report.samples.max(1),
        report.targets
    )];
    if report.truncated > 0 {
        lines.push(format!(
            "{} samples are cut to --max-seq-length {} ({} prompt tokens lost; the answers are whole)",
            report.truncated, config.max_seq_length, report.cut_tokens
        ));
    }
    if !report.dropped.is_empty() {
        lines.push(format!(
            "warning: {} samples dropped, nothing that carries loss was left of them (lines {})",
            report.dropped.len(),
            some(&report.dropped)
        ));
    }
    lines.extend(report.answers.line().map(|l| format!("answers: {l}")));
    lines.extend(balance::warning(&report.answers).map(|text| {
        format!("warning: the answers are unbalanced: {text}; `irori dataset --permute-choices cyclic` balances them")
    }));
    lines.extend(plan_lines(&prepared.plan));
    lines.push(format!("{} parameters are trained: {}", prepared.parameters(), prepared.inputs.lora.targets));
    lines
}

/// A plan in lines to print.
fn plan_lines(plan: &Plan) -> Vec<String> {
    let gib = |b: usize| b as f64 / (1u64 << 30) as f64;
    let items: Vec<String> = plan
        .items
        .iter()
        .filter(|(_, bytes)| *bytes >= 1 << 20)
        .map(|(kind, bytes)| format!("{} {:.2}", kind.label(), gib(*bytes)))
        .collect();
    let [all, no_gate_up, input_only] = plan.saved_counts();
    let mut lines = vec![format!("memory: {:.2} GiB ({})", gib(plan.bytes), items.join(", "))];
    if plan.host_bytes > 0 {
        lines.push(format!("the embedding lies in host memory: {:.2} GiB", gib(plan.host_bytes)));
    }
    if no_gate_up + input_only > 0 {
        lines.push(format!(
            "to fit, {input_only} layers are recomputed in the backward pass and {no_gate_up} in part; {all} are kept whole"
        ));
    }
    lines
}

/// The first few of many numbers.
fn some(lines: &[usize]) -> String {
    let shown: Vec<String> = lines.iter().take(8).map(usize::to_string).collect();
    if lines.len() > shown.len() { shown.join(", ") + ", …" } else { shown.join(", ") }
}
