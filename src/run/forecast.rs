//! What a training run will take, said before it starts: its plan, its steps, and what would be otherwise.

use super::{
    Listener, device, engine,
    training::{self, Inputs},
};
use crate::{
    Result,
    backend::{Properties, cpu, cpu::CpuProperties, cuda::CudaProperties},
    model::{catalogue::HEAD, engine::EngineSpec, source},
    plan::{
        self, Plan, Speed,
        cost::{Work, step_time},
        device::{CUDA_RESERVE, GpuProfile, Memory, arena_limit},
        outlook::{self, Alternative, Change, Largest},
    },
    train::{Settings, TrainConfig, steps::StepPlan},
};
use std::path::PathBuf;

/// Tokens of a sample that carry loss where no data say it: a letter and the end of the turn.
const TARGETS: f64 = 2.0;

/// What the samples make of a run.
#[derive(Debug, Clone, Copy)]
pub struct Course {
    /// Samples.
    pub samples: usize,
    /// Tokens of them all.
    pub tokens: usize,
    /// Tokens that carry loss.
    pub targets: usize,
    /// Tokens of the longest.
    pub longest: usize,
    /// Steps of the run.
    pub steps: u64,
    /// Epochs of the run.
    pub epochs: f64,
}

/// A plan, and what it was made from.
pub struct Forecast {
    /// The model in words.
    pub model: String,
    /// The device's name.
    pub device: &'static str,
    /// The plan.
    pub plan: Plan,
    /// Bytes on the device outside the arena.
    pub reserve: u64,
    /// What the samples make of the run; without a train file nothing of it is known.
    pub course: Option<Course>,
    /// Samples of a step.
    pub samples: usize,
    /// What a step computes.
    pub step: Work,
    /// Seconds of a step, by the time model.
    pub step_seconds: f64,
    /// Longest sample that the settings allow.
    pub max_seq_length: usize,
    head_is_packed: bool,
    asked: EngineSpec,
    properties: Box<dyn Properties>,
    speed: Speed,
}

/// The device that a plan is for: properties, speed, plan.
type Planned = (EngineSpec, Plan, Box<dyn Properties>, Speed);

impl Forecast {
    /// Plans the run that `settings` describe: on `gpu`, which need not be here, or on the device that they name.
    ///
    /// # Errors
    /// What is missing or malformed, or does not fit.
    pub fn make(mut settings: Settings, gpu: Option<&'static GpuProfile>, listener: &mut dyn Listener) -> Result<Self> {
        let has_data = settings.train_file.is_some();
        settings.train_file.get_or_insert_with(PathBuf::new);
        settings.output_dir.get_or_insert_with(PathBuf::new);
        let config = training::decide(settings, listener)?;
        let (opened, asked, course) = if has_data {
            let inputs = training::read(&config, listener)?;
            let (asked, course) = (inputs.asked(&config), course(&config, &inputs)?);
            (inputs.opened, asked, Some(course))
        } else {
            let opened = source::open(&config.base.model)?;
            let (model, length) = (opened.source.config().clone(), config.max_seq_length);
            let lora = config.lora(model.layers)?;
            let asked = training::asked(&config, model, lora, config.token_budget(), length);
            (opened, asked, None)
        };
        let planned = match gpu {
            Some(gpu) => on_known_gpu(&config, &opened, asked, gpu),
            None => on_this_machine(&config, &opened, asked, listener),
        };
        let (asked, plan, properties, speed) = planned.map_err(|e| training::with_length(e, &config))?;
        for remark in engine::remarks(opened.source.as_ref(), &plan.spec)? {
            listener.note(&remark);
        }
        let samples = config.samples_per_step();
        let step = step(samples, config.max_seq_length, course.as_ref());
        Ok(Self {
            model: opened.source.describe(),
            head_is_packed: opened.source.is_packed(HEAD),
            device: gpu.map_or(properties.name(), |g| g.name),
            reserve: if properties.own_memory() { CUDA_RESERVE } else { 0 },
            samples,
            step_seconds: step_time(&plan.spec, &*properties, &speed, &step)?.total(),
            step,
            course,
            max_seq_length: config.max_seq_length,
            plan,
            asked,
            properties,
            speed,
        })
    }

    /// Seconds of the whole run.
    pub fn seconds(&self) -> Option<f64> {
        self.course.as_ref().map(|c| self.step_seconds * (c.tokens as f64 * c.epochs / self.step.rows))
    }

    /// The plan with one thing changed at a time.
    pub fn alternatives(&self) -> Vec<Alternative> {
        let mut all = outlook::alternatives(&self.plan, &*self.properties, &self.speed, &self.step);
        // There is no other head than the one that is stored.
        all.retain(|a| !(self.head_is_packed && matches!(a.change, Change::Head(_))));
        all
    }

    /// The largest jobs of this kind that would fit, where memory has a limit.
    ///
    /// # Errors
    /// If none can be laid out.
    pub fn largest(&self) -> Result<Option<Largest>> {
        let of = |limit| outlook::largest_that_fit(&self.asked, self.max_seq_length, &*self.properties, limit);
        self.plan.limit.map(of).transpose()
    }
}

fn on_known_gpu(config: &TrainConfig, opened: &source::Opened, asked: EngineSpec, gpu: &GpuProfile) -> Result<Planned> {
    let properties = CudaProperties { nf4: config.machine.nf4_path.path() };
    let (asked, unpack) = engine::for_device(asked, opened, &properties)?;
    let limit = arena_limit(Memory::KnownGpu(gpu.memory), config.machine.memory_limit.map(|bytes| bytes.0));
    let speed = gpu.speed_of(config.machine.sm_limit);
    let plan = plan::plan(&asked, unpack, &properties, &speed, limit);
    // The limit is all that is known of the GPU then, and can be another.
    let room = if config.machine.memory_limit.is_some() { None } else { limit };
    let plan = plan.map_err(|e| device::advise_limit(e, true, room))?;
    Ok((asked, plan, Box::new(properties), speed))
}

fn on_this_machine(
    config: &TrainConfig,
    opened: &source::Opened,
    asked: EngineSpec,
    listener: &mut dyn Listener,
) -> Result<Planned> {
    let device = device::open(&config.machine, listener)?;
    let plan = engine::plan(opened, asked.clone(), &device)?;
    let gpu = device.backend.properties().own_memory();
    let properties: Box<dyn Properties> =
        if gpu { Box::new(CudaProperties { nf4: config.machine.nf4_path.path() }) } else { Box::new(CpuProperties) };
    let (asked, _) = engine::for_device(asked, opened, &*properties)?;
    let measured = || Speed { flops: cpu::measure_gflops() * 1e9, ..device.speed };
    let speed = if gpu { device.speed } else { measured() };
    Ok((asked, plan, properties, speed))
}

/// What a step of `samples` computes: of the mean length of the data, or of full length where there are none.
fn step(samples: usize, max_seq_length: usize, course: Option<&Course>) -> Work {
    let (len, targets) = match course {
        Some(c) => (c.tokens as f64 / c.samples.max(1) as f64, c.targets as f64 / c.samples.max(1) as f64),
        None => (max_seq_length as f64, TARGETS),
    };
    Work { rows: len * samples as f64, len, targets: targets * samples as f64 }
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
