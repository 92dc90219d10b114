//! `irori bench`: what this machine does, measured: training steps, loading, evaluation, single operations.
//!
//! Every figure is a median over repeats after warm-up runs that do not count, with the slowest and the fastest beside it
//! and the machine's load at the start. On a busy machine the spread says so.

mod eval;
mod kernels;
mod load;
mod step;

use super::{common::Terminal, flags::Flags, print};
use crate::{
    Error, Result,
    model::{
        Engine, LoraConfig, Module,
        engine::EngineSpec,
        lora::MAX_RANK,
        source::{Opened, open},
    },
    plan::settings::{Base, BaseSettings, Machine, MachineSettings},
    run::engine,
    settings::Group,
};
use serde_json::json;
use std::time::Instant;

/// Arguments of `irori bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to measure; without a model on synthetic:tiny, kernels on the shapes of synthetic:qwen3-0.6b
    what: What,
    /// Rows (tokens) of a micro-batch
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    rows: u32,
    /// Tokens of each document
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1 << 17))]
    length: u32,
    /// Rank of the adapter
    #[arg(long, default_value_t = 16, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=MAX_RANK as i64))]
    lora_r: u32,
    /// Dropout of the adapter
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    lora_dropout: f32,
    /// Timed repeats, after one that warms up
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeats: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    base: Flags<BaseSettings>,
    #[command(flatten)]
    machine: Flags<MachineSettings>,
}

/// What is measured: the arguments, decided.
struct Job {
    args: Args,
    base: Base,
    machine: Machine,
}

/// A subject of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Training steps on synthetic documents, and where their time goes
    Step,
    /// Opening a model and quantising it
    Load,
    /// Single operations: linear layers, attention, the vocabulary, quantising
    Kernels,
    /// Scoring texts and generating
    Eval,
}

/// One figure: a rate in `unit`, of `repeats` runs.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
struct Figure {
    name: String,
    unit: &'static str,
    median: f64,
    slowest: f64,
    fastest: f64,
    /// Median time of one run.
    seconds: f64,
    repeats: usize,
    /// Part of the device's measured peak that the median is, where there is one.
    of_peak: Option<f64>,
}

impl Figure {
    /// `amount` (in `unit`·seconds) was done in each of `seconds`.
    fn new(name: impl Into<String>, unit: &'static str, amount: f64, seconds: &[f64]) -> Self {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Self {
            name: name.into(),
            unit,
            median: amount / median,
            slowest: amount / sorted[sorted.len() - 1],
            fastest: amount / sorted[0],
            seconds: median,
            repeats: sorted.len(),
            of_peak: None,
        }
    }

    /// With the peak, in the figure's unit.
    fn of(self, peak: Option<f64>) -> Self {
        Self { of_peak: peak.map(|peak| self.median / peak), ..self }
    }
}

/// Seconds of each of `repeats` runs of `f`, after one that does not count.
fn time(repeats: u32, mut f: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    f()?;
    (0..repeats)
        .map(|_| {
            let began = Instant::now();
            f()?;
            Ok(began.elapsed().as_secs_f64().max(1e-9))
        })
        .collect()
}

/// What a measurement found.
struct Found {
    /// The workload in words.
    workload: String,
    /// The device in words.
    device: String,
    figures: Vec<Figure>,
    /// Seconds of a run by operation, if known.
    operations: Vec<(&'static str, f64)>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if !(0.0..1.0).contains(&args.lora_dropout) {
        return Err(Error::usage(format!("--lora-dropout {} is not in 0..1", args.lora_dropout)));
    }
    let job = Job::new(args)?;
    let before = load_average();
    let opened = open(&job.base.model)?;
    let found = match job.args.what {
        What::Step => step::measure(&job, &opened)?,
        What::Load => load::measure(&job)?,
        What::Kernels => kernels::measure(&job, &opened)?,
        What::Eval => eval::measure(&job, &opened)?,
    };
    let args = &job.args;
    if args.json {
        let operations: Vec<_> =
            found.operations.iter().map(|(operation, s)| json!({"operation": operation, "seconds": s})).collect();
        let value = json!({
            "what": args.what.name(),
            "model": opened.source.describe(),
            "workload": found.workload,
            "device": found.device,
            "load_average": before,
            "version": env!("CARGO_PKG_VERSION"),
            "figures": found.figures,
            "operations": operations,
        });
        return print(&format!("{value:#}\n"));
    }
    let load = before.map_or(String::new(), |l| format!("; load average {l:.1}"));
    print(&format!("{}\n{}\n{}{load}\n\n{}", opened.source.describe(), found.workload, found.device, table(&found)))
}

