//! A run of the parabola in a directory of its own, and what it leaves there.

use super::parabola::Parabola;
use crate::{
    Result,
    data::Sample,
    files::{Disk, RealDisk},
    model::peft,
    settings::Group,
    train::{
        checkpoint,
        config::TrainConfig,
        metrics::{EndReason, Record},
        output::{METRICS, OutputDir, Resume},
        progress::Observer,
        settings::Settings,
        state::TRAINER_STATE,
        stop::Stop,
        trainer::{Outcome, Run, train},
    },
};
use std::{collections::BTreeMap, fs, path::Path};

#[derive(Default)]
pub(super) struct Recorder {
    pub(super) records: Vec<Record>,
    pub(super) notes: Vec<String>,
    /// Ask to stop when this step is logged.
    pub(super) stop_after: Option<u64>,
    pub(super) stop: Stop,
}

impl Observer for Recorder {
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
pub(super) struct Case {
    _tmp: tempfile::TempDir,
    pub(super) config: TrainConfig,
    pub(super) samples: Vec<Sample>,
    pub(super) eval: Option<Vec<Sample>>,
    pub(super) base: String,
    pub(super) learner: Parabola,
    pub(super) recorder: Recorder,
}

pub(super) fn sample(tokens: &[u32]) -> Sample {
    let labels = tokens.iter().enumerate().map(|(i, &t)| if i < 2 { -100 } else { t as i32 }).collect();
    Sample { tokens: tokens.to_vec(), labels }
}

impl Case {
    /// Eleven samples of unequal length in steps of four: three steps an epoch, nine in all.
    pub(super) fn new(text: &str) -> Self {
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
        let (learner, recorder) = (Parabola::default(), Recorder::default());
        Self { _tmp: tmp, config, samples, eval, base: "base".into(), learner, recorder }
    }

    pub(super) fn out(&self) -> &Path {
        &self.config.output_dir
    }

    pub(super) fn go(&mut self, disk: &dyn Disk, resume: Resume) -> Result<Outcome> {
        let recorder = &mut self.recorder;
        let output = OutputDir::open(disk, &self.config.output_dir, resume, &mut |n| recorder.notes.push(n.into()))?;
        let stop = recorder.stop.clone();
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
            observer: recorder,
        })
    }

    /// A new process in the same directory.
    pub(super) fn reborn(&mut self) {
        self.learner = Parabola { scripted: std::mem::take(&mut self.learner.scripted), ..Parabola::default() };
        self.recorder = Recorder::default();
    }

    pub(super) fn resume(&mut self) -> Result<Outcome> {
        self.reborn();
        self.go(&RealDisk, Resume::Yes)
    }

    /// What a run leaves, without what tells the time: results, and the log's steps.
    pub(super) fn traces(&self) -> BTreeMap<String, Vec<u8>> {
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

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.out()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(super) fn checkpoints(&self) -> Vec<u64> {
        checkpoint::list(self.out()).unwrap().into_iter().map(|(step, _)| step).collect()
    }

    pub(super) fn all_whole(&self) {
        for (_, dir) in checkpoint::list(self.out()).unwrap() {
            checkpoint::verify(&dir).unwrap();
        }
    }
}

pub(super) fn log(out: &Path) -> Vec<Record> {
    let text = fs::read_to_string(out.join(METRICS)).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

pub(super) fn undisturbed(text: &str) -> BTreeMap<String, Vec<u8>> {
    let mut case = Case::new(text);
    let outcome = case.go(&RealDisk, Resume::No).unwrap();
    assert_eq!((outcome.reason, outcome.step, outcome.total), (EndReason::Finished, 9, 9));
    case.traces()
}
