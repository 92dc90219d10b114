//! kernels/lora.cu: u, v and the adapters' gradients, put together as the backend does.

use crate::{
    harness::{Cpu, Documents, Gpu, Noise, SEEDS, assert_bits, assert_near},
    linear::DROP,
    measure::Work,
};
#[allow(unused_imports)]
use irori::backend::calls::Calls as _;
use irori::{
    backend::{
        Backend, Buffer, DType, LoraPart,
        cuda::{
            linear::{DropoutArgs, PARTS},
            skinny::{self, Skinny, SkinnyLaunch, SkinnyPart},
        },
    },
    rng::Dropout,
};
use ptxvm::{Args, Counters};
use std::ops::Range;

const SCALE: f32 = 2.0;

struct Case {
    docs: Documents,
    n: usize,
    k: usize,
    rank: usize,
    outs: Vec<Range<usize>>,
    drop: Option<Dropout>,
    z: Vec<f32>,
    dy: Vec<f32>,
    /// A, B and what dA and dB hold before.
    adapters: Vec<[Vec<f32>; 4]>,
}

impl Case {
    fn new(lengths: &[usize], n: usize, k: usize, outs: &[Range<usize>], rank: usize, drop: Option<Dropout>) -> Self {
        let docs = Documents::new(lengths);
        let mut noise = Noise::new((n * 7 + k * 3 + rank) as u64);
        let adapters = outs
            .iter()
            .map(|out| {
                let b = out.len() * rank;
                [
                    noise.normal(rank * k, 1.0),
                    noise.normal(b, 1.0),
                    noise.normal_f32(rank * k, 1.0),
                    noise.normal_f32(b, 1.0),
                ]
            })
            .collect();
        let z = noise.normal(docs.rows() * k, 1.0);
        let dy = noise.normal(docs.rows() * n, 1.0);
        Self { docs, n, k, rank, outs: outs.to_vec(), drop, z, dy, adapters }
    }
}

/// u, v, dA, dB of each part.
type Results = Vec<[Vec<f32>; 4]>;

fn run_gpu(c: &Case, seed: u64) -> Option<(Results, Vec<Counters>)> {
    let mut gpu = Gpu::new("lora", seed)?;
    let (rows, rank, parts) = (c.docs.rows(), c.rank, c.outs.len());
    let drop = DropoutArgs::new(c.drop);
    let (z, dy) = (gpu.bf16(&c.z), gpu.bf16(&c.dy));
    let (samples, positions) = (gpu.u32(&c.docs.samples), gpu.u32(&c.docs.positions));
    let mut counters = Vec::new();
    let mut go = |gpu: &mut Gpu, l: &SkinnyLaunch, args: &Args| {
        let cost = gpu.launch(l.kernel, l.grid, l.threads, 0, args);
        assert_eq!(cost.bank_conflicts(), 0, "{}: {cost}", l.kernel);
        assert_eq!(cost.local_accesses, 0);
        counters.push(cost);
    };
    let empty =
        SkinnyPart { narrow: 0, wide: 0, partial: 0, column: 0, depth: 0, rank: 0, module: 0, scale: 0.0, unused: 0 };
    let base = Skinny {
        x: z,
        samples,
        positions,
        rows: rows as i32,
        pitch: c.k as i32,
        split: skinny::SPLIT_ROWS as i32,
        drop,
        parts: parts as i32,
        unused: 0,
        part: [empty; PARTS],
    };
    let (mut down, mut up) = (base, Skinny { x: dy, pitch: c.n as i32, drop: DropoutArgs::new(None), ..base });
    let mut gradients = Vec::new();
    for (i, (out, [a, b, da, db])) in c.outs.iter().zip(&c.adapters).enumerate() {
        let transposed = gpu.fresh(b.len() * 2);
        let l = skinny::transpose(rank, out.len());
        let from = gpu.bf16(b);
        go(&mut gpu, &l, &Args::new().u64(from).i32(out.len() as i32).i32(rank as i32).u64(transposed));
        down.part[i] = SkinnyPart {
            narrow: gpu.fresh(rows * rank * 2),
            wide: gpu.bf16(a),
            partial: gpu.fresh(4 * skinny::partial_len(rows, rank, c.k)),
            column: 0,
            depth: c.k as i32,
            rank: rank as i32,
            module: i as u32 * 2,
            scale: drop.scale,
            unused: 0,
        };
        up.part[i] = SkinnyPart {
            narrow: gpu.fresh(rows * rank * 2),
            wide: transposed,
            partial: gpu.fresh(4 * skinny::partial_len(rows, rank, out.len())),
            column: out.start as i32,
            depth: out.len() as i32,
            scale: SCALE,
            ..down.part[i]
        };
        gradients.push((gpu.f32(da), gpu.f32(db)));
    }
    go(&mut gpu, &skinny::project(true, parts, rank, rows), &Args::new().raw(8, bytemuck::bytes_of(&down)));
    go(&mut gpu, &skinny::project(false, parts, rank, rows), &Args::new().raw(8, bytemuck::bytes_of(&up)));
    // dB wants u beside dy, dA wants v beside z.
    let (mut da, mut db) = (down, up);
    for i in 0..parts {
        (da.part[i].narrow, db.part[i].narrow) = (up.part[i].narrow, down.part[i].narrow);
    }
    let widest = c.outs.iter().map(Range::len).max().unwrap();
    let l = skinny::gradient(true, parts, rank, rows, c.k);
    go(&mut gpu, &l, &Args::new().raw(8, bytemuck::bytes_of(&da)));
    let l = skinny::gradient(false, parts, rank, rows, widest);
    go(&mut gpu, &l, &Args::new().raw(8, bytemuck::bytes_of(&db)));
    let splits = rows.div_ceil(skinny::SPLIT_ROWS) as i32;
    let mut results = Vec::new();
    for (i, out) in c.outs.iter().enumerate() {
        let (to_a, to_b) = gradients[i];
        let args = |p: &SkinnyPart, to: u64| {
            Args::new().u64(p.partial).u64(to).i32(splits).i32(p.rank).i32(p.depth).f32(p.scale)
        };
        go(&mut gpu, &skinny::reduce(false, rank, c.k), &args(&da.part[i], to_a));
        go(&mut gpu, &skinny::reduce(true, rank, out.len()), &args(&db.part[i], to_b));
        results.push([
            gpu.get_bf16(down.part[i].narrow, rows * rank),
            gpu.get_bf16(up.part[i].narrow, rows * rank),
            gpu.get_f32(to_a, rank * c.k),
            gpu.get_f32(to_b, out.len() * rank),
        ]);
    }
    Some((results, counters))
}

