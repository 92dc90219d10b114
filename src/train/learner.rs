//! What the training loop needs of a model: little enough that a test can give it a parabola instead.

use crate::{Result, backend::AdamW, data::MicroBatch, model::engine::StepStats};
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

/// The process's peak resident memory, bytes (0 where the system does not say).
pub fn peak_resident_bytes() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}
