//! The launches of a step of Qwen3-8B, recorded: the operations that the engine would run, the launches that the backend
//! would queue for them, and what each takes at least.

use super::{
    DOCUMENT, LOGIT_ROWS, RANK, ROWS,
    counts::{self, Counts, blocks},
    linear, lora, model,
    rows::{Cost, Row},
};
use crate::{harness::SLICE, work::Work};
use irori::{
    backend::{
        AdamW, DType, LoraPart, Op, Rows, Space,
        check::{Extent, check},
        cuda::{
            CudaProperties, Nf4Path,
            command::Command,
            context::{Arena, Context},
            launch::Launch,
            launches,
        },
        ops::{Attention, AttentionBackward, CrossEntropy, GlobalNorm},
    },
    model::{
        LoraConfig, Module,
        engine::{Arrangement, BatchShape, EngineSpec, HeadStore, Residency, Saved, arrange, operations},
    },
};

/// Everything saved, adapters on all linears, weights in NF4.
fn spec(dropout: bool) -> EngineSpec {
    let model = model();
    let (alpha, dropout) = (2.0 * RANK as f32, if dropout { 0.05 } else { 0.0 });
    EngineSpec {
        lora: Some(LoraConfig { r: RANK, alpha, dropout, rslora: false, targets: Module::ALL.into() }),
        training: true,
        max_rows: ROWS,
        max_len: DOCUMENT,
        logit_rows: LOGIT_ROWS,
        saved: vec![Saved::All; model.layers],
        residency: vec![Residency::Nf4; model.layers],
        dense_modules: vec![Vec::new(); model.layers],
        model,
        compute: DType::Bf16,
        dense: DType::Bf16,
        head: HeadStore::Dense,
        embedding: Space::Device,
        kv_slots: 0,
        kv_capacity: 0,
    }
}

/// What was recorded.
pub struct Step {
    /// By kernel and operands, in the order of the first launch.
    pub rows: Vec<Row>,
    /// Floating-point operations that the mathematics asks for.
    pub flops: f64,
}

/// A micro-batch, forward and backward.
pub fn micro_batch(counts: &Counts, targets: usize, dropout: bool) -> Step {
    let spec = spec(dropout);
    let a = arrange(&spec, &CudaProperties::FUSED).unwrap();
    let shape = BatchShape { rows: ROWS, docs: ROWS / DOCUMENT, max_len: DOCUMENT, targets };
    record(counts, &a, |run| operations::micro_batch(&spec, &a, shape, run))
}

/// What the optimizer does once a step, however many micro-batches it has.
pub fn update(counts: &Counts) -> Step {
    let a = arrange(&spec(true), &CudaProperties::FUSED).unwrap();
    let adapter = a.adapter.expect("it is trained");
    record(counts, &a, |run| operations::update(&a, &adapter, AdamW::default(), run))
}

/// Receives the operations.
type Run<'a> = &'a mut dyn FnMut(&Op) -> irori::Result<()>;

fn record(counts: &Counts, a: &Arrangement, stream: impl FnOnce(Run) -> irori::Result<()>) -> Step {
    let (device, host) = (a.layout.bytes(), a.layout.host_bytes());
    let extent = Extent { device, host, scratch: a.scratch.range() };
    let arena = Arena::default();
    let at = Context { chip: SLICE, address: &|b| arena.address(b), scratch: a.scratch, nf4: Nf4Path::Fused };
    let mut step = Step { rows: Vec::new(), flops: 0.0 };
    stream(&mut |op| {
        let commands = launches::of(&check(op, DType::Bf16, &extent)?, &at)?;
        let launch = |c| if let Command::Launch(l) = c { Some(l) } else { None };
        let launches: Vec<Launch> = commands.into_iter().filter_map(launch).collect();
        step.flops += op.flops();
        rows_of(counts, a, op, &launches).into_iter().for_each(|row| step.add(row));
        Ok(())
    })
    .unwrap();
    step
}

impl Step {
    fn add(&mut self, row: Row) {
        match self.rows.iter_mut().find(|r| (r.kernel, &r.what) == (row.kernel, &row.what)) {
            Some(known) => known.add(&row),
            None => self.rows.push(row),
        }
    }

    /// Milliseconds of all launches.
    pub fn ms(&self) -> f64 {
        self.rows.iter().map(Row::ms).sum()
    }

    /// Launches.
    pub fn launches(&self) -> usize {
        self.rows.iter().map(|r| r.launches).sum()
    }
}

/// The fused linear that these adapters are on; the head has none.
pub fn linear_name(parts: &[LoraPart]) -> &'static str {
    match parts.first().map(|p| Module::ALL[p.module as usize]) {
        None => "head",
        Some(Module::QProj) => "qkv",
        Some(Module::OProj) => "o",
        Some(Module::GateProj) => "gate/up",
        Some(Module::DownProj) => "down",
        Some(other) => panic!("{} does not come first", other.name()),
    }
}

/// What the launches of an operation cost.
fn rows_of(counts: &Counts, a: &Arrangement, op: &Op, launches: &[Launch]) -> Vec<Row> {
    match op {
        Op::Zero(_) => Vec::new(),
        Op::Linear(op) => linear::forward(counts, op, launches),
        Op::LinearBackward(op) => linear::backward(counts, op, launches),
        Op::LoraDown(op) => lora::down(counts, op, launches),
        Op::LoraBackward(op) => lora::backward(counts, op, launches),
        Op::Attention(op) => attention(counts, op, launches),
        Op::AttentionBackward(op) => attention_backward(counts, op, launches),
        Op::CrossEntropy(op) => cross_entropy(counts, op, launches),
        Op::GlobalNorm(op) => global_norm(counts, op, launches),
        op => {
            let [launch] = launches else { panic!("{} is {} launches", op.name(), launches.len()) };
            vec![streaming(counts, launch, operands(a, op), least(op))]
        }
    }
}

