//! Single operations through the [`Backend`] trait, on the shapes of a model.

use super::{Figure, Found, Job, step::documents};
use crate::{
    Result,
    backend::{Backend, Buffer, DType, HostTensor, Kind, Layout, Rows, ScratchShape, Weight, WeightStore},
    cli::common::Terminal,
    data::MicroBatch,
    model::{ModelConfig, source::Opened},
    rng::Rng,
    run::device,
};
use std::iter::zip;

/// Rows of the head that are measured: targets of a micro-batch.
const HEAD_ROWS: usize = 32;

/// Everything that the operations read and write.
struct Buffers {
    rows: Rows,
    head_rows: Rows,
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

/// Takes the memory, fills it with random numbers, and quantises the weight.
fn set_up(be: &mut dyn Backend, c: &ModelConfig, batch: &MicroBatch, dense: DType) -> Result<Buffers> {
    let (t, h, f) = (batch.rows(), c.hidden, c.intermediate);
    let (n, k) = (2 * f, h);
    let act = be.sizes().activation();
    let mut l = Layout::new();
    let shape = ScratchShape {
        rows: t,
        logit_rows: HEAD_ROWS,
        max_len: batch.max_len(),
        heads: c.heads,
        largest_weight: (n, k),
        widest: n.max(k).max(c.heads.qkv_width()),
        vocab: c.vocab,
        hidden: h,
        training: true,
        ..ScratchShape::default()
    };
    let scratch = l.take(Kind::Scratch, DType::U8, be.sizes().scratch_bytes(&shape));
    let mut take = |dtype, len| l.take(Kind::Workspace, dtype, len);
    let [tokens, positions, samples] = [(); 3].map(|()| take(DType::U32, t));
    let rows = Rows {
        count: t,
        docs: batch.docs(),
        max_len: batch.max_len(),
        tokens,
        positions,
        samples,
        cu_seqlens: take(DType::U32, batch.docs() + 1),
    };
    let weight = take(dense, n * k);
    let (packed, absmax) = (take(DType::U8, n * k / 2), take(DType::F32, n * k / 64));
    let nf4 = WeightStore::Nf4 { packed, absmax, compute: DType::Bf16 };
    let b = Buffers {
        rows,
        head_rows: Rows { count: HEAD_ROWS, ..rows },
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
    };
    be.allocate(l.bytes(), l.host_bytes(), scratch)?;
    for (buffer, data) in [
        (tokens, &batch.tokens),
        (positions, &batch.positions),
        (samples, &batch.samples),
        (rows.cu_seqlens, &batch.cu_seqlens),
    ] {
        be.write(buffer, bytemuck::cast_slice(data))?;
    }
    let mut rng = Rng::new(1, 1);
    let values: Vec<f32> = (0..b.staging.len()).map(|_| rng.normal()).collect();
    be.write(b.staging, bytemuck::cast_slice(&values))?;
    let WeightStore::Dense(head) = b.head.store else { return Ok(b) };
    for buffer in [weight, head, b.wide, b.qk[0], b.qkv[0], b.o[1], b.narrow[0]] {
        be.convert(b.staging.prefix(buffer.len()), buffer)?;
    }
    let host = HostTensor { dtype: DType::F32, bytes: bytemuck::cast_slice(&values[..n * k]) };
    be.load_nf4(host, packed, absmax)?;
    Ok(b)
}

/// A run of one operation.
type Run<'a> = &'a mut dyn FnMut(&mut dyn Backend) -> Result<()>;

/// Seconds of each of `repeats` runs by the device's clock, after one that does not count.
fn times(be: &mut dyn Backend, repeats: u32, f: Run) -> Result<Vec<f64>> {
    be.measure_times(true);
    let run = |be: &mut dyn Backend, f: Run, times: u32| -> Result<f64> {
        (0..times).try_for_each(|_| f(be))?;
        Ok((be.take_times()?.iter().map(|t| t.seconds).sum::<f64>() / f64::from(times)).max(1e-9))
    };
    f(be)?;
    be.take_times()?;
    // So many at a time that the device never waits for the host between them.
    let at_a_time = if be.sizes().own_memory() { (0.02 / run(be, f, 1)?).ceil().clamp(1.0, 200.0) as u32 } else { 1 };
    (0..repeats).map(|_| run(be, f, at_a_time)).collect()
}

/// GFLOP/s of products and attention, GB/s of quantising.
pub(super) fn measure(job: &Job, opened: &Opened) -> Result<Found> {
    let c = opened.source.config();
    let asked = job.asked(opened);
    let batch = documents(asked.max_rows, asked.max_len, c.vocab);
    let mut device = device::open(&job.machine, &mut Terminal::default())?;
    let be = device.backend.as_mut();
    let gpu = be.sizes().own_memory();
    let peak = gpu.then_some(device.speed.flops * 1e-9);
    let dense = if gpu { DType::Bf16 } else { opened.source.dense_dtype() };
    let b = set_up(be, c, &batch, dense)?;
    let (t, h, n) = (asked.max_rows, c.hidden, 2 * c.intermediate);
    let z = b.narrow[0].prefix(t * h);
    let mut figures = Vec::new();
    let mut add = |be: &mut dyn Backend, name: &str, unit, amount: f64, f: Run| -> Result<()> {
        let figure = Figure::new(name, unit, amount, &times(be, job.args.repeats, f)?);
        figures.push(figure.of(peak.filter(|_| unit == "GFLOP/s")));
        Ok(())
    };
    let loss = b.loss;
    let gflop = 2e-9 * (t * n * h) as f64;
    for (w, name) in zip(b.weights, ["dense", "NF4"]) {
        let shape = format!("linear {n}×{h}, {name}");
        add(be, &shape, "GFLOP/s", gflop, &mut |be| be.linear(z, &w, &[], None, b.wide))?;
        add(be, &format!("{shape}, backward"), "GFLOP/s", gflop, &mut |be| {
            be.linear_backward(b.wide, &w, &b.rows, &[], None, b.narrow[1].prefix(t * h))
        })?;
    }
    // Scores above the diagonal are not counted.
    let pairs: f64 =
        batch.cu_seqlens.windows(2).map(|w| f64::from(w[1] - w[0])).map(|len| len * (len + 1.0) / 2.0).sum();
    let product = 2e-9 * pairs * c.heads.q_width() as f64;
    let documents = format!("attention, {} × {}", batch.docs(), batch.max_len());
    add(be, &documents, "GFLOP/s", 2.0 * product, &mut |be| {
        be.attention(b.qk[0], b.qkv[0], &b.rows, c.heads, b.o[0], b.lse)
    })?;
    add(be, &format!("{documents}, backward"), "GFLOP/s", 5.0 * product, &mut |be| {
        be.attention_backward(b.qk[0], b.qkv[0], b.o[0], b.lse, b.o[1], &b.rows, c.heads, b.qk[1], b.qkv[1])
    })?;
    let head = 2e-9 * (HEAD_ROWS * h * c.vocab) as f64;
    let targets: Vec<u32> = (0..HEAD_ROWS as u32).map(|i| i % c.vocab as u32).collect();
    be.write(b.targets, bytemuck::cast_slice(&targets))?;
    let x = b.narrow[0].prefix(HEAD_ROWS * h);
    add(be, &format!("head, {HEAD_ROWS} rows of {}", c.vocab), "GFLOP/s", head, &mut |be| {
        be.linear(x, &b.head, &[], None, b.logits)
    })?;
    add(be, "cross-entropy", "10⁶ logits/s", 1e-6 * b.logits.len() as f64, &mut |be| {
        be.cross_entropy(b.logits, c.vocab, b.targets, 1.0, loss)
    })?;
    add(be, "head, backward", "GFLOP/s", head, &mut |be| {
        be.linear_backward(b.logits, &b.head, &b.head_rows, &[], None, b.narrow[1].prefix(HEAD_ROWS * h))
    })?;
    if let WeightStore::Nf4 { packed, absmax, .. } = b.weights[1].store {
        let values = be.read(b.staging.prefix(n * h))?;
        let host = HostTensor { dtype: DType::F32, bytes: &values };
        let gigabytes = values.len() as f64 / 1e9;
        add(be, "quantise f32 to NF4", "GB/s", gigabytes, &mut |be| be.load_nf4(host, packed, absmax))?;
        add(be, "dequantise to bf16", "GB/s", gigabytes / 2.0, &mut |be| be.dequantize(&b.weights[1], b.dense_copy))?;
    }
    let workload = format!("{t} rows, documents of {}; weights as {dense:?} and NF4", asked.max_len);
    Ok(Found { workload, device: be.describe(), figures, operations: Vec::new() })
}
