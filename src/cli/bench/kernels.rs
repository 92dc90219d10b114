//! Single operations on the shapes of a model.

use super::{Figure, Found, Job, step::documents};
use crate::{
    Result,
    backend::{
        Backend, Buffer, DType, HostTensor, Kind, Layout, Op, Rows, Weight, WeightStore,
        ops::{
            Attention, AttentionBackward, Convert, CrossEntropy, Dequantize, Linear, LinearBackward, LoadNf4, Operation,
        },
    },
    cli::common::Terminal,
    data::MicroBatch,
    model::{ModelConfig, source::Opened},
    rng::Rng,
    run::device,
};

/// Rows of the head that are measured: targets of a micro-batch.
const HEAD_ROWS: usize = 32;

/// Everything that the operations read and write.
struct Buffers {
    rows: Rows,
    /// gate/up as the layers store it, unquantised and in NF4.
    weights: [Weight; 2],
    head: Weight,
    /// [T, H] and [T, 2F].
    narrow: [Buffer; 2],
    wide: Buffer,
    qk: [Buffer; 2],
    qkv: [Buffer; 2],
    o: [Buffer; 2],
    lse: Buffer,
    logits: Buffer,
    loss: Buffer,
    targets: Buffer,
    staging: Buffer,
    dense_copy: Buffer,
}

impl Buffers {
    fn place(l: &mut Layout, act: DType, c: &ModelConfig, batch: &MicroBatch, dense: DType) -> Self {
        let (t, h) = (batch.rows(), c.hidden);
        let (n, k) = (2 * c.intermediate, h);
        let mut take = |dtype, len| l.take(Kind::Workspace, dtype, len);
        let (weight, packed, absmax) = (take(dense, n * k), take(DType::U8, n * k / 2), take(DType::F32, n * k / 64));
        let nf4 = WeightStore::Nf4 { packed, absmax, compute: DType::Bf16 };
        Self {
            rows: Rows {
                count: t,
                docs: batch.docs(),
                max_len: batch.max_len(),
                tokens: take(DType::U32, t),
                positions: take(DType::U32, t),
                samples: take(DType::U32, t),
                cu_seqlens: take(DType::U32, batch.docs() + 1),
            },
            weights: [WeightStore::Dense(weight), nf4].map(|store| Weight { n, k, store }),
            head: Weight { n: c.vocab, k: h, store: WeightStore::Dense(take(dense, c.vocab * h)) },
            narrow: [(); 2].map(|()| take(act, t.max(HEAD_ROWS) * h)),
            wide: take(act, t * n),
            qk: [(); 2].map(|()| take(act, t * c.heads.qk_width())),
            qkv: [(); 2].map(|()| take(act, t * c.heads.qkv_width())),
            o: [(); 2].map(|()| take(act, t * c.heads.q_width())),
            lse: take(DType::F32, t * c.heads.q),
            logits: take(act, HEAD_ROWS * c.vocab),
            loss: take(DType::F32, 1),
            targets: take(DType::U32, HEAD_ROWS),
            staging: take(DType::F32, (t * n).max(c.vocab * h).max(n * k)),
            dense_copy: take(DType::Bf16, n * k),
        }
    }

    /// Fills what is read with random numbers.
    fn fill(&self, be: &mut dyn Backend, c: &ModelConfig, batch: &MicroBatch, values: &[f32]) -> Result<()> {
        let targets: Vec<u32> = (0..HEAD_ROWS as u32).map(|i| i % c.vocab as u32).collect();
        for (buffer, data) in [
            (self.rows.tokens, &batch.tokens),
            (self.rows.positions, &batch.positions),
            (self.rows.samples, &batch.samples),
            (self.rows.cu_seqlens, &batch.cu_seqlens),
            (self.targets, &targets),
        ] {
            be.write(buffer, bytemuck::cast_slice(data))?;
        }
        be.write(self.staging, bytemuck::cast_slice(values))?;
        let dense = [self.weights[0], self.head].into_iter().filter_map(|w| match w.store {
            WeightStore::Dense(b) => Some(b),
            WeightStore::Nf4 { .. } => None,
        });
        for dst in dense.chain([self.wide, self.qk[0], self.qkv[0], self.o[1], self.narrow[0]]) {
            be.run(&Convert { src: self.staging.prefix(dst.len()), dst }.into())?;
        }
        Ok(())
    }
}

/// An operation that is measured: its name for people, the unit of its figure, and how much of it one run does.
struct Case<'a> {
    name: String,
    unit: &'static str,
    amount: f64,
    op: Op<'a>,
}

