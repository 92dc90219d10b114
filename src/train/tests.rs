//! The trainer on a model small enough to run thousands of times: a parabola with dropout. What holds for it holds for
//! any [`Learner`] whose state is its adapter and moments.

use super::{
    checkpoint::{self, MANIFEST},
    config::TrainConfig,
    learner::{Learner, NamedFile},
    metrics::{EndReason, Record},
    output::{METRICS, OutputDir, Resume},
    progress::Observer,
    settings::Settings,
    state::{RunState, TRAINER_STATE},
    steps::{StepPlan, micro_batches},
    stop::Stop,
    trainer::{Outcome, Run, train},
};
use crate::{
    Error, Result,
    backend::AdamW,
    data::{MicroBatch, Sample, order::DataOrder},
    files::{
        Disk, RealDisk,
        faulty::{Fault, Faulty},
    },
    model::{engine::StepStats, peft},
    rng::philox4x32,
    settings::Group,
};
use std::{collections::BTreeMap, fs, path::Path};

const N: usize = 6;

/// −ln p of a target is half the squared distance of the weights from a point that the target's token decides.
#[derive(Clone, Default)]
struct Parabola {
    w: [f32; N],
    m: [f32; N],
    v: [f32; N],
    g: [f32; N],
    loss: f64,
    finished: u64,
    /// The loss of this step is NaN.
    nan_at: Option<u64>,
    /// Evaluation losses, instead of the real ones.
    scripted: Vec<f64>,
}

fn centre(token: u32, j: usize) -> f32 {
    ((token as usize * 31 + j * 17) % 13) as f32 / 13.0
}

impl Parabola {
    fn distance(&self, token: u32) -> f64 {
        (0..N).map(|j| 0.5 * f64::from(self.w[j] - centre(token, j)).powi(2)).sum()
    }
}

impl Learner for Parabola {
    fn begin_step(&mut self) -> Result<()> {
        (self.g, self.loss) = ([0.0; N], 0.0);
        Ok(())
    }

    fn accumulate(&mut self, batch: &MicroBatch, grad_scale: f32, dropout_key: u64) -> Result<()> {
        for (&row, &token) in batch.target_rows.iter().zip(&batch.target_ids) {
            let (sample, position) = (batch.samples[row as usize], batch.positions[row as usize]);
            let bits = philox4x32([position, sample, 0, 0], [dropout_key as u32, (dropout_key >> 32) as u32]);
            self.loss += self.distance(token);
            for j in 0..N {
                if bits[j % 4] >> j & 1 == 1 {
                    self.g[j] += (self.w[j] - centre(token, j)) * grad_scale;
                }
            }
        }
        Ok(())
    }

    fn finish_step(&mut self, p: &AdamW) -> Result<StepStats> {
        self.finished += 1;
        let norm = self.g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        if self.nan_at == Some(p.step) {
            return Ok(StepStats { loss_sum: f64::NAN, grad_norm: norm });
        }
        let clip = p.max_norm.map_or(1.0, |max| (max / (norm as f32 + 1e-6)).min(1.0));
        let f = p.factors();
        for j in 0..N {
            let g = self.g[j] * clip;
            self.w[j] *= f.keep;
            self.m[j] += f.one_minus_beta1 * (g - self.m[j]);
            self.v[j] = self.v[j] * f.beta2 + f.one_minus_beta2 * g * g;
            self.w[j] -= f.step_size * self.m[j] / (self.v[j].sqrt() / f.correction2 + f.eps);
        }
        Ok(StepStats { loss_sum: self.loss, grad_norm: norm })
    }

    fn loss(&mut self, batch: &MicroBatch) -> Result<f64> {
        if !self.scripted.is_empty() {
            return Ok(self.scripted.remove(0) * batch.target_ids.len() as f64);
        }
        Ok(batch.target_ids.iter().map(|&t| self.distance(t)).sum())
    }

    fn parameters(&self) -> usize {
        N
    }

