//! The stream of operations without a device: for the planner, for the size of scratch, and for tests that count.

use super::{Graph, Pass, Run};
use crate::{
    Result,
    backend::{
        AdamW, Buffer, DType, HostTensor,
        ops::{AdamWUpdate, Dequantize, GlobalNorm, LoadDense, LoadNf4},
    },
    model::{
        Module,
        engine::{
            Arrangement, EngineSpec, Saved,
            arrange::{AdapterBuffers, Group, Held, held},
        },
    },
};

/// A micro-batch as far as operations depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    /// Rows T.
    pub rows: usize,
    /// Documents.
    pub docs: usize,
    /// Longest of them.
    pub max_len: usize,
    /// Positions that carry loss.
    pub targets: usize,
}

/// The operations of one micro-batch: of training, forward and backward with dropout if the adapter has any, or of scoring
/// where nothing is trained.
///
/// # Errors
/// Those of `run`.
pub fn micro_batch(spec: &EngineSpec, a: &Arrangement, shape: BatchShape, run: Run) -> Result<()> {
    let rows = a.batch.rows(shape.rows, shape.docs, shape.max_len);
    let pass = if spec.training { Pass::Train(0) } else { Pass::Plain };
    let mut graph = Graph::new(spec, a, run);
    graph.forward(&rows, pass)?;
    if !spec.training {
        return graph.logprobs(&rows, shape.targets);
    }
    graph.loss_backward(&rows, shape.targets, 1.0)?;
    graph.backward(&rows, pass)
}

/// The operations of an update, after the micro-batches of a step.
///
/// # Errors
/// Those of `run`.
pub fn update(a: &Arrangement, adapter: &AdapterBuffers, adamw: AdamW, run: Run) -> Result<()> {
    let AdapterBuffers { master, working, grad, m, v } = *adapter;
    let norm = a.batch.stats.slice(1, 1);
    run(&GlobalNorm { grad, norm }.into())?;
    run(&AdamWUpdate { adamw, norm, grad, m, v, master, working }.into())
}

/// The largest operations of every kind that an engine under `spec` may run: what needs the most scratch is among them.
pub(in crate::model::engine) fn largest(spec: &EngineSpec, a: &Arrangement, run: Run) -> Result<()> {
    let rows = a.batch.rows(spec.max_rows, 1, spec.max_len.min(spec.max_rows));
    let targets = (0, spec.chunk_rows());
    let logprobs = a.batch.logprobs.prefix(targets.1);
    let mut graph = Graph::new(spec, a, &mut *run);
    for index in unlike_layers(spec) {
        if spec.training {
            let l = graph.layer(index, &rows, Pass::Train(0));
            graph.layer_forward(&l, Pass::Train(0))?;
            graph.layer_backward(&l, Pass::Train(0))?;
        } else {
            let l = graph.layer(index, &rows, Pass::Plain);
            graph.layer_forward(&l, Pass::Plain)?;
        }
        if spec.kv_slots > 0 {
            let rows = a.batch.rows(spec.kv_slots, spec.kv_slots, 1);
            let l = graph.layer(index, &rows, Pass::Decode);
            graph.layer_forward(&l, Pass::Decode)?;
        }
    }
    graph.head_logprobs(&rows, targets, a.batch.target_ids.prefix(targets.1), 1, logprobs)?;
    graph.head_argmax(&rows, targets)?;
    if spec.training {
        graph.loss_backward(&rows, targets.1, 1.0)?;
    }
    if let (true, Some(adapter)) = (spec.training, &a.adapter) {
        update(a, adapter, AdamW::default(), run)?;
    }
    loading(a, run)
}

/// The last layer of each kind that plan, checkpoint or adapter made different; the lowest with an adapter may lack a gradient.
fn unlike_layers(spec: &EngineSpec) -> Vec<usize> {
    let adapted = |layer| Module::ALL.map(|m| spec.lora.as_ref().is_some_and(|lora| lora.targets.contains(layer, m)));
    let kind = |i: usize| (spec.saved[i], Group::ALL.map(|g| held(spec, i, g)), adapted(i));
    let kinds: Vec<(Saved, [Held; 4], [bool; 7])> = (0..spec.model.layers).map(kind).collect();
    (0..kinds.len()).filter(|&i| !kinds[i + 1..].contains(&kinds[i])).collect()
}

/// What brings weights in, by kind: chunks of a fixed size, whatever the tensor.
fn loading(a: &Arrangement, run: Run) -> Result<()> {
    let src = HostTensor { dtype: DType::F32, bytes: &[] };
    let none = Buffer::empty(DType::U8);
    run(&LoadDense { src, dst: none }.into())?;
    run(&LoadNf4 { src, packed: none, absmax: none }.into())?;
    run(&Dequantize { w: a.weights.head, dst: none }.into())
}
