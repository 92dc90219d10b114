//! What a step costs in time, and what each knob of the plan is worth.
//!
//! The operations of a micro-batch are recorded ([`operations::micro_batch`]) and each is given a time: a lower bound made of
//! few terms, floating-point work at the speed of large products, what packed weights cost on top, the head, and the bytes
//! that cross the bus. The sum orders choices; it does not promise a time.

use crate::{
    Result,
    backend::{Op, Properties, Space, Unpacking, Weight, WeightStore, ops::Embed},
    model::{
        ModelConfig,
        engine::{Arrangement, BatchShape, EngineSpec, Residency, Saved, arrange, operations},
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

/// Bytes of an NF4 weight with its share of absmax.
const PACKED_BYTES: f64 = 0.5 + 4.0 / nf4::BLOCK as f64;

/// What an operation's time is made of.
struct Model<'a> {
    properties: &'a dyn Properties,
    speed: &'a Speed,
    /// The head, which is so wide that reading it counts.
    head: Weight,
}

impl Model<'_> {
    fn time(&self, op: &Op) -> StepTime {
        let compute = op.flops() / self.speed.flops;
        match op {
            Op::Linear(op) if op.w == self.head => self.head(compute, &op.w),
            Op::LinearBackward(op) if op.w == self.head => self.head(compute, &op.w),
            Op::Linear(op) => StepTime { compute, unpack: self.unpacking(op.rows(), &op.w), ..StepTime::default() },
            Op::LinearBackward(op) => {
                StepTime { compute, unpack: self.unpacking(op.rows(), &op.w), ..StepTime::default() }
            }
            Op::Embed(op) => StepTime { bus: self.bus(op), ..StepTime::default() },
            _ => StepTime { compute, ..StepTime::default() },
        }
    }

    /// Seconds that packed storage adds to a product of `rows` rows.
    fn unpacking(&self, rows: usize, w: &Weight) -> f64 {
        let weights = w.n as f64 * w.k as f64;
        match self.properties.unpacking() {
            _ if !w.is_packed() => 0.0,
            // The packed weights in, the dense ones out and in again.
            Unpacking::ToScratch(dtype) => weights * (PACKED_BYTES + 2.0 * dtype.size() as f64) / self.speed.bandwidth,
            Unpacking::InProduct(part) => part * 2.0 * rows as f64 * weights / self.speed.flops,
        }
    }

    /// Seconds of a product with the head over a chunk of rows, or of reading it where that takes longer.
    fn head(&self, product: f64, w: &Weight) -> StepTime {
        let weights = w.n as f64 * w.k as f64;
        let read = |bytes: f64| weights * bytes / self.speed.bandwidth;
        let head = match (w.store, self.properties.unpacking()) {
            (WeightStore::Dense(b), _) => product.max(read(b.dtype().size() as f64)),
            (WeightStore::Nf4 { .. }, Unpacking::InProduct(part)) => (product * (1.0 + part)).max(read(PACKED_BYTES)),
            (WeightStore::Nf4 { .. }, Unpacking::ToScratch(_)) => product + self.unpacking(0, w),
        };
        StepTime { head, ..StepTime::default() }
    }

    /// Seconds to fetch rows of an embedding that lies in host memory.
    fn bus(&self, op: &Embed) -> f64 {
        match op.table.space() {
            Space::Device => 0.0,
            Space::Host => (op.out.len() * op.table.dtype().size()) as f64 / self.speed.bus,
        }
    }
}

impl std::ops::AddAssign for StepTime {
    fn add_assign(&mut self, other: Self) {
        self.compute += other.compute;
        self.unpack += other.unpack;
        self.head += other.head;
        self.bus += other.bus;
    }
}

impl Work {
    /// It as micro-batches of equal size, as few as `spec` allows: one of them, and how many.
    fn micro_batches(&self, spec: &EngineSpec) -> (BatchShape, f64) {
        let count = (self.rows / spec.max_rows as f64).ceil().max(1.0);
        let share = |all: f64| if all > 0.0 { (all / count).round().max(1.0) as usize } else { 0 };
        let rows = share(self.rows).clamp(1, spec.max_rows);
        let docs = ((rows as f64 / self.len.max(1.0)).round() as usize).clamp(1, rows);
        let shape = BatchShape { rows, docs, max_len: rows.div_ceil(docs), targets: share(self.targets).min(rows) };
        (shape, count)
    }
}