/// The cpu backend; its backward pass is given the kernel's u, which it cannot know otherwise.
fn run_cpu(c: &Case, got: &Results) -> Results {
    let mut cpu = Cpu::new();
    let rows = cpu.rows(&c.docs);
    let (z, dy) = (cpu.f32(&c.z), cpu.f32(&c.dy));
    let mut parts = Vec::new();
    let mut us = Vec::new();
    for (i, (out, [a, b, da, db])) in c.outs.iter().zip(&c.adapters).enumerate() {
        us.push(cpu.out(DType::F32, rows.count * c.rank));
        parts.push(LoraPart {
            module: i as u32 * 2,
            out: out.clone(),
            r: c.rank,
            scale: SCALE,
            a: cpu.f32(a),
            b: cpu.f32(b),
            da: cpu.f32(da),
            db: cpu.f32(db),
            u: cpu.f32(&got[i][0]),
            v: cpu.out(DType::F32, rows.count * c.rank),
        });
    }
    cpu.start(1 << 24);
    let down: Vec<LoraPart> = parts.iter().zip(&us).map(|(p, &u): (_, &Buffer)| LoraPart { u, ..p.clone() }).collect();
    cpu.be.lora_down(z, c.k, &rows, &down, c.drop).unwrap();
    cpu.be.lora_backward(z, c.k, dy, c.n, &rows, &parts, c.drop).unwrap();
    parts.iter().zip(us).map(|(p, u)| [u, p.v, p.da, p.db].map(|b| cpu.get(b))).collect()
}

/// 8·√m·2⁻²⁴·√(Σ terms²): see `linear::Case::check`.
fn sum(terms: usize, square: f32) -> f32 {
    8.0 * (terms as f32).sqrt() * (terms as f32 * square + 1.0).sqrt() * 2f32.powi(-24)
}

fn cases() -> Vec<Case> {
    vec![
        Case::new(&[1], 64, 64, &[0..64], 16, None),
        Case::new(&[1, 11, 5], 136, 72, &[0..40, 40..64, 64..136], 8, DROP),
        Case::new(&[128], 192, 576, &[0..128, 128..192], 16, DROP),
        Case::new(&[130, 1, 169], 320, 192, &[0..128, 192..256, 256..320], 48, DROP),
        Case::new(&[520, 80], 128, 128, &[0..128], 32, DROP),
        Case::new(&[1, 700, 1, 298], 72, 136, &[0..40, 40..72], 16, DROP),
        Case::new(&[40], 64, 64, &[0..64], 256, None),
    ]
}

