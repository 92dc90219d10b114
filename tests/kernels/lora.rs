//! kernels/lora.cu: u, v and the adapters' gradients.

use crate::{
    harness::{Cpu, Device, Documents, Gpu, Noise, SEEDS, assert_bits, assert_near, mask},
    linear::DROP,
    work::Work,
};
use irori::{
    backend::{
        LoraPart,
        cuda::launches::{dropout::DropoutArgs, lora::SPLIT_ROWS},
        ops::{LoraBackward, LoraDown},
    },
    rng::Dropout,
};
use ptxvm::Counters;
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

/// u, v, dA, dB of each part.
type Results = Vec<[Vec<f32>; 4]>;

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

    /// Both operations. The backward pass takes u from `given` if there is one: kernels round it.
    fn run<D: Device>(&self, d: &mut D, given: Option<&Results>) -> (Results, Vec<Counters>) {
        let (k, n) = (self.k, self.n);
        let rows = d.rows(&self.docs);
        let (z, dy, mask) = (d.act(&self.z), d.act(&self.dy), mask(self.drop, &rows));
        let parts: Vec<LoraPart> = (0..self.outs.len()).map(|i| self.part(i, d)).collect();
        let mut costs = d.run(LoraDown { z, k, parts: parts.clone(), mask });
        let mut backward = parts.clone();
        if let Some(given) = given {
            backward.iter_mut().zip(given).for_each(|(p, [u, ..])| p.u = d.act(u));
        }
        costs.extend(d.run(LoraBackward { z, k, dy, n, parts: backward, mask }));
        (parts.iter().map(|p| [p.u, p.v, p.da, p.db].map(|b| d.get(b))).collect(), costs)
    }

    fn part<D: Device>(&self, i: usize, d: &mut D) -> LoraPart {
        let [a, b, da, db] = &self.adapters[i];
        let narrow = self.docs.rows() * self.rank;
        LoraPart {
            module: i as u32 * 2,
            out: self.outs[i].clone(),
            r: self.rank,
            scale: SCALE,
            a: d.act(a),
            b: d.act(b),
            da: d.f32(da),
            db: d.f32(db),
            u: d.act_out(narrow),
            v: d.act_out(narrow),
        }
    }
}

fn run_gpu(c: &Case, seed: u64) -> Option<(Results, Vec<Counters>)> {
    let (results, costs) = c.run(&mut Gpu::new(seed)?, None);
    for cost in &costs {
        assert_eq!(cost.bank_conflicts(), 0, "{cost}");
        assert_eq!(cost.local_accesses, 0);
    }
    Some((results, costs))
}

/// What each kernel of a backend's two operations cost.
struct Costs<'a> {
    down: &'a Counters,
    /// Of each part.
    transpose: &'a [Counters],
    up: &'a Counters,
    da: &'a Counters,
    db: &'a Counters,
}

impl<'a> Costs<'a> {
    /// In the order in which `parts` parts are launched.
    fn of(all: &'a [Counters], parts: usize) -> Self {
        assert_eq!(all.len(), 4 + 3 * parts);
        let (transpose, rest) = all[1..].split_at(parts);
        Self { down: &all[0], transpose, up: &rest[0], da: &rest[1], db: &rest[2 + parts] }
    }
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
        let (want, _) = c.run(&mut Cpu::new(), Some(&got));
        let rows = c.docs.rows();
        let keep = c.drop.map_or(DropoutArgs::NONE, DropoutArgs::from).scale;
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
    let c = Case::new(&[SPLIT_ROWS], parts * width, width, &outs, rank, drop);
    let (_, costs) = run_gpu(&c, 0)?;
    let Costs { down, transpose, up, da, db } = Costs::of(&costs, parts);
    Some([&transpose[0], down, up, da, db].map(Work::of))
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
    let Some((_, costs)) = run_gpu(&c, 0) else { return };
    let Costs { down, up, da, db, .. } = Costs::of(&costs, 3);
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
