//! `irori plan`: what a training run will take, said before it starts: memory by item, steps, tokens, time; what each
//! knob of the plan would change, and the largest jobs that fit.

use super::{
    common,
    training::{self, Inputs},
};
use crate::{
    Result,
    backend::{Sizes, cpu::CpuSizes, cuda::CudaSizes},
    model::source,
    plan::{
        self, Plan, Request, Speed,
        cost::{Work, step_time},
        device::{self, CUDA_CONTEXT, PROFILES, Profile},
        outlook::{self, Alternative, Knob, Largest},
    },
    train::{Settings, TrainConfig, steps::StepPlan},
};
use serde_json::json;
use std::{fmt::Write as _, path::PathBuf};

/// Arguments of `irori plan`: those of `irori train`, and the device to plan for.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Read settings from this TOML file; flags win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Plan for a GPU that need not be here: a100-2g.20gb, a100-3g.20gb, a100-80gb, h100, h200, rtx3080-10gb
    #[arg(long, value_name = "NAME", value_parser = parse_gpu)]
    gpu: Option<&'static Profile>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_gpu(name: &str) -> Result<&'static Profile, String> {
    device::profile(name).ok_or_else(|| {
        let known: Vec<&str> = PROFILES.iter().map(|p| p.name).collect();
        format!("`{name}` is not a GPU that irori knows; known are {}", known.join(", "))
    })
}

/// What the samples make of the run; without a train file nothing of it is known.
struct Course {
    samples: usize,
    tokens: usize,
    targets: usize,
    longest: usize,
    steps: u64,
    epochs: f64,
}

/// A plan and what it was made from.
struct Made {
    model: String,
    device: &'static str,
    request: Request,
    plan: Plan,
    sizes: &'static dyn Sizes,
    speed: Speed,
    /// Bytes on the device outside the arena.
    reserve: u64,
    course: Option<Course>,
    /// Samples of a step, and what it computes.
    samples: usize,
    step: Work,
    max_seq_length: usize,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let json = args.json;
    let made = make(args)?;
    let text = if json { format!("{:#}\n", made.json()?) } else { made.table()? };
    super::print(&text)
}

fn make(args: Args) -> Result<Made> {
    let file = args.config.as_deref().map(Settings::from_file).transpose()?.unwrap_or_default();
    let mut settings = args.settings.or(file);
    let has_data = settings.train_file.is_some();
    settings.train_file.get_or_insert_with(PathBuf::new);
    settings.output_dir.get_or_insert_with(PathBuf::new);
    let config = settings.resolve()?;
    let (opened, job, course) = if has_data {
        let inputs = training::read(&config)?;
        let (job, course) = (inputs.job(&config), course(&config, &inputs)?);
        (inputs.opened, job, Some(course))
    } else {
        let job = training::job(&config, config.lora()?, config.token_budget(), config.max_seq_length);
        (source::open(&config.model)?, job, None)
    };
    let here = training::device_of(&config)?;
    let (request, plan, sizes, speed, reserve): (Request, Plan, &dyn Sizes, Speed, u64) = match args.gpu {
        Some(gpu) => {
            let request = job.request(&opened, &CudaSizes::FUSED);
            let memory = here.memory_limit.unwrap_or(gpu.memory);
            let limit = memory.saturating_sub(CUDA_CONTEXT);
            let plan = plan::plan(&request, &CudaSizes::FUSED, &gpu.speed, Some(limit))?;
            (request, plan, &CudaSizes::FUSED, gpu.speed, CUDA_CONTEXT)
        }
        None => {
            let device = here.open()?;
            let plan = common::plan(&opened, &job, &device)?;
            let gpu = device.backend.sizes().own_memory();
            let sizes: &dyn Sizes = if gpu { &CudaSizes::FUSED } else { &CpuSizes };
            let request = job.request(&opened, sizes);
            if sizes.own_memory() {
                (request, plan, sizes, device.speed, CUDA_CONTEXT)
            } else {
                let speed = Speed { flops: crate::backend::cpu::measure_gflops() * 1e9, ..device.speed };
                (request, plan, sizes, speed, 0)
            }
        }
    };
    let samples = config.samples_per_step();
    Ok(Made {
        model: opened.source.describe(),
        device: args.gpu.map_or(sizes.name(), |g| g.name),
        request,
        plan,
        sizes,
        speed,
        reserve,
        samples,
        step: step(samples, config.max_seq_length, course.as_ref()),
        course,
        max_seq_length: config.max_seq_length,
    })
}

