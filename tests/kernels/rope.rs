//! rope.cu. Tolerance: one rounding to bf16; a rotated element is a sum of two terms that may cancel, so f32 errors are
//! relative to the terms (a few units).

use crate::{
    harness::{Cpu, Documents, Gpu, Noise, SEEDS, assert_bits, assert_near},
    launches::{Traffic, U, assert_no_conflicts, assert_traffic, run},
};
#[allow(unused_imports)]
use irori::backend::calls::Calls as _;
use irori::backend::{Backend, DType, Heads, cuda::rows as launches, ops::Rotary};

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
        let docs = Documents::new(lengths);
        let t = docs.rows();
        let mut noise = Noise::new(t as u64);
        let (qkv, dqk) = (noise.normal(t * h.qkv_width(), 2.0), noise.normal(t * h.qk_width(), 1.0));
        let (q_norm, k_norm, rope) = (noise.normal_f32(D, 1.0), noise.normal_f32(D, 1.0), table(1000));
        let dqkv = vec![7.0; t * h.qkv_width()];

        let mut cpu = Cpu::new();
        let rows = cpu.rows(&docs);
        let (cqkv, cdqk, cdqkv) = (cpu.f32(&qkv), cpu.f32(&dqk), cpu.f32(&dqkv));
        let p =
            Rotary { heads: h, q_norm: cpu.f32(&q_norm), k_norm: cpu.f32(&k_norm), eps: EPS, table: cpu.f32(&rope) };
        let cqk = cpu.out(DType::F32, t * h.qk_width());
        cpu.start(0);
        cpu.be.headnorm_rope(cqkv, &rows, &p, cqk).unwrap();
        cpu.be.headnorm_rope_backward(cqkv, cdqk, &rows, &p, cdqkv).unwrap();
        let (want, want_back) = (cpu.get(cqk), cpu.get(cdqkv));

        let mut first = None;
        for seed in SEEDS {
            let Some(mut gpu) = Gpu::new("rope", seed) else { return };
            let (gqkv, gdqk, gdqkv) = (gpu.bf16(&qkv), gpu.bf16(&dqk), gpu.bf16(&dqkv));
            let p = launches::RopeInputs {
                rows: t,
                heads: h,
                positions: gpu.u32(&docs.positions),
                q_norm: gpu.f32(&q_norm),
                k_norm: gpu.f32(&k_norm),
                eps: EPS,
                rope: gpu.f32(&rope),
            };
            let gqk = gpu.fresh(t * h.qk_width() * 2);
            let forward = run(&mut gpu, &launches::headnorm_rope(&p, gqkv, gqk));
            let backward = run(&mut gpu, &launches::headnorm_rope_backward(&p, gqkv, gdqk, gdqkv));
            let got = [gpu.get_bf16(gqk, want.len()), gpu.get_bf16(gdqkv, want_back.len())];
            assert_near("qk", &got[0], &want, 1.02 * U, |_| 4e-6);
            assert_near("dqkv", &got[1], &want_back, 1.02 * U, |_| 4e-6);
            let first = first.get_or_insert(got.clone());
            assert_bits("qk under another schedule", &got[0], &first[0]);
            assert_bits("dqkv under another schedule", &got[1], &first[1]);

            // Norm weights, angles and positions come from L2: every warp reads 512 + 512 + 4 bytes (one sector).
            let (vectors, small) = (t * h.qk_width() * 2, t * (h.q + h.kv) * (1024 + 32));
            assert_traffic("headnorm_rope", &forward, Traffic { loads: vectors + small, stores: vectors });
            assert_traffic(
                "headnorm_rope_backward",
                &backward,
                Traffic { loads: 2 * vectors + small, stores: vectors },
            );
            assert_no_conflicts("headnorm_rope", &forward);
        }
    }
}
