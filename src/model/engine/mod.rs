//! A model on a device: base weights, adapter, activations and optimizer state in one arena, and the operations that
//! training and evaluation ask for. The interface that the rooms above use; they never see a [`Buffer`].

mod arrange;
mod generate;
mod graph;
mod layer;
mod load;
mod spec;
#[cfg(test)]
mod tests;

use super::{sink::PackedSink, source::WeightSource};
use crate::{
    Error, Result,
    backend::{
        AdamW, Backend, Buffer, Op, OperationTime, Properties, Rows,
        ops::{Convert, Zero},
    },
    data::MicroBatch,
};
pub use arrange::{Arrangement, Group, Held, arrange, held};
pub use graph::operations::{self, BatchShape};
use graph::{Graph, Pass};
pub use load::LoadProgress;
pub use spec::{EngineSpec, HeadStore, Residency, Saved};

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
    backend: Box<dyn Backend>,
    spec: EngineSpec,
    arrangement: Arrangement,
}

impl Engine {
    /// Takes the arena and loads the base weights. The adapter is zero until [`Engine::set_adapter`].
    ///
    /// # Errors
    /// If the memory cannot be had, or a tensor is missing or malformed.
    pub fn new(
        backend: Box<dyn Backend>,
        spec: EngineSpec,
        source: &dyn WeightSource,
        progress: LoadProgress,
    ) -> Result<Self> {
        Self::keeping(backend, spec, source, None, progress)
    }

