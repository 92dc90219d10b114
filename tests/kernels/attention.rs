//! attention.cu, attention_backward.cu.
//!
//! Tolerances. The kernels and the reference get the same bf16 inputs (the backward pass also the same o and lse), so what
//! differs is: P or dS rounded to bf16 before the second product (relative error U = 2⁻⁸ a term), the result rounded to
//! bf16 (U), and f32 rounding in scores of 128 terms. A result Σ a·b with `a` rounded is off by at most
//! U·Σ|a|·|b| + U·|result|; the sums of magnitudes are computed beside the reference. dS = P·(dP − Δ) is a difference
//! of sums of 128 products, each with an f32 error of about 2⁻²²·(Σ|do·v| + |Δ|): that much is added to |dS|·U.

use crate::{
    harness::{Cpu, Documents, Gpu, Noise, SEEDS, assert_bits, assert_near, round},
    launches::{Traffic, U, assert_no_conflicts, assert_traffic, run},
};
#[allow(unused_imports)]
use irori::backend::calls::Calls as _;
use irori::backend::{
    Backend, DType, Heads,
    cuda::attention::{self as launches, BackwardBuffers},
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
    /// o and lse that the backward pass was given.
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

    fn reference(&self) -> Outputs {
        let (h, t) = (self.h, self.docs.rows());
        let mut cpu = Cpu::new();
        let rows = cpu.rows(&self.docs);
        let (qk, qkv, d_o) = (cpu.f32(&self.qk), cpu.f32(&self.qkv), cpu.f32(&self.d_o));
        let (o, lse) = (cpu.out(DType::F32, t * h.q_width()), cpu.out(DType::F32, t * h.q));
        let (dqk, dqkv) = (cpu.out(DType::F32, t * h.qk_width()), cpu.out(DType::F32, t * h.qkv_width()));
        cpu.start(t * h.q * 4 + 256);
        cpu.be.attention(qk, qkv, &rows, h, o, lse).unwrap();
        let (o_out, lse_out) = (cpu.get(o), cpu.get(lse));
        let rounded: Vec<f32> = o_out.iter().map(|&x| round(x)).collect();
        cpu.be.write(o, bytemuck::cast_slice(&rounded)).unwrap();
        cpu.be.attention_backward(qk, qkv, o, lse, d_o, &rows, h, dqk, dqkv).unwrap();
        Outputs { o: o_out, lse: lse_out, dqk: cpu.get(dqk), dqkv: cpu.get(dqkv) }
    }

    /// Forward, then backward from the reference's o and lse.
    fn device(&self, reference: &Outputs, seed: u64) -> Option<(Outputs, [Counters; 4])> {
        let (h, t) = (self.h, self.docs.rows());
        let mut gpu = Gpu::new("attention", seed)?;
        let (qk, qkv, d_o) = (gpu.bf16(&self.qk), gpu.bf16(&self.qkv), gpu.bf16(&self.d_o));
        let docs = launches::Documents {
            rows: t,
            count: self.docs.bounds.len() - 1,
            max_len: self.docs.bounds.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0),
            cu_seqlens: gpu.u32(&self.docs.bounds),
        };
        let (o, lse) = (gpu.fresh(t * h.q_width() * 2), gpu.fresh(t * h.q * 4));
        let forward = run(&mut gpu, &launches::forward(&docs, h, qk, qkv, o, lse));
        let buffers = BackwardBuffers {
            qk,
            qkv,
            o: gpu.bf16(&reference.o),
            lse: gpu.f32(&reference.lse),
            d_o,
            dqk: gpu.fresh(t * h.qk_width() * 2),
            dqkv: gpu.bf16(&vec![7.0; t * h.qkv_width()]),
            stats: gpu.fresh(launches::backward_scratch(t, h)),
        };
        let [a, b, c] = launches::backward(&docs, h, &buffers).map(|l| run(&mut gpu, &l));
        let out = Outputs {
            o: gpu.get_bf16(o, t * h.q_width()),
            lse: gpu.get_f32(lse, t * h.q),
            dqk: gpu.get_bf16(buffers.dqk, t * h.qk_width()),
            dqkv: gpu.get_bf16(buffers.dqkv, t * h.qkv_width()),
        };
        Some((out, [forward, a, b, c]))
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
        let (got, counters) = self.device(&reference, seeds[0])?;
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
        Some(counters)
    }
}

/// What the four kernels (forward, preparation, dq, dk and dv) count on one document of `rows` rows. The values do not
/// matter to the counts and are not looked at.
pub fn count(rows: usize, h: Heads) -> Option<[Counters; 4]> {
    let mut gpu = Gpu::counting("attention")?;
    let mut fresh = |bytes| gpu.fresh(rows * bytes);
    let [qk, dqk] = [(); 2].map(|()| fresh(h.qk_width() * 2));
    let [qkv, dqkv] = [(); 2].map(|()| fresh(h.qkv_width() * 2));
    let [o, d_o] = [(); 2].map(|()| fresh(h.q_width() * 2));
    let (lse, stats) = (fresh(h.q * 4), gpu.fresh(launches::backward_scratch(rows, h)));
    let docs = launches::Documents { rows, count: 1, max_len: rows, cu_seqlens: gpu.u32(&[0, rows as u32]) };
    let forward = run(&mut gpu, &launches::forward(&docs, h, qk, qkv, o, lse));
    let buffers = BackwardBuffers { qk, qkv, o, lse, d_o, dqk, dqkv, stats };
    let [a, b, c] = launches::backward(&docs, h, &buffers).map(|l| run(&mut gpu, &l));
    Some([forward, a, b, c])
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