    fn moments(&mut self) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok((self.m.to_vec(), self.v.to_vec()))
    }

    fn set_moments(&mut self, m: &[f32], v: &[f32]) -> Result<()> {
        self.m.copy_from_slice(m);
        self.v.copy_from_slice(v);
        Ok(())
    }

    fn adapter_files(&mut self) -> Result<Vec<NamedFile>> {
        let weights = bytemuck::cast_slice::<f32, u8>(&self.w).to_vec();
        Ok(vec![NamedFile::new(peft::CONFIG, "{}"), NamedFile::new(peft::WEIGHTS, weights)])
    }

    fn load_adapter(&mut self, dir: &Path) -> Result<()> {
        let bytes = fs::read(dir.join(peft::WEIGHTS)).map_err(Error::io("read", dir))?;
        self.w.copy_from_slice(&bytemuck::pod_collect_to_vec::<u8, f32>(&bytes));
        Ok(())
    }

    fn peak_memory_bytes(&self) -> u64 {
        1
    }

    fn device(&self) -> String {
        "parabola".into()
    }
}

#[derive(Default)]
struct Ears {
    records: Vec<Record>,
    notes: Vec<String>,
    /// Ask to stop when this step is logged.
    stop_after: Option<u64>,
    stop: Stop,
}

impl Observer for Ears {
    fn record(&mut self, record: &Record) {
        if matches!(record, Record::Step(s) if Some(s.step) == self.stop_after) {
            self.stop.request(15);
        }
        self.records.push(record.clone());
    }
    fn note(&mut self, text: &str) {
        self.notes.push(text.into());
    }
}

/// A run in a directory of its own.
struct Case {
    _tmp: tempfile::TempDir,
    config: TrainConfig,
    samples: Vec<Sample>,
    eval: Option<Vec<Sample>>,
    base: String,
    learner: Parabola,
    ears: Ears,
}

fn sample(tokens: &[u32]) -> Sample {
    let labels = tokens.iter().enumerate().map(|(i, &t)| if i < 2 { -100 } else { t as i32 }).collect();
    Sample { tokens: tokens.to_vec(), labels }
}

impl Case {
    /// Eleven samples of unequal length in steps of four: three steps an epoch, nine in all.
    fn new(text: &str) -> Self {
        // In memory where there is such a place: thousands of syncs, and no power cut to fear.
        let memory = Path::new("/dev/shm");
        let tmp = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let out = tmp.path().join("out");
        let settings = Settings::from_toml(&format!(
            "model = \"m\"\ntrain-file = \"t\"\nbatch-size = 2\ngradient-accumulation-steps = 2\nmax-seq-length = 16\n\
             learning-rate = 0.05\noutput-dir = {out:?}\n{text}"
        ))
        .unwrap();
        let samples = (0..11u32).map(|i| sample(&(0..3 + i % 5).map(|j| 1 + i * 7 + j).collect::<Vec<_>>())).collect();
        let eval = settings.eval_file.is_some().then(|| vec![sample(&[1, 2, 3, 4]), sample(&[5, 6, 7])]);
        let config = settings.decide().unwrap();
        let (learner, ears) = (Parabola::default(), Ears::default());
        Self { _tmp: tmp, config, samples, eval, base: "base".into(), learner, ears }
    }

    fn out(&self) -> &Path {
        &self.config.output_dir
    }

    fn go(&mut self, disk: &dyn Disk, resume: Resume) -> Result<Outcome> {
        let ears = &mut self.ears;
        let output = OutputDir::open(disk, &self.config.output_dir, resume, &mut |n| ears.notes.push(n.into()))?;
        let stop = ears.stop.clone();
        train(Run {
            config: &self.config,
            output: &output,
            learner: &mut self.learner,
            samples: &self.samples,
            eval_samples: self.eval.as_deref(),
            accuracy: None,
            base: self.base.clone(),
            disk,
            stop: &stop,
            observer: ears,
        })
    }

    /// A new process in the same directory.
    fn reborn(&mut self) {
        self.learner = Parabola { scripted: std::mem::take(&mut self.learner.scripted), ..Parabola::default() };
        self.ears = Ears::default();
    }

    fn resume(&mut self) -> Result<Outcome> {
        self.reborn();
        self.go(&RealDisk, Resume::Yes)
    }