/// What a step of `samples` computes: of the mean length of the data, or of full length where there are none.
fn step(samples: usize, max_seq_length: usize, course: Option<&Course>) -> Work {
    let (len, targets) = match course {
        Some(c) => (c.tokens as f64 / c.samples.max(1) as f64, c.targets as f64 / c.samples.max(1) as f64),
        None => (max_seq_length as f64, TARGETS),
    };
    Work { rows: len * samples as f64, len, targets: targets * samples as f64 }
}

/// Tokens of a sample that carry loss where no data say it: a letter and the end of the turn.
const TARGETS: f64 = 2.0;

fn course(config: &TrainConfig, inputs: &Inputs) -> Result<Course> {
    let report = &inputs.train.report;
    let steps = StepPlan::new(config, report.samples)?;
    Ok(Course {
        samples: report.samples,
        tokens: report.tokens,
        targets: report.targets,
        longest: report.lengths.iter().copied().max().unwrap_or(0),
        steps: steps.total(),
        epochs: steps.epoch(steps.total()),
    })
}

impl Made {
    /// Seconds of a step, by the time model.
    fn step_seconds(&self) -> f64 {
        step_time(&self.plan.spec, self.sizes, &self.speed, &self.step).map_or(f64::NAN, |t| t.total())
    }

    /// Seconds of the whole run.
    fn seconds(&self) -> Option<f64> {
        self.course.as_ref().map(|c| self.step_seconds() * (c.tokens as f64 * c.epochs / self.step.rows))
    }

    fn alternatives(&self) -> Vec<Alternative> {
        outlook::alternatives(&self.request, &self.plan, self.sizes, &self.speed, &self.step)
    }

    fn largest(&self) -> Result<Option<Largest>> {
        let of = |limit| outlook::largest_that_fit(&self.request, self.max_seq_length, self.sizes, limit);
        self.plan.limit.map(of).transpose()
    }

    fn json(&self) -> Result<serde_json::Value> {
        let (plan, course) = (&self.plan, self.course.as_ref());
        let items: serde_json::Map<_, _> = plan.items.iter().map(|(k, b)| (k.label().to_owned(), json!(b))).collect();
        let alternative = |a: Alternative| {
            json!({
                "knob": a.knob.name(),
                "setting": a.knob.setting(),
                "changes_results": matches!(a.knob, Knob::Head(_)),
                "bytes": a.bytes,
                "host_bytes": a.host_bytes,
                "step_seconds": a.seconds,
                "fits": a.fits,
            })
        };
        let largest = self.largest()?.map(
            |l| json!({"batch_size": l.batch, "at_length": self.max_seq_length, "length": l.length, "model": l.model}),
        );
        Ok(json!({
            "model": self.model,
            "device": self.device,
            "bytes": plan.bytes,
            "host_bytes": plan.host_bytes,
            "reserved_outside_bytes": self.reserve,
            "limit_bytes": plan.limit,
            "items": items,
            "layers_saved": {"all": plan.saved_counts()[0], "without_gate_up": plan.saved_counts()[1],
                             "input_only": plan.saved_counts()[2]},
            "layers_unpacked": plan.unpacked(),
            "embedding": plan.spec.embedding,
            "head": plan.spec.head,
            "micro_batch_rows": plan.spec.max_rows,
            "step_samples": self.samples,
            "step_tokens": self.step.rows,
            "step_seconds": self.step_seconds(),
            "alternatives": self.alternatives().into_iter().map(alternative).collect::<Vec<_>>(),
            "largest_that_fits": largest,
            "samples": course.map(|c| c.samples),
            "tokens_per_epoch": course.map(|c| c.tokens),
            "targets_per_epoch": course.map(|c| c.targets),
            "steps": course.map(|c| c.steps),
            "estimated_seconds": self.seconds(),
        }))
    }

