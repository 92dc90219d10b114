//! What the training loop needs of a model: little enough that a test can give it a parabola instead.

use super::provenance::PROVENANCE;
use crate::{
    Error, Result,
    backend::AdamW,
    data::MicroBatch,
    model::{Engine, LoraConfig, engine::StepStats, peft},
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

    /// The adapter as [`peft::CONFIG`] and [`peft::WEIGHTS`], exact (f32), and what else belongs beside them.
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

/// The real thing: an [`Engine`] laid out for training, whose adapter is read and written in PEFT's format.
pub struct EngineLearner {
    engine: Engine,
    lora: LoraConfig,
    /// What the adapter's `base_model_name_or_path` shall say.
    base: String,
    /// The content of [`PROVENANCE`].
    provenance: Vec<u8>,
}

impl EngineLearner {
    /// Wraps `engine`, whose adapter is one for the model that a user calls `base`; `provenance` is the content of
    /// [`PROVENANCE`].
    ///
    /// # Errors
    /// If the engine has no adapter.
    pub fn new(engine: Engine, base: String, provenance: Vec<u8>) -> Result<Self> {
        let lora = engine.spec().lora.clone();
        let lora = lora.ok_or_else(|| Error::internal("an engine without an adapter was given to train"))?;
        Ok(Self { engine, lora, base, provenance })
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
        self.lora.parameters(&self.engine.spec().model)
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
        let weights = peft::weights_file(&self.lora, &self.engine.spec().model, &flat)?;
        Ok(vec![
            NamedFile::new(peft::CONFIG, peft::config_file(&self.lora, &self.base)),
            NamedFile::new(peft::WEIGHTS, weights),
            NamedFile::new(PROVENANCE, self.provenance.clone()),
        ])
    }

    fn load_adapter(&mut self, dir: &Path) -> Result<()> {
        let found = peft::load(dir, &self.engine.spec().model)?;
        if found.lora.targets != self.lora.targets || found.lora.r != self.lora.r {
            return Err(Error::content(dir, "", "holds an adapter of another rank or other modules than this run"));
        }
        self.engine.set_adapter(&found.flat)
    }

    fn peak_memory_bytes(&self) -> u64 {
        let arena = self.engine.arena_bytes() as u64;
        if self.engine.properties().name() == "cpu" { device::peak_memory().unwrap_or(arena) } else { arena }
    }

    fn device(&self) -> String {
        self.engine.describe()
    }
}