    /// What a run leaves, without what tells the time: results, and the log's steps.
    fn traces(&self) -> BTreeMap<String, Vec<u8>> {
        let mut traces: BTreeMap<String, Vec<u8>> = [peft::WEIGHTS, peft::CONFIG, TRAINER_STATE]
            .map(|name| (name.into(), fs::read(self.out().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))))
            .into();
        let state = traces.get_mut(TRAINER_STATE).unwrap();
        *state = String::from_utf8_lossy(state).replace(&self.out().display().to_string(), "OUT").into();
        let steps: Vec<_> = log(self.out())
            .into_iter()
            .filter_map(|r| match r {
                Record::Step(s) => Some(format!("{} {:x} {:x}", s.step, s.loss.to_bits(), s.grad_norm.to_bits())),
                Record::Eval(e) => Some(format!("eval {} {:x} {}", e.step, e.loss.to_bits(), e.best)),
                _ => None,
            })
            .collect();
        traces.insert("log".into(), steps.join("\n").into());
        traces
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.out()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn checkpoints(&self) -> Vec<u64> {
        checkpoint::list(self.out()).unwrap().into_iter().map(|(step, _)| step).collect()
    }

    fn all_whole(&self) {
        for (_, dir) in checkpoint::list(self.out()).unwrap() {
            checkpoint::verify(&dir).unwrap();
        }
    }
}

fn log(out: &Path) -> Vec<Record> {
    let text = fs::read_to_string(out.join(METRICS)).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn undisturbed(text: &str) -> BTreeMap<String, Vec<u8>> {
    let mut case = Case::new(text);
    let outcome = case.go(&RealDisk, Resume::No).unwrap();
    assert_eq!((outcome.reason, outcome.step, outcome.total), (EndReason::Finished, 9, 9));
    case.traces()
}

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
            case.ears.stop_after = Some(k);
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
            let said = case.ears.notes.join("\n");
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
    assert_eq!(case.ears.notes.len(), 3);
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
    assert!(case.ears.notes.iter().any(|n| n.contains("learning-rate")), "{:?}", case.ears.notes);
    // What does not decide the course of training may change freely.
    let mut case = cut_off();
    (case.config.logging_steps, case.config.save_steps, case.config.save_total_limit) = (2, 1, Some(3));
    case.resume().unwrap();
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
    assert!(case.ears.notes[0].contains("nothing to resume"));
    assert_eq!(fs::read_to_string(case.out().join("thesis.txt")).unwrap(), "years of work");

    let mut case = Case::new("");
    fs::create_dir_all(case.out()).unwrap();
    fs::write(case.out().join(peft::WEIGHTS), "someone's adapter").unwrap();
    let e = case.resume().unwrap_err();
    assert!(e.to_string().contains("`init-adapter = "), "{e}");
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
fn an_epoch_is_every_sample_once_and_each_epoch_another_order() {
    let case = Case::new("");
    let mut plan = StepPlan::new(&case.config, 11).unwrap();
    assert_eq!((plan.total(), plan.per_epoch()), (9, 3));
    let mut epochs = Vec::new();
    for epoch in 0..3 {
        let seen: Vec<usize> = (1..=3).flat_map(|s| plan.samples_of(epoch * 3 + s).to_vec()).collect();
        assert_eq!(plan.samples_of(epoch * 3 + 3).len(), 3);
        let mut sorted = seen.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..11).collect::<Vec<_>>());
        epochs.push(seen);
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    let mut config = case.config.clone();
    config.data_order = DataOrder::Sequential;
    assert_eq!(StepPlan::new(&config, 11).unwrap().samples_of(5), [4, 5, 6, 7]);
    config.num_epochs = 0.4;
    assert_eq!(StepPlan::new(&config, 11).unwrap().total(), 2);
    config.max_steps = Some(50);
    assert_eq!(StepPlan::new(&config, 11).unwrap().total(), 50);
    assert!(StepPlan::new(&config, 0).is_err());
}

#[test]
fn micro_batches_keep_to_the_budget_and_lose_nothing() {
    let case = Case::new("");
    let numbers: Vec<usize> = (0..11).rev().collect();
    for budget in [7, 8, 13, 1000] {
        let batches = micro_batches(&case.samples, &numbers, budget).unwrap();
        assert!(batches.iter().all(|b| b.rows() <= budget));
        let rows: usize = batches.iter().map(MicroBatch::rows).sum();
        assert_eq!(rows, case.samples.iter().map(|s| s.tokens.len()).sum::<usize>());
        let mut docs: Vec<u32> =
            batches.iter().flat_map(|b| b.cu_seqlens[..b.docs()].iter().map(|&r| b.samples[r as usize])).collect();
        docs.sort_unstable();
        assert_eq!(docs, (0..11).collect::<Vec<_>>());
    }
    assert!(micro_batches(&case.samples, &numbers, 6).is_err());
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
