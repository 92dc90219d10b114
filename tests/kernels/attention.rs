//! attention.cu, attention_backward.cu.
//!
//! Tolerances. The kernels and the reference get the same bf16 inputs (the backward pass also the same o and lse), so what
//! differs is: P or dS rounded to bf16 before the second product (relative error U = 2⁻⁸ a term), the result rounded to
//! bf16 (U), and f32 rounding in scores of 128 terms. A result Σ a·b with `a` rounded is off by at most
//! U·Σ|a|·|b| + U·|result|; the sums of magnitudes are computed beside the reference. dS = P·(dP − Δ) is a difference
//! of sums of 128 products, each with an f32 error of about 2⁻²²·(Σ|do·v| + |Δ|): that much is added to |dS|·U.

use crate::harness::{
    Cpu, Device, Documents, Gpu, Noise, SEEDS, Traffic, U, assert_bits, assert_near, assert_no_conflicts,
    assert_traffic, round,
};
use irori::backend::{
    DType, Heads,
    ops::{Attention, AttentionBackward},
};
use ptxvm::Counters;

const D: usize = 128;

const fn heads(q: usize, kv: usize) -> Heads {
    Heads { q, kv, dim: D }
}

struct Case {
    h: Heads,
    docs: Documents,
    qk: Vec<f32>,
    qkv: Vec<f32>,
    d_o: Vec<f32>,
}

#[derive(Debug, Clone)]
struct Outputs {
    o: Vec<f32>,
    lse: Vec<f32>,
    dqk: Vec<f32>,
    /// Only the v columns count.
    dqkv: Vec<f32>,
}

/// Sums of magnitudes behind each output.
struct Magnitudes {
    o: Vec<f32>,
    dqk: Vec<f32>,
    dv: Vec<f32>,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f32], factor: f32, x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += factor * x.abs();
    }
}

impl Case {
    fn new(lengths: &[usize], h: Heads) -> Self {
        let docs = Documents::new(lengths);
        let t = docs.rows();
        let mut noise = Noise::new(t as u64);
        let qk = noise.normal(t * h.qk_width(), 1.0);
        let qkv = noise.normal(t * h.qkv_width(), 1.0);
        let d_o = noise.normal(t * h.q_width(), 1.0);
        Self { h, docs, qk, qkv, d_o }
    }

    /// Forward, then backward from `given` o and lse; without them from its own, o rounded to bf16.
    fn run<D: Device>(&self, d: &mut D, given: Option<&Outputs>) -> (Outputs, Vec<Counters>) {
        let (heads, t) = (self.h, self.docs.rows());
        let rows = d.rows(&self.docs);
        let (qk, qkv, do_) = (d.act(&self.qk), d.act(&self.qkv), d.act(&self.d_o));
        let (o, lse) = (d.act_out(t * heads.q_width()), d.out(DType::F32, t * heads.q));
        let mut costs = d.run(Attention { qk, qkv, rows, heads, o, lse });
        let (o_out, lse_out) = (d.get(o), d.get(lse));
        let rounded: Vec<f32> = given.map_or(&o_out, |g| &g.o).iter().map(|&x| round(x)).collect();
        let (o, lse) = (d.act(&rounded), d.f32(given.map_or(&lse_out, |g| &g.lse)));
        let (dqk, dqkv) = (d.act_out(t * heads.qk_width()), d.act(&vec![7.0; t * heads.qkv_width()]));
        costs.extend(d.run(AttentionBackward { qk, qkv, o, lse, do_, rows, heads, dqk, dqkv }));
        (Outputs { o: o_out, lse: lse_out, dqk: d.get(dqk), dqkv: d.get(dqkv) }, costs)
    }

    fn reference(&self) -> Outputs {
        self.run(&mut Cpu::new(), None).0
    }

    fn device(&self, reference: &Outputs, seed: u64) -> Option<(Outputs, [Counters; 4])> {
        let (outputs, costs) = self.run(&mut Gpu::new(seed)?, Some(reference));
        Some((outputs, costs.try_into().expect("four launches")))
    }

