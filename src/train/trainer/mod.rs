//! The loop: step, log, evaluate, checkpoint; and its beginning and end. How it goes on from a checkpoint is in
//! `resume`.
//!
//! What a step does depends on the adapter, the two moments, the step number and the run's identity, all of which a
//! checkpoint holds. That is the whole argument for why a resumed run is bit for bit the undisturbed one, and the tests
//! hold it to that.

mod resume;
mod save;

use super::{
    config::{BestBy, TrainConfig},
    evaluate::{AccuracyHook, Answered, EvalSet, exhausted, judge},
    learner::Learner,
    metrics::{EndReason, Eval, MetricsLog, Record, Start, Step},
    output::{METRICS, OutputDir, RUN_CONFIG, Resume},
    progress::Observer,
    schedule::Schedule,
    state::{Best, RunState, eval_entry, step_entry},
    steps::{StepPlan, micro_batches},
    stop::Stop,
};
use crate::{
    Error, Result,
    backend::AdamW,
    data::Sample,
    error::{ResultExt, Setting},
    files::{Disk, replace},
    rng::Dropout,
};
use resume::{identity_of, restore};
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

/// All that a run is made of.
pub struct Run<'a, L: Learner> {
    /// The resolved configuration.
    pub config: &'a TrainConfig,
    /// Where it writes.
    pub output: &'a OutputDir,
    /// The model. For a fresh run its adapter is as it shall start, its moments are zero.
    pub learner: &'a mut L,
    /// Samples to train on; each has at least one target and at most max-seq-length tokens.
    pub samples: &'a [Sample],
    /// Samples to evaluate on, the same.
    pub eval_samples: Option<&'a [Sample]>,
    /// Counts right answers, if that is wanted at each evaluation.
    pub accuracy: Option<AccuracyHook<'a, L>>,
    /// Fingerprint of the base weights.
    pub base: String,
    /// File operations.
    pub disk: &'a dyn Disk,
    /// Whether the run was asked to end.
    pub stop: &'a Stop,
    /// Receives each logged record, and what the user should read.
    pub observer: &'a mut dyn Observer,
}

/// How a run ended. In every case all that was done is on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Why.
    pub reason: EndReason,
    /// Steps done.
    pub step: u64,
    /// Steps of the whole run.
    pub total: u64,
    /// The best evaluation.
    pub best: Option<Best>,
    /// The name of the signal, if one ended it.
    pub signal: Option<&'static str>,
}

/// Trains: from the first step, or from the checkpoint that `run.output` found.
///
/// # Errors
/// - [`Error::Setting`] if configuration, data or base are not those of the checkpoint;
/// - if loss or gradient norm is not finite, a checkpoint cannot be written, or the device fails. The message names the
///   last whole checkpoint.
pub fn train<L: Learner>(run: Run<'_, L>) -> Result<Outcome> {
    let mut trainer = Trainer::new(run)?;
    trainer.go()
}

struct Trainer<'a, L: Learner> {
    run: Run<'a, L>,
    plan: StepPlan,
    schedule: Schedule,
    eval: Option<EvalSet>,
    state: RunState,
    history: Vec<Map<String, Value>>,
    log: MetricsLog,
    /// Step of the newest whole checkpoint.
    saved: Option<u64>,
    /// Time spent in steps since the last log record.
    busy: Duration,
    /// Rows of that time. Unlike the tally it begins anew in each process.
    busy_tokens: u64,
}

