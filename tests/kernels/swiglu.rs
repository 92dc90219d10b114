//! swiglu.cu. Tolerance: one rounding to bf16, and 2⁻²⁰ for the fast exponential.

use crate::{
    harness::{Cpu, Gpu, Noise, SEEDS, assert_bits, assert_near},
    launches::{Traffic, U, assert_traffic, in_sectors, run},
};
#[allow(unused_imports)]
use irori::backend::calls::Calls as _;
use irori::backend::{Backend, DType, cuda::rows as launches};

#[test]
fn forward_and_backward() {
    for (rows, inter) in [(1, 12288), (2, 3072), (17, 8), (128, 264), (300, 64), (1000, 40)] {
        let mut noise = Noise::new(inter as u64);
        let (mut gu, ds) = (noise.normal(rows * 2 * inter, 3.0), noise.normal(rows * inter, 1.0));
        // Gates beyond the exponential's range: sigmoid is 0 or 1, nothing becomes NaN.
        gu[..4].copy_from_slice(&[-120.0, 120.0, 0.0, -0.0]);
        let mut cpu = Cpu::new();
        let (cgu, cds, cs) = (cpu.f32(&gu), cpu.f32(&ds), cpu.out(DType::F32, rows * inter));
        cpu.start(0);
        cpu.be.swiglu(cgu, inter, cs).unwrap();
        cpu.be.swiglu_backward(cgu, inter, cds).unwrap();
        let (want, want_back) = (cpu.get(cs), cpu.get(cgu));
        let mut first = None;
        for seed in SEEDS {
            let Some(mut gpu) = Gpu::new("swiglu", seed) else { return };
            let (ggu, gds, gs) = (gpu.bf16(&gu), gpu.bf16(&ds), gpu.fresh(rows * inter * 2));
            let forward = run(&mut gpu, &launches::swiglu(rows, inter, ggu, gs));
            let backward = run(&mut gpu, &launches::swiglu_backward(rows, inter, ggu, gds));
            let got = [gpu.get_bf16(gs, want.len()), gpu.get_bf16(ggu, want_back.len())];
            assert_near("s", &got[0], &want, 1.02 * U, |_| 1e-6);
            // 1 + g·(1 − σ) passes through zero: its f32 error is relative to its terms.
            assert_near("dgu", &got[1], &want_back, 1.02 * U, |_| 4e-6);
            let first = first.get_or_insert(got.clone());
            assert_bits("s under another schedule", &got[0], &first[0]);
            assert_bits("dgu under another schedule", &got[1], &first[1]);
            let one = in_sectors(rows, inter);
            assert_traffic("swiglu", &forward, Traffic { loads: 2 * one, stores: one });
            assert_traffic("swiglu_backward", &backward, Traffic { loads: 3 * one, stores: 2 * one });
        }
    }
}
