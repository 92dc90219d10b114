//! rope.cu. Tolerance: one rounding to bf16; a rotated element is a sum of two terms that may cancel, so f32 errors are
//! relative to the terms (a few units).

use crate::harness::{
    Cpu, Device, Documents, Noise, Run, Traffic, U, assert_near, assert_no_conflicts, assert_traffic, on_gpu,
};
use irori::backend::{
    Heads,
    ops::{HeadNormRope, HeadNormRopeBackward, Rotary},
};

const D: usize = 128;
const EPS: f32 = 1e-6;

/// cos and sin of `positions` positions, as the engine makes them: D/2 cosines, then D/2 sines.
fn table(positions: usize) -> Vec<f32> {
    (0..positions)
        .flat_map(|p| {
            let angle = move |i: usize| p as f64 * 1e6f64.powf(-2.0 * i as f64 / D as f64);
            let half = 0..D / 2;
            half.clone().map(move |i| angle(i).cos() as f32).chain(half.map(move |i| angle(i).sin() as f32))
        })
        .collect()
}

struct Case {
    docs: Documents,
    heads: Heads,
    qkv: Vec<f32>,
    dqk: Vec<f32>,
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
}

impl Case {
    fn new(lengths: &[usize], heads: Heads) -> Self {
        let docs = Documents::new(lengths);
        let t = docs.rows();
        let mut noise = Noise::new(t as u64);
        let (qkv, dqk) = (noise.normal(t * heads.qkv_width(), 2.0), noise.normal(t * heads.qk_width(), 1.0));
        Self { docs, heads, qkv, dqk, q_norm: noise.normal_f32(D, 1.0), k_norm: noise.normal_f32(D, 1.0) }
    }

    /// qk and dqkv, whose v columns are 7 before and must stay.
    fn run<D: Device>(&self, d: &mut D) -> Run<2> {
        let rows = d.rows(&self.docs);
        let (q_norm, k_norm, table) = (d.f32(&self.q_norm), d.f32(&self.k_norm), d.f32(&table(1000)));
        let rotary = Rotary { heads: self.heads, q_norm, k_norm, eps: EPS, table };
        let (qkv, dqk, dqkv) = (d.act(&self.qkv), d.act(&self.dqk), d.act(&vec![7.0; self.qkv.len()]));
        let qk = d.act_out(self.dqk.len());
        let mut costs = d.run(HeadNormRope { qkv, rows, rotary, qk });
        costs.extend(d.run(HeadNormRopeBackward { qkv, dqk, rows, rotary, dqkv }));
        Run { results: [d.get(qk), d.get(dqkv)], costs }
    }
}

#[test]
fn forward_and_backward() {
    let shapes = [
        (&[1usize][..], Heads { q: 16, kv: 8, dim: D }),
        (&[16, 1], Heads { q: 3, kv: 1, dim: D }),
        (&[100, 28], Heads { q: 2, kv: 1, dim: D }),
        (&[300], Heads { q: 1, kv: 1, dim: D }),
        (&[999, 1], Heads { q: 2, kv: 1, dim: D }),
        (&[2], Heads { q: 32, kv: 8, dim: D }),
    ];
    for (lengths, h) in shapes {
        let case = Case::new(lengths, h);
        let Some(Run { results: [qk, dqkv], costs }) = on_gpu(|gpu| case.run(gpu)) else { return };
        let Run { results: [want, want_back], .. } = case.run(&mut Cpu::new());
        assert_near("qk", &qk, &want, 1.02 * U, |_| 4e-6);
        assert_near("dqkv", &dqkv, &want_back, 1.02 * U, |_| 4e-6);

        // Norm weights, angles and positions come from L2: every warp reads 512 + 512 + 4 bytes (one sector).
        let t = case.docs.rows();
        let (vectors, small) = (t * h.qk_width() * 2, t * (h.q + h.kv) * (1024 + 32));
        let [forward, backward] = &costs[..] else { panic!("{} launches", costs.len()) };
        assert_traffic("headnorm_rope", forward, Traffic { loads: vectors + small, stores: vectors });
        assert_traffic("headnorm_rope_backward", backward, Traffic { loads: 2 * vectors + small, stores: vectors });
        assert_no_conflicts("headnorm_rope", forward);
    }
}