impl What {
    fn default_model(self) -> &'static str {
        match self {
            Self::Step | Self::Load | Self::Eval => "synthetic:tiny",
            Self::Kernels => "synthetic:qwen3-0.6b",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Load => "load",
            Self::Kernels => "kernels",
            Self::Eval => "eval",
        }
    }
}

fn table(found: &Found) -> String {
    let width = found.figures.iter().map(|f| f.name.chars().count()).max().unwrap_or(0).max(24);
    let mut text = format!("{:width$} {:>10} {:10} {:>21} {:>11}\n", "", "median", "", "slowest … fastest", "time");
    for f in &found.figures {
        let spread = format!("{} … {}", number(f.slowest), number(f.fastest));
        let time = if f.seconds < 1.0 { format!("{:.3} ms", f.seconds * 1e3) } else { format!("{:.2} s", f.seconds) };
        let share = f.of_peak.map_or(String::new(), |part| format!("  {:.0} % of the peak", 100.0 * part));
        text += &format!("{:width$} {:>10} {:10} {spread:>21} {time:>11}{share}\n", f.name, number(f.median), f.unit);
    }
    let total: f64 = found.operations.iter().map(|o| o.1).sum();
    if total > 0.0 {
        text += "\nWhere the time goes\n";
        for (operation, seconds) in found.operations.iter().filter(|o| o.1 >= 0.005 * total) {
            text += &format!("  {operation:24} {:5.1} % {:9.2} ms\n", 100.0 * seconds / total, 1e3 * seconds);
        }
    }
    text
}

/// Three digits or so.
fn number(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 10.0 => format!("{x:.1}"),
        x => format!("{x:.2}"),
    }
}

/// Processes that wanted to run in the last minute, on average.
fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

impl Job {
    fn new(args: Args) -> Result<Self> {
        let mut base = args.base.0.clone();
        base.model.get_or_insert_with(|| args.what.default_model().to_owned());
        let base = base.resolve()?;
        base.validate()?;
        let machine = args.machine.0.clone().resolve()?;
        Ok(Self { args, base, machine })
    }

    /// Inference on the micro-batches that the arguments describe.
    fn asked(&self, opened: &Opened) -> EngineSpec {
        let model = opened.source.config().clone();
        let rows = self.args.rows as usize;
        let length = (self.args.length as usize).min(rows).min(model.max_positions.max(2));
        engine::asked(&self.base, model, rows, length)
    }

    /// An adapter on all linears.
    fn lora(&self, dropout: f32) -> LoraConfig {
        let r = self.args.lora_r;
        LoraConfig { r: r as usize, alpha: 2.0 * r as f32, dropout, rslora: false, targets: Module::ALL.into() }
    }

    fn engine(&self, opened: &Opened, asked: EngineSpec) -> Result<Engine> {
        engine::engine(opened, asked, &self.machine, &mut Terminal::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(what: What, rows: u32, lora_dropout: f32) -> Job {
        let model = Some("synthetic:tiny".into());
        Job::new(Args {
            what,
            rows,
            length: 24,
            lora_r: 4,
            lora_dropout,
            repeats: 2,
            json: true,
            base: Flags(BaseSettings { model, ..BaseSettings::default() }),
            machine: Flags(MachineSettings { threads: Some(2), ..MachineSettings::default() }),
        })
        .expect("settings")
    }

    #[test]
    fn medians_and_spread() {
        let f = Figure::new("x", "tokens/s", 12.0, &[4.0, 1.0, 2.0]);
        assert_eq!((f.median, f.slowest, f.fastest, f.repeats), (6.0, 3.0, 12.0, 3));
        assert_eq!(Figure::new("x", "GB/s", 3.0, &[1.0, 2.0]).median, 2.0);
    }

    #[test]
    fn every_subject_gives_figures() {
        for (what, operations) in [(What::Step, true), (What::Load, false), (What::Kernels, false), (What::Eval, false)]
        {
            let job = job(what, 40, 0.1);
            let opened = open("synthetic:tiny").expect("opens");
            let found = match what {
                What::Step => step::measure(&job, &opened),
                What::Load => load::measure(&job),
                What::Kernels => kernels::measure(&job, &opened),
                What::Eval => eval::measure(&job, &opened),
            }
            .expect("measured");
            assert!(!found.figures.is_empty(), "{what:?}");
            assert!(found.figures.iter().all(|f| f.median > 0.0 && f.median.is_finite() && f.repeats == 2), "{what:?}");
            assert_eq!(found.operations.is_empty(), !operations, "{what:?}");
            assert!(table(&found).lines().count() > found.figures.len());
        }
    }

    #[test]
    fn a_document_is_never_longer_than_the_micro_batch() {
        let opened = open("synthetic:tiny").expect("opens");
        let job = job(What::Step, 3, 0.0);
        assert_eq!(step::measure(&job, &opened).expect("measured").figures[0].repeats, 2);
    }
}
