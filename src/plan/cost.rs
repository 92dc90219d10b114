//! What a step costs in time, and what each knob of the plan is worth.
//!
//! The model is a lower bound made of few terms: floating-point work at the speed of large products, what packed weights
//! cost on top, the head, and the bytes that cross the bus. It orders choices; it does not promise a time.

use crate::{
    backend::{Sizes, Space, Unpacking},
    model::{
        ModelConfig, Module,
        engine::{EngineSpec, HeadStore, Residency, Saved},
    },
    quant::nf4,
};

/// Speed of a device, as far as the time model looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Floating-point operations a second that a large matrix product reaches.
    pub flops: f64,
    /// Bytes a second that streaming reads and writes reach.
    pub bandwidth: f64,
    /// Bytes a second that the device reads from host memory.
    pub bus: f64,
}

/// A choice the planner can spend memory on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knob {
    /// Keep x2, qkv, o of a layer.
    SaveAttention,
    /// Keep gate/up of a layer.
    SaveGateUp,
    /// Keep a layer's weights unpacked.
    Unpack,
    /// Keep the embedding on the device.
    Embedding,
}

/// What is computed in one go: a step, or a micro-batch of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Token positions.
    pub rows: f64,
    /// Mean length of a document.
    pub len: f64,
    /// Positions that carry loss.
    pub targets: f64,
}

/// Seconds of a step by what they go into.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepTime {
    /// Linears, adapters and attention, and what of them is recomputed.
    pub compute: f64,
    /// Getting at packed weights.
    pub unpack: f64,
    /// The head.
    pub head: f64,
    /// Reading the embedding from host memory.
    pub bus: f64,
}

impl StepTime {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.compute + self.unpack + self.head + self.bus
    }
}

/// Weights of a layer's linears.
fn linear_weights(c: &ModelConfig) -> f64 {
    module_weights(c, &Module::ALL)
}

fn module_weights(c: &ModelConfig, modules: &[Module]) -> f64 {
    modules.iter().map(|m| m.shape(c)).map(|(n, k)| (n * k) as f64).sum()
}

/// Causal attention of one layer, forward, for `rows` rows in documents of `len`.
fn attention_flops(c: &ModelConfig, rows: f64, len: f64) -> f64 {
    2.0 * rows * len * c.heads.q_width() as f64
}

/// Bytes of an NF4 weight with its share of absmax.
const PACKED_BYTES: f64 = 0.5 + 4.0 / nf4::BLOCK as f64;

/// Seconds that packed storage adds to a product of `rows` rows with `weights` weights.
fn unpacking(sizes: &dyn Sizes, speed: &Speed, rows: f64, weights: f64) -> f64 {
    match sizes.unpacking() {
        // The packed weights in, the dense ones out and in again.
        Unpacking::ToScratch(dtype) => weights * (PACKED_BYTES + 2.0 * dtype.size() as f64) / speed.bandwidth,
        Unpacking::InProduct(part) => part * 2.0 * rows * weights / speed.flops,
    }
}

/// Seconds of one pass of the head, forward or backward, over `targets` rows in chunks of `chunk`: each chunk reads it all.
fn head_pass(spec: &EngineSpec, sizes: &dyn Sizes, speed: &Speed, targets: f64) -> f64 {
    let c = &spec.model;
    let weights = (c.vocab * c.hidden) as f64;
    let chunks = (targets / spec.logit_rows.min(spec.max_rows) as f64).ceil();
    let product = 2.0 * targets * weights / speed.flops;
    let read = |bytes: f64| chunks * weights * bytes / speed.bandwidth;
    match (spec.head, sizes.unpacking()) {
        (HeadStore::Dense, _) => product.max(read(spec.dense.size() as f64)),
        (HeadStore::Nf4, Unpacking::InProduct(part)) => (product * (1.0 + part)).max(read(PACKED_BYTES)),
        (HeadStore::Nf4, Unpacking::ToScratch(_)) => product + chunks * unpacking(sizes, speed, 0.0, weights),
    }
}

/// Seconds to fetch the rows of the embedding.
fn bus(spec: &EngineSpec, speed: &Speed, rows: f64) -> f64 {
    match spec.embedding {
        Space::Device => 0.0,
        Space::Host => rows * (spec.model.hidden * spec.dense.size()) as f64 / speed.bus,
    }
}