#[test]
fn every_product_is_the_cpu_operation_under_every_schedule() {
    for c in cases() {
        let Some((got, _)) = run_gpu(&c, SEEDS[0]) else { return };
        for seed in &SEEDS[1..] {
            let (other, _) = run_gpu(&c, *seed).unwrap();
            for (a, b) in other.iter().flatten().zip(got.iter().flatten()) {
                assert_bits("another schedule", a, b);
            }
        }
        let want = run_cpu(&c, &got);
        let rows = c.docs.rows();
        let keep = DropoutArgs::new(c.drop).scale;
        for (i, ([u, v, da, db], [want_u, want_v, want_da, want_db])) in got.iter().zip(&want).enumerate() {
            let out = &c.outs[i];
            // One rounding to bf16.
            assert_near("u", u, want_u, 2f32.powi(-8), |_| sum(c.k, keep * keep * 4.0));
            assert_near("v", v, want_v, 2f32.powi(-8), |_| sum(out.len(), SCALE * SCALE * 4.0));
            // v of size scale·√n was rounded to bf16 before it was multiplied: errors of up to 2⁻⁸ of each, a third of
            // that squared in the mean, independent. Six standard deviations.
            let rounded = |at: usize| -> f32 {
                let (r, k) = (at / c.k, at % c.k);
                let squares: f32 = (0..rows).map(|t| (v[t * c.rank + r] * c.z[t * c.k + k] * keep).powi(2)).sum();
                6.0 * 2f32.powi(-8) / 3f32.sqrt() * squares.sqrt()
            };
            let size = SCALE * SCALE * out.len() as f32 * 4.0;
            assert_near("dA", da, want_da, 0.0, |at| rounded(at) + sum(rows, keep * keep * size));
            let size = SCALE * SCALE * keep * keep * c.k as f32 * 4.0;
            assert_near("dB", db, want_db, 0.0, |_| sum(rows, size));
        }
    }
}

/// What `parts` modules of `width` columns each cost over one split of rows, each kernel once: transposing one B, then u, v,
/// dA, dB of all.
pub fn count(parts: usize, width: usize, rank: usize, dropout: bool) -> Option<[Work; 5]> {
    let outs: Vec<_> = (0..parts).map(|i| i * width..(i + 1) * width).collect();
    let drop = if dropout { DROP } else { None };
    let c = Case::new(&[skinny::SPLIT_ROWS], parts * width, width, &outs, rank, drop);
    let (_, cost) = run_gpu(&c, 0)?;
    Some(std::array::from_fn(|i| Work::of(&cost[if i == 0 { 0 } else { parts + i - 1 }])))
}

/// A's rows pick single columns of z = 1: u is the mask itself.
#[test]
fn the_mask_is_the_definition_bit_for_bit() {
    let drop = Dropout { p: 0.5, ..DROP.unwrap() };
    let mut c = Case::new(&[3, 30], 64, 64, &[0..64, 0..64], 64, Some(drop));
    c.z.fill(1.0);
    for [a, ..] in &mut c.adapters {
        a.iter_mut().enumerate().for_each(|(i, a)| *a = if i / 64 == i % 64 { 1.0 } else { 0.0 });
    }
    let Some((got, _)) = run_gpu(&c, 0) else { return };
    for (part, [u, ..]) in got.iter().enumerate() {
        for (i, u) in u.iter().enumerate() {
            let (row, column) = (i / 64, i % 64);
            let bits = drop.bits(part as u32 * 2, c.docs.samples[row], c.docs.positions[row], column as u32 / 4);
            assert_eq!(*u, if bits[column % 4] >= drop.threshold() { 2.0 } else { 0.0 }, "row {row}, column {column}");
        }
    }
}

/// z and dy are read once whatever the number of parts; the rest is what the head of lora.cu says.
#[test]
fn traffic_is_within_five_percent_of_what_it_must_be() {
    let (rows, n, k, r) = (512, 1024, 1024, 16);
    let c = Case::new(&[rows], n, k, &[0..512, 512..768, 768..1024], r, DROP);
    let Some((_, cost)) = run_gpu(&c, 0) else { return };
    let [down, up, da, db] = &cost[3..7] else { panic!("{} launches", cost.len()) };
    let check = |what: &str, c: &Counters, loads: usize, stores: usize| {
        let (l, s) =
            (c.global_load_sectors as f64 * 32.0 / loads as f64, c.global_store_sectors as f64 * 32.0 / stores as f64);
        println!("{what}: {l:.3} of the least bytes read, {s:.3} of the least written");
        assert!((1.0..1.05).contains(&l) && (1.0..1.05).contains(&s), "{what}: read {l}, written {s}\n{c}");
    };
    // A and Bᵀ once for each 16 rows; u or v once for each 64 columns; samples and positions too, a sector for four rows.
    let narrow = rows * r * 2;
    check("u", down, rows * k * 2 + rows / 16 * 3 * r * k * 2, 3 * narrow);
    check("v", up, rows * n * 2 + rows / 16 * r * n * 2, 3 * narrow);
    check("dA", da, rows * k * 2 + k / 64 * (3 * narrow + rows / 4 * 2 * 32), 3 * r * k * 4);
    check("dB", db, rows * n * 2 + n / 64 * narrow, r * n * 4);
}