impl<'a, L: Learner> Trainer<'a, L> {
    fn new(mut run: Run<'a, L>) -> Result<Self> {
        let config = run.config;
        let plan = StepPlan::new(config, run.samples.len())?;
        let schedule = config.schedule(plan.total());
        if let Some(n) = run.samples.iter().position(|s| s.targets() == 0) {
            let at = format!("sample {}", n + 1);
            return Err(Error::content(&config.train_file, at, "no token of it carries loss"));
        }
        let eval = run.eval_samples.map(|s| EvalSet::new(config, s)).transpose()?;
        let identity = identity_of(&run);
        let (state, history) = match &run.output.checkpoint {
            None => (RunState::new(identity), Vec::new()),
            Some((step, dir)) => {
                restore(&mut run, identity, *step, dir).with_context(|| format!("resuming from {}", dir.display()))?
            }
        };
        let saved = run.output.checkpoint.as_ref().map(|(step, _)| *step);
        let out = &run.output.path;
        let done = (run.output.resume != Resume::No).then_some(state.step);
        // A resume that found no checkpoint keeps nothing of the log but the right to replace it.
        let keep = if saved.is_some() { done } else { None };
        replace(run.disk, &out.join(RUN_CONFIG), config.to_toml()?.as_bytes())?;
        let log = MetricsLog::open(run.disk, &out.join(METRICS), keep)?;
        Ok(Self { run, plan, schedule, eval, state, history, log, saved, busy: Duration::ZERO, busy_tokens: 0 })
    }

    fn go(&mut self) -> Result<Outcome> {
        self.opening()?;
        let total = self.plan.total();
        loop {
            let finished = self.state.step >= total;
            let early = exhausted(&self.state, self.run.config);
            if finished || early {
                let reason = if finished { EndReason::Finished } else { EndReason::EarlyStopped };
                self.save_once()?;
                self.results()?;
                return self.end(reason, None);
            }
            if let Some(signal) = self.run.stop.requested() {
                if self.state.step > 0 {
                    self.save_once()?;
                }
                return self.end(EndReason::Interrupted, Some(signal));
            }
            self.step().with_context(|| format!("training stopped{}", self.last_good()))?;
        }
    }

    /// The first record of this process.
    fn opening(&mut self) -> Result<()> {
        if let Some((step, dir)) = &self.run.output.checkpoint {
            let checkpoint = name(dir);
            return self.record(Record::Resume { step: *step, checkpoint });
        }
        let samples = self.run.samples;
        self.record(Record::Start(Start {
            step: 0,
            steps: self.plan.total(),
            steps_per_epoch: self.plan.per_epoch(),
            samples: samples.len(),
            tokens: samples.iter().map(|s| s.tokens.len() as u64).sum(),
            targets: samples.iter().map(|s| s.targets() as u64).sum(),
            parameters: self.run.learner.parameters(),
            seed: self.run.config.seed,
            device: self.run.learner.device(),
        }))
    }

    /// One optimizer update and all that is due after it.
    fn step(&mut self) -> Result<()> {
        let step = self.state.step + 1;
        let config = self.run.config;
        let began = Instant::now();
        let batches = micro_batches(self.run.samples, self.plan.samples_of(step), config.token_budget())?;
        let targets: u64 = batches.iter().map(|b| b.target_ids.len() as u64).sum();
        let tokens: u64 = batches.iter().map(|b| b.rows() as u64).sum();
        let rate = self.schedule.rate(step);
        let adamw = adamw(config, rate, step);
        let key = Dropout::key(config.seed, step);
        let learner = &mut *self.run.learner;
        learner.begin_step()?;
        for batch in &batches {
            learner.accumulate(batch, (1.0 / targets as f64) as f32, key)?;
        }
        let stats = learner.finish_step(&adamw)?;
        if !stats.loss_sum.is_finite() || !stats.grad_norm.is_finite() {
            return Err(Error::failed(format!(
                "step {step}: loss {}, gradient norm {}: not finite, so nothing of this step was kept. A lower \
                 `learning-rate` may help",
                stats.loss_sum / targets as f64,
                stats.grad_norm
            )));
        }
        self.busy += began.elapsed();
        self.busy_tokens += tokens;
        self.state.step = step;
        self.state.tokens_seen += tokens;
        self.state.since_log.loss_sum += stats.loss_sum;
        self.state.since_log.targets += targets;
        self.state.since_log.tokens += tokens;
        self.after_step(step, rate, stats.grad_norm)
    }