/// Time of one micro-batch.
fn micro_batch_time(
    spec: &EngineSpec,
    a: &Arrangement,
    shape: BatchShape,
    properties: &dyn Properties,
    speed: &Speed,
) -> Result<StepTime> {
    let model = Model { properties, speed, head: a.weights.head };
    let mut time = StepTime::default();
    operations::micro_batch(spec, a, shape, &mut |op| {
        time += model.time(op);
        Ok(())
    })?;
    Ok(time)
}

/// Time of a step that is cut into as few micro-batches as the plan allows: of training, or of inference where nothing is
/// trained.
///
/// # Errors
/// If `spec` cannot be laid out.
pub fn step_time(spec: &EngineSpec, properties: &dyn Properties, speed: &Speed, step: &Work) -> Result<StepTime> {
    let (shape, count) = step.micro_batches(spec);
    let t = micro_batch_time(spec, &arrange(spec, properties)?, shape, properties, speed)?;
    let all = |seconds: f64| seconds * count;
    Ok(StepTime { compute: all(t.compute), unpack: all(t.unpack), head: all(t.head), bus: all(t.bus) })
}

/// Floating-point operations that a step cannot do without: those of its operations when nothing is recomputed.
///
/// # Errors
/// If `spec` cannot be laid out.
pub fn step_flops(spec: &EngineSpec, properties: &dyn Properties, step: &Work) -> Result<f64> {
    let needed = EngineSpec { saved: vec![Saved::All; spec.saved.len()], ..spec.clone() };
    let (shape, count) = step.micro_batches(&needed);
    let mut flops = 0.0;
    operations::micro_batch(&needed, &arrange(&needed, properties)?, shape, &mut |op| {
        flops += op.flops();
        Ok(())
    })?;
    Ok(flops * count)
}

/// Knobs by seconds saved per byte, the best first. Gate/up comes after attention: it needs it.
///
/// # Errors
/// If what is asked for cannot be laid out.
pub fn knobs_by_worth(asked: &EngineSpec, properties: &dyn Properties, speed: &Speed) -> Result<Vec<Knob>> {
    let docs = (asked.max_rows / asked.max_len.max(1)).max(1);
    let targets = asked.logit_rows.min(asked.max_rows);
    let shape = BatchShape { rows: asked.max_rows, docs, max_len: asked.max_len.min(asked.max_rows), targets };
    // Two layers, of which one is changed: what the others share is there before and after.
    let leanest = if asked.residency.contains(&Residency::Dense) { Residency::Dense } else { Residency::Nf4 };
    let with = |saved, residency, embedding| -> Result<(f64, f64)> {
        let spec = EngineSpec {
            model: ModelConfig { layers: 2, ..asked.model.clone() },
            saved: vec![Saved::InputOnly, saved],
            residency: vec![leanest, residency],
            // A layer like most.
            dense_modules: vec![Vec::new(); 2],
            embedding,
            ..asked.clone()
        };
        let a = arrange(&spec, properties)?;
        Ok((micro_batch_time(&spec, &a, shape, properties, speed)?.total(), a.layout.bytes() as f64))
    };
    let lean = with(Saved::InputOnly, leanest, asked.embedding)?;
    let attention = with(Saved::NoGateUp, leanest, asked.embedding)?;
    let gate_up = with(Saved::All, leanest, asked.embedding)?;
    let worth = |before: (f64, f64), after: (f64, f64)| (before.0 - after.0) / (after.1 - before.1).max(1.0);
    let mut order = vec![(Knob::SaveAttention, worth(lean, attention)), (Knob::SaveGateUp, worth(attention, gate_up))];
    if leanest == Residency::Nf4 {
        let unpacked = with(Saved::InputOnly, Residency::Unpacked, asked.embedding)?;
        order.push((Knob::Unpack, worth(lean, unpacked)));
    }
    if asked.embedding == Space::Host {
        let near = with(Saved::InputOnly, leanest, Space::Device)?;
        order.push((Knob::Embedding, worth(lean, near)));
    }
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut order: Vec<Knob> = order.iter().map(|w| w.0).collect();
    let place = |order: &[Knob], k| order.iter().position(|&x| x == k).unwrap_or(0);
    let (a, g) = (place(&order, Knob::SaveAttention), place(&order, Knob::SaveGateUp));
    if g < a {
        order.swap(a, g);
    }
    Ok(order)
}