/// The operations, in the order in which they are measured; `values` are what NF4 is made of.
fn cases<'a>(b: &Buffers, c: &ModelConfig, batch: &MicroBatch, values: &'a [f32]) -> Vec<Case<'a>> {
    let (t, h, n, rows, heads) = (batch.rows(), c.hidden, 2 * c.intermediate, b.rows, c.heads);
    let mut cases = Vec::new();
    let mut add = |name: String, unit, amount, op| cases.push(Case { name, unit, amount, op });
    let product = |op: &dyn Operation| 1e-9 * op.flops();
    let (z, dz) = (b.narrow[0].prefix(t * h), b.narrow[1].prefix(t * h));
    for (w, name) in std::iter::zip(b.weights, ["dense", "NF4"]) {
        let name = format!("linear {n}×{h}, {name}");
        let forward = Linear { z, w, parts: Vec::new(), add: None, y: b.wide };
        let backward = LinearBackward { dy: b.wide, w, parts: Vec::new(), mask: None, dz };
        add(name.clone(), "GFLOP/s", product(&forward), forward.into());
        add(format!("{name}, backward"), "GFLOP/s", product(&backward), backward.into());
    }
    // Scores above the diagonal are not counted.
    let pairs: f64 =
        batch.cu_seqlens.windows(2).map(|w| f64::from(w[1] - w[0])).map(|len| len * (len + 1.0) / 2.0).sum();
    let scores = 2e-9 * pairs * heads.q_width() as f64;
    let name = format!("attention, {} × {}", batch.docs(), batch.max_len());
    let ([qk, dqk], [qkv, dqkv], [o, do_], lse) = (b.qk, b.qkv, b.o, b.lse);
    add(name.clone(), "GFLOP/s", 2.0 * scores, Attention { qk, qkv, rows, heads, o, lse }.into());
    let backward = AttentionBackward { qk, qkv, o, lse, do_, rows, heads, dqk, dqkv };
    add(format!("{name}, backward"), "GFLOP/s", 5.0 * scores, backward.into());
    let (z, dz) = (b.narrow[0].prefix(HEAD_ROWS * h), b.narrow[1].prefix(HEAD_ROWS * h));
    let forward = Linear { z, w: b.head, parts: Vec::new(), add: None, y: b.logits };
    let backward = LinearBackward { dy: b.logits, w: b.head, parts: Vec::new(), mask: None, dz };
    add(format!("head, {HEAD_ROWS} rows of {}", c.vocab), "GFLOP/s", product(&forward), forward.into());
    let (vocab, loss) = (c.vocab, b.loss);
    let entropy = CrossEntropy { logits: b.logits, vocab, targets: b.targets, grad_scale: 1.0, loss };
    add("cross-entropy".into(), "10⁶ logits/s", 1e-6 * b.logits.len() as f64, entropy.into());
    add("head, backward".into(), "GFLOP/s", product(&backward), backward.into());
    if let WeightStore::Nf4 { packed, absmax, .. } = b.weights[1].store {
        let src = HostTensor { dtype: DType::F32, bytes: bytemuck::cast_slice(&values[..n * h]) };
        let gigabytes = src.bytes.len() as f64 / 1e9;
        add("quantise f32 to NF4".into(), "GB/s", gigabytes, LoadNf4 { src, packed, absmax }.into());
        let unpack = Dequantize { w: b.weights[1], dst: b.dense_copy };
        add("dequantise to bf16".into(), "GB/s", gigabytes / 2.0, unpack.into());
    }
    cases
}

/// Seconds of each of `repeats` runs by the device's clock, after one that does not count.
fn times(be: &mut dyn Backend, repeats: u32, op: &Op) -> Result<Vec<f64>> {
    be.measure_times(true);
    let run = |be: &mut dyn Backend, times: u32| -> Result<f64> {
        (0..times).try_for_each(|_| be.run(op))?;
        Ok((be.take_times()?.iter().map(|t| t.seconds).sum::<f64>() / f64::from(times)).max(1e-9))
    };
    be.run(op)?;
    be.take_times()?;
    // So many at a time that the device never waits for the host between them.
    let at_a_time = if be.properties().own_memory() { (0.02 / run(be, 1)?).ceil().clamp(1.0, 200.0) as u32 } else { 1 };
    (0..repeats).map(|_| run(be, at_a_time)).collect()
}

/// GFLOP/s of products and attention, GB/s of quantising.
pub(super) fn measure(job: &Job, opened: &Opened) -> Result<Found> {
    let c = opened.source.config();
    let asked = job.asked(opened);
    let batch = documents(asked.max_rows, asked.max_len, c.vocab);
    let mut device = device::open(&job.machine, &mut Terminal::default())?;
    let be = device.backend.as_mut();
    let gpu = be.properties().own_memory();
    let peak = gpu.then_some(device.speed.flops * 1e-9);
    let dense = if gpu { DType::Bf16 } else { opened.source.dense_dtype() };
    let mut l = Layout::new();
    let b = Buffers::place(&mut l, be.properties().activation(), c, &batch, dense);
    let mut rng = Rng::new(1, 1);
    let values: Vec<f32> = (0..b.staging.len()).map(|_| rng.normal()).collect();
    let cases = cases(&b, c, &batch, &values);
    let scratch = cases.iter().map(|case| be.properties().scratch(&case.op)).max().unwrap_or(0);
    let scratch = l.take(Kind::Scratch, DType::U8, scratch);
    be.allocate(l.bytes(), l.host_bytes(), scratch)?;
    b.fill(be, c, &batch, &values)?;
    // The products read the NF4 weight before its own turn comes.
    for case in cases.iter().filter(|case| matches!(case.op, Op::LoadNf4(_))) {
        be.run(&case.op)?;
    }
    let figure = |case: &Case| -> Result<Figure> {
        let figure = Figure::new(&case.name, case.unit, case.amount, &times(be, job.args.repeats, &case.op)?);
        Ok(figure.of(peak.filter(|_| case.unit == "GFLOP/s")))
    };
    let figures = cases.iter().map(figure).collect::<Result<_>>()?;
    let workload = format!("{} rows, documents of {}; weights as {dense:?} and NF4", asked.max_rows, asked.max_len);
    Ok(Found { workload, device: be.describe(), figures, operations: Vec::new() })
}