    /// [`Engine::new`], with a sink for the linears as they are quantised.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn keeping(
        mut backend: Box<dyn Backend>,
        spec: EngineSpec,
        source: &dyn WeightSource,
        sink: Option<&mut dyn PackedSink>,
        progress: LoadProgress,
    ) -> Result<Self> {
        let arrangement = arrange(&spec, backend.properties())?;
        backend.allocate(arrangement.layout.bytes(), arrangement.layout.host_bytes(), arrangement.scratch)?;
        let mut engine = Self { backend, spec, arrangement };
        if let Some(a) = engine.arrangement.adapter {
            for vector in [a.master, a.working, a.m, a.v] {
                engine.run(Zero { dst: vector })?;
            }
        }
        engine.load(source, sink, progress)?;
        Ok(engine)
    }

    /// What the engine was laid out for.
    pub fn spec(&self) -> &EngineSpec {
        &self.spec
    }

    /// Bytes of the arena: what the plan said and what was taken.
    pub fn arena_bytes(&self) -> usize {
        self.arrangement.layout.bytes()
    }

    /// Bytes taken in host memory, beside the arena.
    pub fn host_bytes(&self) -> usize {
        self.arrangement.layout.host_bytes()
    }

    /// The backend's name for people.
    pub fn describe(&self) -> String {
        self.backend.describe()
    }

    /// See [`Backend::measure_times`].
    pub fn measure_times(&mut self, on: bool) {
        self.backend.measure_times(on);
    }

    /// Time spent in each of the backend's operations since the last call; see [`Backend::take_times`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn take_times(&mut self) -> Result<Vec<OperationTime>> {
        self.backend.take_times()
    }

    /// Element types, limits, memory and costs of the backend.
    pub fn properties(&self) -> &dyn Properties {
        self.backend.properties()
    }

    fn run(&mut self, op: impl Into<Op<'static>>) -> Result<()> {
        self.backend.run(&op.into())
    }

    /// Queues what `f` asks of the graph.
    fn queue(&mut self, f: impl FnOnce(&mut Graph) -> Result<()>) -> Result<()> {
        let Self { backend, spec, arrangement } = self;
        f(&mut Graph::new(spec, arrangement, &mut |op| backend.run(op)))
    }

    /// Sends the indices of a micro-batch.
    fn upload(&mut self, batch: &MicroBatch) -> Result<Rows> {
        let (rows, docs, max_len) = (batch.rows(), batch.docs(), batch.max_len());
        if rows == 0 || rows > self.spec.max_rows || max_len > self.spec.max_len {
            return Err(Error::internal(format!(
                "a micro-batch of {rows} rows with a document of {max_len} was given to an engine planned for \
                 {} rows and documents of {}",
                self.spec.max_rows, self.spec.max_len
            )));
        }
        let vocab = self.spec.model.vocab;
        if let Some(id) = batch.tokens.iter().chain(&batch.target_ids).find(|&&id| id as usize >= vocab) {
            return Err(Error::failed(format!(
                "token id {id} is outside the model's vocabulary of {vocab}: the tokenizer is not this model's"
            )));
        }
        let b = self.arrangement.batch;
        for (dst, data) in [
            (b.tokens, &batch.tokens),
            (b.positions, &batch.positions),
            (b.samples, &batch.samples),
            (b.cu_seqlens, &batch.cu_seqlens),
            (b.target_rows, &batch.target_rows),
            (b.target_ids, &batch.target_ids),
        ] {
            self.backend.write(dst, bytemuck::cast_slice(data))?;
        }
        Ok(b.rows(rows, docs, max_len))
    }

    fn read_f32(&mut self, src: Buffer) -> Result<Vec<f32>> {
        Ok(bytemuck::pod_collect_to_vec(&self.backend.read(src)?))
    }

    // --- training ---------------------------------------------------------------------------------------------------

    fn adapter_buffers(&self) -> Result<arrange::AdapterBuffers> {
        self.arrangement.adapter.ok_or_else(|| Error::internal("this engine has no adapter"))
    }

    fn training_buffers(&self) -> Result<arrange::AdapterBuffers> {
        if self.spec.training {
            self.adapter_buffers()
        } else {
            Err(Error::internal("this engine was not laid out for training"))
        }
    }

    /// Sets the gradients and the loss sum to zero: the start of a step.
    pub fn begin_step(&mut self) -> Result<()> {
        let a = self.training_buffers()?;
        self.run(Zero { dst: a.grad })?;
        self.run(Zero { dst: self.arrangement.batch.stats })
    }

    /// Forward and backward of one micro-batch: adds to the loss sum, and to the gradients of (loss sum)·`grad_scale`;
    /// a step passes 1/(targets of the step). `dropout_key`: [`crate::rng::Dropout::key`], used if the adapter has dropout.
    pub fn accumulate(&mut self, batch: &MicroBatch, grad_scale: f32, dropout_key: u64) -> Result<()> {
        self.training_buffers()?;
        let rows = self.upload(batch)?;
        if batch.target_ids.is_empty() {
            return Ok(());
        }
        let pass = Pass::Train(dropout_key);
        self.queue(|graph| {
            graph.forward(&rows, pass)?;
            graph.loss_backward(&rows, batch.target_ids.len(), grad_scale)?;
            graph.backward(&rows, pass)
        })
    }

    /// Gradient norm, clipping and AdamW; then the one read-back of the step. If the norm is not finite the adapter and
    /// its moments are unchanged, and the caller sees it in the values.
    pub fn finish_step(&mut self, adamw: &AdamW) -> Result<StepStats> {
        let a = self.training_buffers()?;
        operations::update(&self.arrangement, &a, *adamw, &mut |op| self.backend.run(op))?;
        let stats = self.read_f32(self.arrangement.batch.stats)?;
        Ok(StepStats { loss_sum: f64::from(stats[0]), grad_norm: f64::from(stats[1]) })
    }

    /// The adapter's master weights: flat, in the order of [`crate::model::LoraConfig::slots`].
    pub fn adapter(&mut self) -> Result<Vec<f32>> {
        let a = self.adapter_buffers()?;
        self.read_f32(a.master)
    }

    /// Replaces the adapter's weights.
    pub fn set_adapter(&mut self, flat: &[f32]) -> Result<()> {
        let a = self.adapter_buffers()?;
        self.write_flat(a.master, flat, "adapter")?;
        self.run(Convert { src: a.master, dst: a.working })
    }

    /// Gradients of the micro-batches since [`Engine::begin_step`], in the adapter's order.
    pub fn gradients(&mut self) -> Result<Vec<f32>> {
        let a = self.training_buffers()?;
        self.read_f32(a.grad)
    }

    /// AdamW's first and second moments, in the adapter's order.
    pub fn moments(&mut self) -> Result<(Vec<f32>, Vec<f32>)> {
        let a = self.training_buffers()?;
        Ok((self.read_f32(a.m)?, self.read_f32(a.v)?))
    }

    /// Replaces the moments.
    pub fn set_moments(&mut self, m: &[f32], v: &[f32]) -> Result<()> {
        let a = self.training_buffers()?;
        self.write_flat(a.m, m, "first moment")?;
        self.write_flat(a.v, v, "second moment")
    }

    fn write_flat(&mut self, dst: Buffer, flat: &[f32], what: &str) -> Result<()> {
        if flat.len() != dst.len() {
            return Err(Error::internal(format!("the {what} has {} elements, expected {}", flat.len(), dst.len())));
        }
        self.backend.write(dst, bytemuck::cast_slice(flat))
    }

    // --- inference (never any dropout) ------------------------------------------------------------------------------

    /// ln p of each target of the batch, in the order of its `target_ids`.
    pub fn target_logprobs(&mut self, batch: &MicroBatch) -> Result<Vec<f32>> {
        let rows = self.upload(batch)?;
        let targets = batch.target_ids.len();
        self.queue(|graph| {
            graph.forward(&rows, Pass::Plain)?;
            graph.logprobs(&rows, targets)
        })?;
        self.read_logprobs(targets)
    }

    /// The first `count` of `batch.logprobs`: never NaN, because no result may be made of it.
    ///
    /// # Errors
    /// If one is not finite. The weights are, so that the computation left the range of its type.
    fn read_logprobs(&mut self, count: usize) -> Result<Vec<f32>> {
        let logprobs = self.read_f32(self.arrangement.batch.logprobs.prefix(count))?;
        match logprobs.iter().find(|p| !p.is_finite()) {
            None => Ok(logprobs),
            Some(p) => Err(Error::failed(format!(
                "the model's logits are not finite (a log-probability is {p}): with its weights, and its adapter if it has \
                 one, the computation leaves the range of {}",
                self.spec.compute.torch()
            ))),
        }
    }

    /// ln p, over the whole vocabulary, of each of `ids` after each of `rows` of the batch: [rows.len(), ids.len()], flat.
    pub fn choice_logprobs(&mut self, batch: &MicroBatch, rows: &[u32], ids: &[u32]) -> Result<Vec<f32>> {
        let device = self.upload(batch)?;
        let (b, c, vocab) = (self.arrangement.batch, ids.len(), self.spec.model.vocab);
        if rows.len() > self.spec.max_rows || c == 0 || c > b.target_ids.len() {
            return Err(Error::internal(format!("{} rows and {c} choices do not fit the engine", rows.len())));
        }
        if let Some(bad) = rows.iter().find(|&&r| r as usize >= batch.rows()) {
            return Err(Error::internal(format!("row {bad} is asked for in a micro-batch of {}", batch.rows())));
        }
        if let Some(bad) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::internal(format!("token id {bad} is outside the model's vocabulary of {vocab}")));
        }
        self.queue(|graph| graph.forward(&device, Pass::Plain))?;
        self.backend.write(b.target_rows, bytemuck::cast_slice(rows))?;
        let chunk = self.spec.chunk_rows().min(b.target_ids.len() / c);
        self.backend.write(b.target_ids, bytemuck::cast_slice(&ids.repeat(chunk.min(rows.len()))))?;
        let mut result = Vec::with_capacity(rows.len() * c);
        for at in (0..rows.len()).step_by(chunk) {
            let count = chunk.min(rows.len() - at);
            let (ids, out) = (b.target_ids.prefix(count * c), b.logprobs.prefix(count * c));
            self.queue(|graph| graph.head_logprobs(&device, (at, count), ids, c, out))?;
            result.extend(self.read_logprobs(out.len())?);
        }
        Ok(result)
    }
}
