//! Where everything of an engine lies in its arena. The planner runs [`arrange`] to say what a run takes; the engine runs
//! the same function to take it.

mod activations;
mod adapter;
mod weights;

use super::{EngineSpec, graph::operations};
use crate::{
    Result,
    backend::{Buffer, DType, Kind, KvCache, Layout, LoraPart, Properties, Rows},
};
pub use activations::{LayerActivations, Workspace};
pub use adapter::AdapterBuffers;
pub use weights::{BaseWeights, Group, Held, held};

/// Indices of a micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchBuffers {
    /// `U32 [T]`.
    pub tokens: Buffer,
    /// `U32 [T]`.
    pub positions: Buffer,
    /// `U32 [T]`.
    pub samples: Buffer,
    /// U32 [T + 1].
    pub cu_seqlens: Buffer,
    /// `U32 [T]`.
    pub target_rows: Buffer,
    /// `U32 [T]`; also the columns asked of [`crate::backend::ops::LogSoftmaxAt`] and the results of argmax.
    pub target_ids: Buffer,
    /// Log-probabilities read back, `F32 [T]`.
    pub logprobs: Buffer,
    /// KV-cache slot of each row, `U32 [T]`.
    pub slots: Buffer,
    /// Loss sum and gradient norm, `F32 [2]`.
    pub stats: Buffer,
}

impl BatchBuffers {
    fn place(spec: &EngineSpec, l: &mut Layout) -> Self {
        let rows = spec.max_rows;
        let mut take = |dtype, len| l.take(Kind::Batch, dtype, len);
        Self {
            tokens: take(DType::U32, rows),
            positions: take(DType::U32, rows),
            samples: take(DType::U32, rows),
            cu_seqlens: take(DType::U32, rows + 1),
            target_rows: take(DType::U32, rows),
            target_ids: take(DType::U32, rows),
            logprobs: take(DType::F32, rows),
            slots: take(DType::U32, if spec.kv_slots > 0 { rows } else { 0 }),
            stats: take(DType::F32, 2),
        }
    }

    /// Of a micro-batch of `count` rows in `docs` documents of at most `max_len`.
    pub fn rows(&self, count: usize, docs: usize, max_len: usize) -> Rows {
        Rows {
            count,
            docs,
            max_len,
            tokens: self.tokens.prefix(count),
            positions: self.positions.prefix(count),
            samples: self.samples.prefix(count),
            cu_seqlens: self.cu_seqlens.prefix(docs + 1),
        }
    }
}

/// Everything that an engine keeps in its arena.
#[derive(Debug, Clone)]
pub struct Arrangement {
    /// Totals and bytes by kind.
    pub layout: Layout,
    /// Scratch of the backend's operations.
    pub scratch: Buffer,
    /// Base weights.
    pub weights: BaseWeights,
    /// The adapter.
    pub adapter: Option<AdapterBuffers>,
    /// Activations by layer.
    pub activations: Vec<LayerActivations>,
    /// Activations of all layers.
    pub work: Workspace,
    /// Indices.
    pub batch: BatchBuffers,
    /// KV cache by layer; empty without generation.
    pub cache: Vec<KvCache>,
    places: adapter::Places,
}

impl Arrangement {
    /// The adapters of one fused linear, for `rows` rows.
    pub fn parts(&self, layer: usize, group: Group, rows: usize) -> Vec<LoraPart> {
        self.adapter.as_ref().map_or(Vec::new(), |flat| self.places.parts(flat, layer, group, rows))
    }

    /// The first fused linear of the forward pass that carries an adapter, with its layer: below it no gradient is needed.
    pub fn lowest_adapter(&self) -> Option<(usize, Group)> {
        self.places.lowest()
    }
}

/// Lays out an engine.
///
/// # Errors
/// If the specification is contradictory, or a weight cannot be stored as asked.
pub fn arrange(spec: &EngineSpec, properties: &dyn Properties) -> Result<Arrangement> {
    spec.check()?;
    properties.check(&spec.demands())?;
    let act = properties.activation();
    let mut l = Layout::new();
    let weights = BaseWeights::place(spec, properties, &mut l);
    let adapter = AdapterBuffers::place(spec, act, &mut l);
    let places = adapter::Places::place(spec, act, &mut l);
    let activations = activations::by_layer(spec, act, &mut l);
    let work = Workspace::place(spec, act, activations[0].x, &mut l);
    let batch = BatchBuffers::place(spec, &mut l);
    let cache = caches(spec, act, &mut l);
    let scratch = Buffer::empty(DType::U8);
    let mut a = Arrangement { layout: l, scratch, weights, adapter, activations, work, batch, cache, places };
    // What scratch is needed is asked of the operations that will run.
    let mut most = 0;
    operations::largest(spec, &a, &mut |op| {
        most = most.max(properties.scratch(op));
        Ok(())
    })?;
    a.scratch = a.layout.take(Kind::Scratch, DType::U8, most);
    Ok(a)
}

/// Keys and values of every layer.
fn caches(spec: &EngineSpec, act: DType, l: &mut Layout) -> Vec<KvCache> {
    if spec.kv_slots == 0 {
        return Vec::new();
    }
    let len = spec.kv_slots * spec.kv_capacity * spec.model.heads.kv_width();
    let mut take = || l.take(Kind::KvCache, act, len);
    (0..spec.model.layers).map(|_| KvCache { k: take(), v: take(), capacity: spec.kv_capacity }).collect()
}
