//! A model on a device: base weights, adapter, activations and optimizer state in one arena, and the operations that
//! training and evaluation ask for. The interface that the rooms above use; they never see a [`Buffer`].

use super::{LoraConfig, ModelConfig};
use crate::{
    Result,
    backend::{AdamW, Backend, DType},
    data::MicroBatch,
};

/// What is kept of a layer's activations for its backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saved {
    /// x, qkv, o, log-sum-exp, x2, gate/up: nothing large is recomputed.
    All,
    /// The same without gate/up, whose product is computed again.
    NoGateUp,
    /// x only: the layer's forward pass runs again, without down_proj.
    InputOnly,
}

/// How the base weights of a layer's linears are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residency {
    /// Packed NF4; dequantised at each use.
    Nf4,
    /// The dequantised values, unpacked once at load. Same numbers as `Nf4`.
    Unpacked,
    /// Never quantised (`--no-4bit`).
    Dense,
}

/// What an engine is laid out for. [`Engine::layout`] turns it into bytes without allocating.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineSpec {
    /// The model.
    pub model: ModelConfig,
    /// The adapter, if any.
    pub lora: Option<LoraConfig>,
    /// Gradients, moments and a backward pass.
    pub training: bool,
    /// Most rows of a micro-batch.
    pub max_rows: usize,
    /// Longest document.
    pub max_len: usize,
    /// Rows of a logits chunk.
    pub logit_rows: usize,
    /// Per layer; used in training only.
    pub saved: Vec<Saved>,
    /// Per layer.
    pub residency: Vec<Residency>,
    /// Type that a quantised weight is rounded to (Bf16 or F32).
    pub compute: DType,
    /// Storage of dense linears, embedding and head: Bf16 or F32.
    pub dense: DType,
    /// Sequences generated at once (0: no KV cache).
    pub kv_slots: usize,
    /// Most positions of a generated sequence.
    pub kv_capacity: usize,
}

/// What a step must know.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepStats {
    /// Σ over the step's targets of −log p, in nats.
    pub loss_sum: f64,
    /// Global norm of the adapter's gradient before clipping.
    pub grad_norm: f64,
}

/// A model on a device.
pub struct Engine {
    _backend: Box<dyn Backend>,
}

// The interface (bodies are being built).
#[allow(missing_docs, unused_variables, clippy::unimplemented)]
impl Engine {
    pub fn spec(&self) -> &EngineSpec {
        unimplemented!()
    }
    /// Bytes of the arena, as planned and as taken.
    pub fn arena_bytes(&self) -> usize {
        unimplemented!()
    }

    // --- training -----------------------------------------------------------------------------------------------
    /// Sets the gradients and the loss sum to zero: the start of a step.
    pub fn begin_step(&mut self) -> Result<()> {
        unimplemented!()
    }
    /// Forward and backward of one micro-batch. Adds to the loss sum and to the gradients of (loss sum)·`grad_scale`;
    /// a step passes 1/(targets of the step). `dropout_key`: [`crate::rng::Dropout::key`], used if the adapter has dropout.
    pub fn accumulate(&mut self, batch: &MicroBatch, grad_scale: f32, dropout_key: u64) -> Result<()> {
        unimplemented!()
    }
    /// Gradient norm, clipping and AdamW; then the one read-back of the step. If loss or norm is not finite the adapter
    /// and moments are unchanged, and the caller sees it in the values.
    pub fn finish_step(&mut self, adamw: &AdamW) -> Result<StepStats> {
        unimplemented!()
    }
    /// Flat vectors in the order of [`LoraConfig::slots`], f32: adapter, gradients, first moments, second moments.
    pub fn adapter(&mut self) -> Result<Vec<f32>> {
        unimplemented!()
    }
    pub fn set_adapter(&mut self, flat: &[f32]) -> Result<()> {
        unimplemented!()
    }
    pub fn gradients(&mut self) -> Result<Vec<f32>> {
        unimplemented!()
    }
    pub fn moments(&mut self) -> Result<(Vec<f32>, Vec<f32>)> {
        unimplemented!()
    }
    pub fn set_moments(&mut self, m: &[f32], v: &[f32]) -> Result<()> {
        unimplemented!()
    }

    // --- inference (never any dropout) --------------------------------------------------------------------------
    /// ln p of each target of the batch, in the order of its `target_ids`.
    pub fn target_logprobs(&mut self, batch: &MicroBatch) -> Result<Vec<f32>> {
        unimplemented!()
    }
    /// ln p, over the whole vocabulary, of each of `ids` after each row of `rows`: `[rows.len()][ids.len()]`, flat.
    pub fn choice_logprobs(&mut self, batch: &MicroBatch, rows: &[u32], ids: &[u32]) -> Result<Vec<f32>> {
        unimplemented!()
    }
    /// Greedy continuation of each prompt, at most `max_new[i]` tokens, ending with (and including) a token of `stop`.
    /// Runs up to `spec.kv_slots` prompts at once; `on_done(i, tokens)` is called as each ends.
    pub fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        max_new: usize,
        stop: &[u32],
        on_done: &mut dyn FnMut(usize, &[u32]),
    ) -> Result<Vec<Vec<u32>>> {
        unimplemented!()
    }
}