    fn magnitudes(&self, reference: &Outputs) -> Magnitudes {
        let (h, t) = (self.h, self.docs.rows());
        let (group, scale) = (h.q / h.kv, 1.0 / (D as f32).sqrt());
        let mut m = Magnitudes {
            o: vec![0.0; t * h.q_width()],
            dqk: vec![0.0; t * h.qk_width()],
            dv: vec![0.0; t * h.kv_width()],
        };
        for w in self.docs.bounds.windows(2) {
            let (first, last) = (w[0] as usize, w[1] as usize);
            for (i, head) in (first..last).flat_map(|i| (0..h.q).map(move |head| (i, head))) {
                let (kv, at) = (head / group, i * h.q_width() + head * D);
                let q_at = i * h.qk_width() + head * D;
                let (q, d_o) = (&self.qk[q_at..][..D], &self.d_o[at..][..D]);
                let o: Vec<f32> = reference.o[at..][..D].iter().map(|&x| round(x)).collect();
                let delta = dot(&o, d_o);
                for j in first..=i {
                    let k_at = j * h.qk_width() + h.q_width() + kv * D;
                    let v = &self.qkv[j * h.qkv_width() + h.qk_width() + kv * D..][..D];
                    let p = (scale * dot(q, &self.qk[k_at..][..D]) - reference.lse[i * h.q + head]).exp();
                    let noise: f32 = d_o.iter().zip(v).map(|(a, b)| (a * b).abs()).sum::<f32>() + delta.abs();
                    let ds = p * scale * ((dot(d_o, v) - delta).abs() + noise / 4_194_304.0 / U);
                    add(&mut m.o[at..][..D], p, v);
                    add(&mut m.dv[j * h.kv_width() + kv * D..][..D], p, d_o);
                    add(&mut m.dqk[q_at..][..D], ds, &self.qk[k_at..][..D]);
                    add(&mut m.dqk[k_at..][..D], ds, q);
                }
            }
        }
        m
    }

    fn v_columns(&self, dqkv: &[f32]) -> Vec<f32> {
        dqkv.chunks_exact(self.h.qkv_width()).flat_map(|row| row[self.h.qk_width()..].to_vec()).collect()
    }

    /// Compares with the reference under each schedule; gives what the four kernels cost.
    fn check(&self, seeds: &[u64]) -> Option<[Counters; 4]> {
        let reference = self.reference();
        let (got, costs) = self.device(&reference, seeds[0])?;
        let m = self.magnitudes(&reference);
        // 2 % more for the products of two errors and f32 sums.
        let tolerance = 1.02 * U;
        assert_near("o", &got.o, &reference.o, tolerance, |i| tolerance * m.o[i] + 1e-6);
        assert_near("lse", &got.lse, &reference.lse, 1e-6, |_| 2e-5);
        assert_near("dqk", &got.dqk, &reference.dqk, tolerance, |i| tolerance * m.dqk[i] + 1e-6);
        let (dv, want) = (self.v_columns(&got.dqkv), self.v_columns(&reference.dqkv));
        assert_near("dv", &dv, &want, tolerance, |i| tolerance * m.dv[i] + 1e-6);
        let rest = got.dqkv.chunks_exact(self.h.qkv_width()).all(|r| r[..self.h.qk_width()].iter().all(|&x| x == 7.0));
        assert!(rest, "the q and k columns of dqkv belong to another kernel");
        for &seed in &seeds[1..] {
            let (again, _) = self.device(&reference, seed)?;
            for (what, a, b) in [
                ("o", &got.o, &again.o),
                ("lse", &got.lse, &again.lse),
                ("dqk", &got.dqk, &again.dqk),
                ("dqkv", &got.dqkv, &again.dqkv),
            ] {
                assert_bits(&format!("{what} under schedule {seed}"), b, a);
            }
        }
        Some(costs)
    }
}

/// What the four kernels (forward, preparation, dq, dk and dv) count on one document of `rows` rows. The values do not
/// matter to the counts and are not looked at.
pub fn count(rows: usize, heads: Heads) -> Option<[Counters; 4]> {
    let mut gpu = Gpu::counting()?;
    let docs = gpu.rows(&Documents::new(&[rows]));
    let [qk, dqk] = [(); 2].map(|()| gpu.act_out(rows * heads.qk_width()));
    let [qkv, dqkv] = [(); 2].map(|()| gpu.act_out(rows * heads.qkv_width()));
    let [o, do_] = [(); 2].map(|()| gpu.act_out(rows * heads.q_width()));
    let lse = gpu.out(DType::F32, rows * heads.q);
    let mut costs = gpu.run(Attention { qk, qkv, rows: docs, heads, o, lse });
    costs.extend(gpu.run(AttentionBackward { qk, qkv, o, lse, do_, rows: docs, heads, dqk, dqkv }));
    Some(costs.try_into().expect("four launches"))
}