/// A launch whose blocks were counted: alike, and evenly dealt out.
fn streaming(counts: &Counts, launch: &Launch, (what, adds): (&str, bool), least: usize) -> Row {
    let block = counts.streaming.get(&(launch.kernel, adds));
    let block = *block.unwrap_or_else(|| panic!("{} has not been counted", launch.kernel));
    Row::new(launch.kernel, what, Cost::of_blocks(block, blocks(launch), least))
}

/// Which operands, for the table, and whether another matrix is added on top.
fn operands(a: &Arrangement, op: &Op) -> (&'static str, bool) {
    let final_norm = a.weights.final_norm;
    match op {
        Op::Embed(_) => ("embedding", false),
        Op::RmsNorm(op) if op.w == final_norm => ("head", false),
        Op::RmsNorm(_) | Op::HeadNormRope(_) | Op::SwiGlu(_) => ("forward, and again backward", false),
        Op::RmsNormBackward(op) => (if op.w == final_norm { "head" } else { "" }, op.add.is_some()),
        Op::GatherRows(_) | Op::ScatterRows(_) => ("head", false),
        Op::AdamWUpdate(_) => ("once a step", false),
        _ => ("", false),
    }
}

/// Bytes that an operation of one launch must at least move: every row that it touches, once in or out.
fn least(op: &Op) -> usize {
    let act = DType::Bf16.size();
    match op {
        Op::Embed(op) => 2 * op.out.bytes(),
        Op::GatherRows(op) => 2 * op.out.bytes(),
        Op::ScatterRows(op) => 2 * op.src.bytes(),
        Op::RmsNorm(op) => 2 * op.x.bytes(),
        Op::RmsNormBackward(op) => {
            if op.add.is_some() {
                4 * op.x.bytes()
            } else {
                3 * op.x.bytes()
            }
        }
        Op::HeadNormRope(op) => 2 * op.qk.bytes(),
        Op::HeadNormRopeBackward(op) => 3 * op.dqk.bytes(),
        Op::SwiGlu(op) => 3 * op.s.bytes(),
        Op::SwiGluBackward(op) => 5 * op.ds.bytes(),
        // g, m, v and the master copy in; m, v, master and working copy out.
        Op::AdamWUpdate(op) => op.grad.len() * (7 * DType::F32.size() + act),
        op => panic!("{} is of several launches", op.name()),
    }
}

/// Bytes of what attention reads and writes, each once.
struct Matrices {
    q: usize,
    qk: usize,
    /// k, or v.
    kv: usize,
    lse: usize,
    /// Documents times key/value heads: what was counted of is one of each.
    pieces: f64,
}

impl Matrices {
    fn of(rows: &Rows, heads: irori::backend::Heads) -> Self {
        assert_eq!(rows.count, rows.docs * DOCUMENT, "documents are alike");
        let bytes = |width| rows.count * width * DType::Bf16.size();
        Self {
            q: bytes(heads.q_width()),
            qk: bytes(heads.qk_width()),
            kv: bytes(heads.kv_width()),
            lse: rows.count * heads.q * DType::F32.size(),
            pieces: (heads.kv * rows.docs) as f64,
        }
    }

    fn row(&self, launch: &Launch, kernel: &'static str, piece: Work, least: usize) -> Row {
        assert_eq!(launch.kernel, kernel);
        Row::new(kernel, "", Cost::spread(piece * self.pieces, least))
    }
}

fn attention(counts: &Counts, op: &Attention, launches: &[Launch]) -> Vec<Row> {
    let (m, c) = (Matrices::of(&op.rows, op.heads), &counts.attention);
    vec![m.row(&launches[0], "attention", c.forward, m.qk + m.kv + m.q + m.lse)]
}

fn attention_backward(counts: &Counts, op: &AttentionBackward, launches: &[Launch]) -> Vec<Row> {
    let (m, c) = (Matrices::of(&op.rows, op.heads), &counts.attention);
    let [stats, dq, dkv] = launches else { panic!("{} launches", launches.len()) };
    vec![
        m.row(stats, "attention_stats", c.stats, 2 * m.q + 3 * m.lse),
        m.row(dq, "attention_dq", c.dq, m.qk + m.kv + 2 * m.q + 2 * m.lse),
        m.row(dkv, "attention_dkv", c.dkv, m.qk + m.kv + m.q + 2 * m.lse + 2 * m.kv),
    ]
}

fn cross_entropy(counts: &Counts, op: &CrossEntropy, launches: &[Launch]) -> Vec<Row> {
    let [by_row, sum] = launches else { panic!("{} launches", launches.len()) };
    let added = Cost::of_blocks(counts::add_loss(op.rows()), blocks(sum), op.rows() * DType::F32.size());
    // Logits are read for the sum of exponentials and once more for their gradient.
    vec![streaming(counts, by_row, ("head", false), 3 * op.logits.bytes()), Row::new(sum.kernel, "head", added)]
}

fn global_norm(counts: &Counts, op: &GlobalNorm, launches: &[Launch]) -> Vec<Row> {
    let [squares, finish] = launches else { panic!("{} launches", launches.len()) };
    let partial = blocks(squares) as usize * DType::F32.size();
    let finished = Cost::of_blocks(counts::finish_norm(op.grad.len()), blocks(finish), partial);
    let what = "once a step";
    vec![streaming(counts, squares, (what, false), op.grad.bytes()), Row::new(finish.kernel, what, finished)]
}