    /// What is due after a step: the log, an evaluation, a checkpoint.
    fn after_step(&mut self, step: u64, rate: f64, grad_norm: f64) -> Result<()> {
        let config = self.run.config;
        let last = step == self.plan.total();
        if last || step.is_multiple_of(config.logging_steps) {
            self.log_step(rate, grad_norm)?;
        }
        let ends_epoch = self.plan.ends_epoch(step);
        let eval_due = config.eval_steps.map_or(ends_epoch, |n| step.is_multiple_of(n));
        let mut best = false;
        if self.eval.is_some() && (eval_due || last) {
            best = self.evaluate()?;
        }
        if best || last || ends_epoch || step.is_multiple_of(config.save_steps) {
            self.save_once()?;
        }
        Ok(())
    }

    fn log_step(&mut self, rate: f64, grad_norm: f64) -> Result<()> {
        let tally = std::mem::take(&mut self.state.since_log);
        let seconds = std::mem::take(&mut self.busy).as_secs_f64().max(1e-9);
        let step = Step {
            step: self.state.step,
            epoch: self.plan.epoch(self.state.step),
            loss: tally.loss_sum / tally.targets as f64,
            learning_rate: rate,
            grad_norm,
            targets: tally.targets,
            tokens: tally.tokens,
            tokens_per_second: std::mem::take(&mut self.busy_tokens) as f64 / seconds,
            peak_memory_bytes: self.run.learner.peak_memory_bytes(),
        };
        self.history.push(step_entry(&step));
        self.record(Record::Step(step))
    }

    /// Evaluates, remembers the result, and says whether it is the best so far.
    fn evaluate(&mut self) -> Result<bool> {
        let Some(set) = &self.eval else { return Ok(false) };
        let began = Instant::now();
        let loss = set.loss(self.run.learner)?;
        let targets = set.targets;
        let answered = match &mut self.run.accuracy {
            Some(hook) => Some(hook(self.run.learner)?),
            None => None,
        };
        let by = self.run.config.metric_for_best_model;
        let accuracy = answered.map(Answered::accuracy);
        let unknown = answered.map(|a| a.unknown).filter(|n| *n > 0);
        let value = match (by, accuracy) {
            (BestBy::Loss, _) => loss,
            (BestBy::Accuracy, Some(accuracy)) => accuracy,
            (BestBy::Accuracy, None) => {
                let setting = Setting::new("metric-for-best-model", "accuracy");
                return Err(Error::setting(setting, "needs an `eval-file` of multiple-choice questions"));
            }
        };
        let best = judge(&mut self.state, by, value);
        let (step, epoch) = (self.state.step, self.plan.epoch(self.state.step));
        let eval = Eval { step, epoch, loss, targets, accuracy, unknown, seconds: began.elapsed().as_secs_f64(), best };
        self.history.push(eval_entry(&eval));
        self.record(Record::Eval(eval))?;
        Ok(best)
    }

    fn end(&mut self, reason: EndReason, signal: Option<&'static str>) -> Result<Outcome> {
        let (step, total) = (self.state.step, self.plan.total());
        self.record(Record::End { step, epoch: self.plan.epoch(step), reason })?;
        self.log.sync()?;
        Ok(Outcome { reason, step, total, best: self.state.best, signal })
    }

    fn record(&mut self, record: Record) -> Result<()> {
        self.log.write(&record)?;
        self.run.observer.record(&record);
        Ok(())
    }
}

fn name(dir: &std::path::Path) -> String {
    dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn adamw(config: &TrainConfig, rate: f64, step: u64) -> AdamW {
    AdamW {
        lr: rate,
        beta1: config.adam_beta1,
        beta2: config.adam_beta2,
        eps: config.adam_epsilon,
        weight_decay: config.weight_decay,
        step,
        max_norm: (config.max_grad_norm > 0.0).then_some(config.max_grad_norm as f32),
    }
}
