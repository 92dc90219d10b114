//! What the training loop needs of a model: little enough that a test can give it a parabola instead.

use crate::{
    Error, Result,
    backend::AdamW,
    data::MicroBatch,
    model::{Engine, engine::StepStats},
    plan::device,
};
use std::path::Path;

/// A file that belongs to a checkpoint, with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Name inside the checkpoint's directory.
    pub name: String,
    /// Content.
    pub bytes: Vec<u8>,
}

impl NamedFile {
    /// A file of `bytes` called `name`.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }
}

/// A model that learns. Its whole state is its adapter and two moments: what it does next depends on nothing else.
pub trait Learner {
    /// Sets gradients and loss sum to zero.
    ///
    /// # Errors
    /// If the device fails; so with every method here.
    fn begin_step(&mut self) -> Result<()>;

    /// Forward and backward of one micro-batch: adds the gradient of (loss sum)·`grad_scale`.
    fn accumulate(&mut self, batch: &MicroBatch, grad_scale: f32, dropout_key: u64) -> Result<()>;

    /// Clipping and AdamW. A non-finite loss or norm leaves adapter and moments as they were.
    fn finish_step(&mut self, adamw: &AdamW) -> Result<StepStats>;

    /// Σ −ln p over the batch's targets, without dropout.
    fn loss(&mut self, batch: &MicroBatch) -> Result<f64>;

    /// Number of trained parameters.
    fn parameters(&self) -> usize;

    /// First and second moments, [`Learner::parameters`] each.
    fn moments(&mut self) -> Result<(Vec<f32>, Vec<f32>)>;

    /// Sets the moments.
    fn set_moments(&mut self, m: &[f32], v: &[f32]) -> Result<()>;

    /// The adapter as [`ADAPTER_CONFIG`] and [`ADAPTER_WEIGHTS`], exact (f32).
    ///
    /// # Errors
    /// Also if a weight is not finite: a broken adapter is never passed off as a result.
    fn adapter_files(&mut self) -> Result<Vec<NamedFile>>;

    /// Sets the adapter to the one in `dir`.
    ///
    /// # Errors
    /// If the files there are missing, broken or of another shape.
    fn load_adapter(&mut self, dir: &Path) -> Result<()>;

    /// Most memory taken so far, bytes: of the device, or of the process where they are the same.
    fn peak_memory_bytes(&self) -> u64;

    /// The device in words. Results are bit-identical on one device only.
    fn device(&self) -> String;
}

/// PEFT's configuration of an adapter.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// PEFT's weights of an adapter.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// How an adapter lies in files: PEFT's format, bound to one model and one configuration.
pub trait AdapterFormat {
    /// [`ADAPTER_CONFIG`] and [`ADAPTER_WEIGHTS`] (f32) of a flat adapter.
    ///
    /// # Errors
    /// None that a user could cause.
    fn encode(&self, flat: &[f32]) -> Result<Vec<NamedFile>>;

    /// The flat adapter in `dir`.
    ///
    /// # Errors
    /// If the files are missing, broken or of another shape.
    fn decode(&self, dir: &Path) -> Result<Vec<f32>>;
}

/// The real thing: an [`Engine`] laid out for training.
pub struct EngineLearner {
    engine: Engine,
    format: Box<dyn AdapterFormat>,
    parameters: usize,
}

impl EngineLearner {
    /// Wraps `engine`, whose adapter is read and written as `format`.
    ///
    /// # Errors
    /// If the engine has no adapter.
    pub fn new(engine: Engine, format: Box<dyn AdapterFormat>) -> Result<Self> {
        let spec = engine.spec();
        let lora = spec.lora.as_ref().ok_or_else(|| Error::failed("an engine without an adapter cannot train"))?;
        let parameters = lora.parameters(&spec.model);
        Ok(Self { engine, format, parameters })
    }

    /// The engine, for evaluation between steps.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }
}

impl Learner for EngineLearner {
    fn begin_step(&mut self) -> Result<()> {
        self.engine.begin_step()
    }

    fn accumulate(&mut self, batch: &MicroBatch, grad_scale: f32, dropout_key: u64) -> Result<()> {
        self.engine.accumulate(batch, grad_scale, dropout_key)
    }

    fn finish_step(&mut self, adamw: &AdamW) -> Result<StepStats> {
        self.engine.finish_step(adamw)
    }

    fn loss(&mut self, batch: &MicroBatch) -> Result<f64> {
        if batch.target_ids.is_empty() {
            return Ok(0.0);
        }
        Ok(self.engine.target_logprobs(batch)?.iter().map(|&p| -f64::from(p)).sum())
    }

    fn parameters(&self) -> usize {
        self.parameters
    }

    fn moments(&mut self) -> Result<(Vec<f32>, Vec<f32>)> {
        self.engine.moments()
    }

    fn set_moments(&mut self, m: &[f32], v: &[f32]) -> Result<()> {
        self.engine.set_moments(m, v)
    }

    fn adapter_files(&mut self) -> Result<Vec<NamedFile>> {
        let flat = self.engine.adapter()?;
        if let Some(i) = flat.iter().position(|x| !x.is_finite()) {
            return Err(Error::failed(format!("weight {i} of the adapter is {}: it is not written", flat[i])));
        }
        self.format.encode(&flat)
    }

    fn load_adapter(&mut self, dir: &Path) -> Result<()> {
        let flat = self.format.decode(dir)?;
        self.engine.set_adapter(&flat)
    }

    fn peak_memory_bytes(&self) -> u64 {
        let arena = self.engine.arena_bytes() as u64;
        if self.engine.sizes().name() == "cpu" { device::peak_memory().unwrap_or(arena) } else { arena }
    }

    fn device(&self) -> String {
        self.engine.describe()
    }
}
