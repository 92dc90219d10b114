//! Operations of the CPU backend: `cargo bench --bench ops`. Throughput is in floating-point operations a second
//! (elements, in criterion's words) for products and attention, and in bytes a second for quantising.

// `criterion_group!` makes a public function without a doc line.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use irori::{
    backend::{
        Backend, Buffer, DType, Heads, HostTensor, Kind, Layout, Rows, Weight, WeightStore,
        cpu::CpuBackend,
        ops::{Attention, AttentionBackward, CrossEntropy, Linear, LinearBackward, LoadNf4},
    },
    quant::nf4,
    rng::Rng,
    tensor::Floats,
};

const HEADS: Heads = Heads { q: 16, kv: 8, dim: 128 };

fn random(len: usize) -> Vec<f32> {
    let mut rng = Rng::new(1, 1);
    (0..len).map(|_| rng.normal()).collect()
}

/// A backend with the buffers of `layout` and scratch for everything here; f32 buffers are filled.
fn backend(mut layout: Layout, fill: &[Buffer]) -> CpuBackend {
    // More than any operation here needs.
    let scratch = layout.take(Kind::Scratch, DType::U8, 64 << 20);
    let mut be = CpuBackend::new(None).expect("threads start");
    be.allocate(layout.bytes(), 0, scratch).expect("memory is there");
    for &b in fill {
        be.write(b, bytemuck::cast_slice(&random(b.len()))).expect("the buffer fits");
    }
    be
}

fn linear(c: &mut Criterion) {
    let (n, k) = (6144, 2048);
    let mut layout = Layout::new();
    let dense = layout.take(Kind::DenseWeights, DType::F32, n * k);
    let packed = layout.take(Kind::QuantizedWeights, DType::U8, n * k / 2);
    let absmax = layout.take(Kind::QuantizedWeights, DType::F32, n * k / 64);
    let z = layout.take(Kind::Workspace, DType::F32, 512 * k);
    let y = layout.take(Kind::Workspace, DType::F32, 512 * n);
    let mut be = backend(layout, &[dense, z]);
    let values = random(n * k);
    let host = HostTensor { dtype: DType::F32, bytes: bytemuck::cast_slice(&values) };
    be.run(&LoadNf4 { src: host, packed, absmax }.into()).expect("it quantises");
    let nf4 = WeightStore::Nf4 { packed, absmax, compute: DType::Bf16 };
    for (name, store) in [("f32", WeightStore::Dense(dense)), ("nf4", nf4)] {
        let w = Weight { n, k, store };
        for rows in [1, 4, 64, 512] {
            let mut group = c.benchmark_group(format!("linear {n}x{k} {name}"));
            group.throughput(Throughput::Elements(2 * (rows * n * k) as u64)).sample_size(10);
            let (z, y) = (z.prefix(rows * k), y.prefix(rows * n));
            group.bench_function(format!("{rows} rows"), |b| {
                b.iter(|| be.run(&Linear { z, w, parts: Vec::new(), add: None, y }.into()).expect("runs"))
            });
            group.bench_function(format!("{rows} rows backward"), |b| {
                b.iter(|| {
                    be.run(&LinearBackward { dy: y, w, parts: Vec::new(), mask: None, dz: z }.into()).expect("runs")
                });
            });
        }
    }
}

fn attention(c: &mut Criterion) {
    for t in [300usize, 1024] {
        let mut layout = Layout::new();
        let mut take = |dtype, len| layout.take(Kind::Workspace, dtype, len);
        let [qk, dqk] = [(); 2].map(|()| take(DType::F32, t * HEADS.qk_width()));
        let [qkv, dqkv] = [(); 2].map(|()| take(DType::F32, t * HEADS.qkv_width()));
        let [o, d_o] = [(); 2].map(|()| take(DType::F32, t * HEADS.q_width()));
        let (lse, bounds, unused) = (take(DType::F32, t * HEADS.q), take(DType::U32, 2), take(DType::U32, t));
        let mut be = backend(layout, &[qk, qkv, d_o]);
        be.write(bounds, bytemuck::cast_slice(&[0, t as u32])).expect("the buffer fits");
        let rows = Rows {
            count: t,
            docs: 1,
            max_len: t,
            tokens: unused,
            positions: unused,
            samples: unused,
            cu_seqlens: bounds,
        };
        let mut group = c.benchmark_group(format!("attention {t} rows"));
        // Two products of t²/2 scores forward, five backward (more are computed).
        let product = (t * t * HEADS.q_width()) as u64;
        group.throughput(Throughput::Elements(2 * product)).sample_size(10);
        group.bench_function("forward", |b| {
            b.iter(|| be.run(&Attention { qk, qkv, rows, heads: HEADS, o, lse }.into()).expect("runs"))
        });
        group.throughput(Throughput::Elements(5 * product));
        group.bench_function("backward", |b| {
            b.iter(|| {
                be.run(&AttentionBackward { qk, qkv, o, lse, do_: d_o, rows, heads: HEADS, dqk, dqkv }.into())
                    .expect("runs")
            });
        });
    }
}

fn vocabulary(c: &mut Criterion) {
    let (rows, vocab) = (64, 151_936);
    let mut layout = Layout::new();
    let logits = layout.take(Kind::Logits, DType::F32, rows * vocab);
    let (targets, loss) = (layout.take(Kind::Batch, DType::U32, rows), layout.take(Kind::Batch, DType::F32, 1));
    let mut be = backend(layout, &[logits]);
    let mut group = c.benchmark_group("cross-entropy");
    group.throughput(Throughput::Elements((rows * vocab) as u64)).sample_size(10);
    group.bench_function("64 rows", |b| {
        b.iter(|| be.run(&CrossEntropy { logits, vocab, targets, grad_scale: 1.0, loss }.into()).expect("runs"))
    });
}

fn quantise(c: &mut Criterion) {
    let len = 1 << 24;
    let values = random(len);
    let (mut packed, mut absmax, mut out) = (vec![0; len / 2], vec![0.0; len / 64], vec![0.0; len]);
    let mut group = c.benchmark_group("nf4");
    group.throughput(Throughput::Bytes(4 * len as u64)).sample_size(10);
    group.bench_function("quantise f32", |b| {
        b.iter(|| nf4::quantize(Floats::F32(bytemuck::cast_slice(&values)), &mut packed, &mut absmax));
    });
    group.bench_function("dequantise to f32", |b| b.iter(|| nf4::dequantize(&packed, &absmax, true, &mut out)));
}

criterion_group!(benches, linear, attention, vocabulary, quantise);
criterion_main!(benches);