    fn table(&self) -> Result<String> {
        let plan = &self.plan;
        let rows = plan.spec.max_rows;
        let mut t = format!("{} on {}, micro-batches of up to {rows} rows\n\n", self.model, self.device);
        let mut line = |label: &str, bytes: u64, note: &str| {
            let _ = writeln!(t, "  {label:<24}{bytes:>14} B {:>9.3} GiB{note}", gib(bytes as f64));
        };
        for (kind, bytes) in &plan.items {
            line(kind.label(), *bytes as u64, "");
        }
        line("arena", plan.bytes as u64, "");
        if plan.host_bytes > 0 {
            line("embedding, in host memory", plan.host_bytes as u64, "");
        }
        if self.reserve > 0 {
            line("driver and modules", self.reserve, "  (estimate)");
        }
        if let Some(limit) = plan.limit {
            line("available to the arena", limit, "");
        }
        let [all, part, input] = plan.saved_counts();
        let layers = plan.spec.model.layers;
        let _ = writeln!(
            t,
            "\n  activations: {all} layers kept whole, {part} without gate/up, {input} by their input only\n  weights: {} of \
             {layers} layers unpacked",
            plan.unpacked(),
        );
        self.outlook(&mut t)?;
        if let Some(c) = &self.course {
            let _ = writeln!(
                t,
                "\n  {} samples, {} tokens an epoch (longest {}), loss on {}\n  {} steps, {:.2} epochs",
                c.samples, c.tokens, c.longest, c.targets, c.steps, c.epochs
            );
        }
        if let Some(s) = self.seconds() {
            let shown = if s < 120.0 { format!("{s:.1} s") } else { format!("{:.1} min", s / 60.0) };
            let _ = writeln!(t, "  at least {shown} (products, packed weights and the bus at full speed)");
        }
        Ok(t)
    }

    /// What each knob would change, and the largest jobs that fit.
    fn outlook(&self, t: &mut String) -> Result<()> {
        let (bytes, seconds) = (self.plan.bytes, self.step_seconds());
        let assumed = if self.course.is_some() { "" } else { " of full length, with loss on two tokens of each" };
        let _ = writeln!(
            t,
            "\n  a step is {} samples{assumed}, {:.0} tokens; what each knob would change:\n\n  {:<30}{:>12}{:>9}{:>12}{:>10}",
            self.samples, self.step.rows, "", "arena, GiB", "change", "s a step", "change"
        );
        let _ = writeln!(t, "  {:<30}{:>12.3}{:>9}{seconds:>12.4}", "as planned", gib(bytes as f64), "");
        for a in self.alternatives() {
            let note = match (a.fits, a.knob) {
                (false, _) => "  does not fit",
                (true, Knob::Head(_)) => "  other results",
                (true, _) => "",
            };
            let _ = writeln!(
                t,
                "  {:<30}{:>12.3}{:>+9.3}{:>12.4}{:>+10.4}{note}",
                a.knob.label(),
                gib(a.bytes as f64),
                gib(a.bytes as f64 - bytes as f64),
                a.seconds,
                a.seconds - seconds
            );
        }
        if let Some(l) = self.largest()? {
            let model = l.model.unwrap_or("no published size");
            let _ = writeln!(
                t,
                "\n  what would fit, recomputing all: a batch of {} × {} tokens in one pass, one sample of {} tokens, {model}",
                l.batch, self.max_seq_length, l.length
            );
        }
        Ok(())
    }
}

fn gib(bytes: f64) -> f64 {
    bytes / (1u64 << 30) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn made(flags: &str) -> Result<Made> {
        make(Line::try_parse_from(std::iter::once("irori").chain(flags.split_whitespace())).unwrap().args)
    }

    #[test]
    fn json_and_table_say_the_same() {
        let made = made("--model synthetic:qwen3-8b --gpu a100-2g.20gb").unwrap();
        let (json, table) = (made.json().unwrap(), made.table().unwrap());
        for key in ["bytes", "limit_bytes", "host_bytes", "reserved_outside_bytes"] {
            let bytes = json[key].as_u64().unwrap();
            assert!(table.contains(&format!(" {bytes} B ")), "{key}: {bytes} in\n{table}");
        }
        let alternatives = json["alternatives"].as_array().unwrap();
        assert_eq!(alternatives.len(), 10);
        for a in alternatives {
            let shown = format!("{:>12.3}{:>+9.3}", gib(a["bytes"].as_f64().unwrap()), {
                gib(a["bytes"].as_f64().unwrap() - json["bytes"].as_f64().unwrap())
            });
            assert!(table.contains(&shown) && table.contains(&format!("{:.4}", a["step_seconds"].as_f64().unwrap())));
        }
        let largest = &json["largest_that_fits"];
        assert!(table.contains(&format!("a batch of {} × 1024 tokens", largest["batch_size"])), "{table}");
        assert!(table.contains(largest["model"].as_str().unwrap()), "{table}");
    }
}