#[test]
fn short_documents_beside_long_ones() {
    Case::new(&[1, 17, 128, 1, 65, 130], heads(4, 2)).check(&SEEDS);
}

#[test]
fn three_hundred_rows_of_an_odd_group() {
    Case::new(&[300], heads(5, 1)).check(&SEEDS[..2]);
}

#[test]
fn a_thousand_rows() {
    Case::new(&[1000], heads(2, 1)).check(&SEEDS[..1]);
}

#[test]
fn a_thousand_rows_of_short_documents_beside_long_ones() {
    Case::new(&[1, 640, 1, 1, 357], heads(2, 1)).check(&SEEDS);
}

#[test]
fn one_row_some_and_a_whole_tile() {
    for rows in [1, 17, 128] {
        Case::new(&[rows], heads(2, 2)).check(&SEEDS);
    }
}

/// Heads of Qwen3-8B on one tile.
#[test]
fn heads_of_8b() {
    Case::new(&[70], heads(32, 8)).check(&SEEDS[..1]);
}

/// Documents of no rows take part without harm.
#[test]
fn empty_documents() {
    Case::new(&[0, 20, 0, 3, 0], heads(2, 1)).check(&SEEDS[..1]);
}

/// What the heads of the files state, exactly counted: bytes moved, tensor-core products, barriers, bank conflicts.
#[test]
fn costs_are_those_stated() {
    let (n, h) = (384, heads(8, 2));
    let Some([forward, stats, dq, dkv]) = Case::new(&[n], h).check(&SEEDS[..1]) else { return };
    for (what, c) in [("attention", &forward), ("stats", &stats), ("dq", &dq), ("dkv", &dkv)] {
        println!("{what}:\n{c}");
    }
    let row = 2 * D;
    // Keys seen by the tiles of 128 queries, and queries that see the tiles of 128 keys: 128 + 256 + 384 either way.
    let seen: usize = (1..=n / 128).map(|i| i * 128).sum();
    let group = h.q / h.kv;
    let out = n * h.q * row;
    // lse has heads innermost: a block of one head writes a sector a row.
    assert_traffic("attention", &forward, Traffic { loads: h.q * (n + 2 * seen) * row, stores: out + n * h.q * 32 });
    assert_traffic("stats", &stats, Traffic { loads: 2 * out + n * h.q * 4, stores: n * h.q * 8 });
    // lse and Δ of 16 rows for each warp: two accesses of eight rows of 8 bytes.
    assert_traffic("dq", &dq, Traffic { loads: h.q * (2 * n + 2 * seen) * row + n * h.q * 8, stores: out });
    assert_traffic(
        "dkv",
        &dkv,
        Traffic { loads: h.kv * 2 * n * row + h.q * seen * (2 * row + 8), stores: h.kv * 2 * n * row },
    );
    for (what, c) in [("attention", &forward), ("dq", &dq), ("dkv", &dkv)] {
        assert_no_conflicts(what, c);
    }
    // Instructions of the PTX an mma, prologue and epilogue included. An SM's quarter issues eight in the time of one mma.
    for (what, c, most) in [("attention", &forward, 6.8), ("dq", &dq, 5.8), ("dkv", &dkv, 4.8)] {
        let each = c.instructions() as f64 / c.mma as f64;
        assert!(each <= most, "{what}: {each:.2} instructions an mma");
    }
    // Pairs of 16 rows and 16 columns that are not skipped, by hand: forward in units of 32 queries × 64 keys, dq of
    // 16 × 32, dk/dv of 16 × 16. A product of 16 × 16 with 128 is 16 mma.
    let forward_pairs: usize = (0..n / 32).map(|i| (32 * i + 31) / 64 + 1).sum::<usize>() * 8;
    let dq_pairs: usize = (0..n / 16).map(|i| (16 * i + 15) / 32 + 1).sum::<usize>() * 2;
    let dkv_pairs: usize = (0..n / 16).map(|i| n / 16 - i).sum();
    assert_eq!(forward.mma as usize, h.q * forward_pairs * 2 * 16);
    assert_eq!(dq.mma as usize, h.q * dq_pairs * 3 * 16);
    assert_eq!(dkv.mma as usize, h.kv * group * dkv_pairs * 4 * 16);
}