/// Time of a training step that is cut into as few micro-batches as the plan allows.
pub fn step_time(spec: &EngineSpec, sizes: &dyn Sizes, speed: &Speed, step: &Work) -> StepTime {
    let micro_batches = (step.rows / spec.max_rows as f64).ceil().max(1.0);
    let (rows, targets) = (step.rows / micro_batches, step.targets / micro_batches);
    let c = &spec.model;
    let linear = 2.0 * rows * linear_weights(c);
    let lora = spec.lora.as_ref().map_or(0.0, |l| 6.0 * rows * l.layer_parameters(c) as f64);
    let attention = attention_flops(c, rows, step.len);
    let mut time = StepTime::default();
    for (saved, residency) in spec.saved.iter().zip(&spec.residency) {
        let recompute = match saved {
            Saved::All => 0.0,
            Saved::NoGateUp => module_weights(c, &[Module::GateProj, Module::UpProj]),
            Saved::InputOnly => linear_weights(c) - module_weights(c, &[Module::DownProj]),
        };
        let again = if *saved == Saved::InputOnly { attention } else { 0.0 };
        time.compute += (2.0 * linear + 2.0 * rows * recompute + lora + 3.5 * attention + again) / speed.flops;
        if *residency == Residency::Nf4 {
            time.unpack += unpacking(sizes, speed, rows, 2.0 * linear_weights(c) + recompute);
        }
    }
    time.head = 2.0 * head_pass(spec, sizes, speed, targets);
    time.bus = bus(spec, speed, rows);
    let all = |seconds: f64| seconds * micro_batches;
    StepTime { compute: all(time.compute), unpack: all(time.unpack), head: all(time.head), bus: all(time.bus) }
}

/// Floating-point operations that a step cannot do without: nothing recomputed, no weight to unpack.
pub fn step_flops(spec: &EngineSpec, sizes: &dyn Sizes, step: &Work) -> f64 {
    let needed = EngineSpec {
        saved: vec![Saved::All; spec.saved.len()],
        residency: vec![Residency::Dense; spec.residency.len()],
        head: HeadStore::Dense,
        embedding: Space::Device,
        ..spec.clone()
    };
    // At one operation a second, and bytes for nothing, seconds are operations.
    let speed = Speed { flops: 1.0, bandwidth: f64::INFINITY, bus: f64::INFINITY };
    step_time(&needed, sizes, &speed, step).total()
}

/// Knobs by seconds saved per byte, the best first. Gate/up comes after attention: it needs it.
pub fn knobs_by_worth(asked: &EngineSpec, sizes: &dyn Sizes, speed: &Speed) -> Vec<Knob> {
    let c = &asked.model;
    let rows = asked.max_rows as f64;
    let act = sizes.activation().size() as f64;
    let again = |weights: f64| {
        let packed = if asked.four_bit() { unpacking(sizes, speed, rows, weights) } else { 0.0 };
        2.0 * rows * weights / speed.flops + packed
    };
    let attention_weights = module_weights(c, &[Module::QProj, Module::KProj, Module::VProj, Module::OProj]);
    let attention_bytes =
        rows * act * (c.heads.qkv_width() + c.heads.q_width() + c.hidden) as f64 + rows * 4.0 * c.heads.q as f64;
    let attention_saves = again(attention_weights) + attention_flops(c, rows, asked.max_len as f64) / speed.flops;
    let gate_up = module_weights(c, &[Module::GateProj, Module::UpProj]);
    let passes = if asked.training { 2.0 } else { 1.0 };
    let unpack_saves = unpacking(sizes, speed, rows, passes * linear_weights(c));
    let fetch = rows / speed.bus;
    let mut worth = [
        (Knob::SaveAttention, attention_saves / attention_bytes),
        (Knob::SaveGateUp, again(gate_up) / (rows * act * 2.0 * c.intermediate as f64)),
        (Knob::Unpack, unpack_saves / (linear_weights(c) * (act - PACKED_BYTES)).max(1.0)),
        // Rows of it a micro-batch, and all of it in memory: its width and type cancel.
        (Knob::Embedding, fetch / c.vocab as f64),
    ];
    worth.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut order: Vec<Knob> = worth.iter().map(|w| w.0).collect();
    let place = |order: &[Knob], k| order.iter().position(|&x| x == k).unwrap_or(0);
    let (a, g) = (place(&order, Knob::SaveAttention), place(&order, Knob::SaveGateUp));
    if g < a {
        order.swap(a, g);
    }
    order
}
