//! `irori plan`: what a training run will take, said before it starts: memory by item, steps, tokens, time.

use super::{
    common,
    training::{self, Inputs},
};
use crate::{
    Result,
    backend::{Sizes, cuda::CudaSizes},
    model::source,
    plan::{
        self, Plan, Speed,
        cost::{Work, step_time},
        device::{self, CUDA_CONTEXT, PROFILES, Profile},
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

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
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
    let (plan, sizes, speed, reserve): (Plan, &dyn Sizes, Speed, u64) = match args.gpu {
        Some(gpu) => {
            let request = job.request(&opened, &CudaSizes::FUSED);
            let memory = here.memory_limit.unwrap_or(gpu.memory);
            let limit = memory.saturating_sub(CUDA_CONTEXT);
            (
                plan::plan(&request, &CudaSizes::FUSED, &gpu.speed, Some(limit))?,
                &CudaSizes::FUSED,
                gpu.speed,
                CUDA_CONTEXT,
            )
        }
        None => {
            let device = here.open()?;
            let plan = common::plan(&opened, &job, &device)?;
            let sizes = here.sizes();
            if sizes.own_memory() {
                (plan, sizes, device.speed, CUDA_CONTEXT)
            } else {
                let speed = Speed { flops: crate::backend::cpu::measure_gflops() * 1e9, ..device.speed };
                (plan, sizes, speed, 0)
            }
        }
    };
    let where_ = args.gpu.map_or(sizes.name(), |g| g.name);
    let seconds = course.as_ref().map(|c| seconds(&config, &plan, sizes, &speed, c));
    let text = if args.json {
        let items: serde_json::Map<_, _> = plan.items.iter().map(|(k, b)| (k.label().to_owned(), json!(b))).collect();
        let value = json!({
            "model": opened.source.describe(),
            "device": where_,
            "bytes": plan.bytes,
            "host_bytes": plan.host_bytes,
            "reserved_outside_bytes": reserve,
            "limit_bytes": plan.limit,
            "items": items,
            "layers_saved": {"all": plan.saved_counts()[0], "without_gate_up": plan.saved_counts()[1],
                             "input_only": plan.saved_counts()[2]},
            "layers_unpacked": plan.unpacked(),
            "micro_batch_rows": plan.spec.max_rows,
            "samples": course.as_ref().map(|c| c.samples),
            "tokens_per_epoch": course.as_ref().map(|c| c.tokens),
            "targets_per_epoch": course.as_ref().map(|c| c.targets),
            "steps": course.as_ref().map(|c| c.steps),
            "estimated_seconds": seconds,
        });
        format!("{value:#}\n")
    } else {
        table(&opened.source.describe(), where_, &plan, reserve, course.as_ref(), seconds)
    };
    super::print(&text)
}

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

/// Estimated seconds of the whole run: floating-point work and dequantisation at the device's speed, no more.
fn seconds(config: &TrainConfig, plan: &Plan, sizes: &dyn Sizes, speed: &Speed, c: &Course) -> f64 {
    let mean = c.tokens as f64 / c.samples.max(1) as f64;
    let step_rows = mean * config.samples_per_step() as f64;
    let step = Work { rows: step_rows, len: mean, targets: c.targets as f64 / c.tokens.max(1) as f64 * step_rows };
    step_time(&plan.spec, sizes, speed, &step).total() * (c.tokens as f64 * c.epochs / step_rows)
}

fn table(
    model: &str,
    where_: &str,
    plan: &Plan,
    reserve: u64,
    course: Option<&Course>,
    seconds: Option<f64>,
) -> String {
    let gib = |b: f64| b / (1u64 << 30) as f64;
    let mut t = format!("{model} on {where_}, micro-batches of up to {} rows\n\n", plan.spec.max_rows);
    for (kind, bytes) in &plan.items {
        let _ = writeln!(t, "  {:<24}{:>14} B {:>9.3} GiB", kind.label(), bytes, gib(*bytes as f64));
    }
    let _ = writeln!(t, "  {:<24}{:>14} B {:>9.3} GiB", "arena", plan.bytes, gib(plan.bytes as f64));
    if plan.host_bytes > 0 {
        let (label, bytes) = ("embedding, in host memory", plan.host_bytes);
        let _ = writeln!(t, "  {label:<24}{bytes:>14} B {:>9.3} GiB", gib(bytes as f64));
    }
    if reserve > 0 {
        let _ =
            writeln!(t, "  {:<24}{:>14} B {:>9.3} GiB  (estimate)", "driver and modules", reserve, gib(reserve as f64));
    }
    if let Some(limit) = plan.limit {
        let _ = writeln!(t, "  {:<24}{:>14} B {:>9.3} GiB", "available to the arena", limit, gib(limit as f64));
    }
    let [all, part, input] = plan.saved_counts();
    let _ = writeln!(
        t,
        "\n  activations: {all} layers kept whole, {part} without gate/up, {input} by their input only\n  weights: {} of {} \
         layers unpacked",
        plan.unpacked(),
        plan.spec.model.layers
    );
    if let Some(c) = course {
        let _ = writeln!(
            t,
            "\n  {} samples, {} tokens an epoch (longest {}), loss on {}\n  {} steps, {:.2} epochs",
            c.samples, c.tokens, c.longest, c.targets, c.steps, c.epochs
        );
    }
    if let Some(s) = seconds {
        let shown = if s < 120.0 { format!("{s:.1} s") } else { format!("{:.1} min", s / 60.0) };
        let _ = writeln!(t, "  at least {shown} (floating-point work and dequantisation at full speed)");
    }
    t
}
