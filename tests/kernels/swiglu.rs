//! swiglu.cu. Tolerance: one rounding to bf16, and 2⁻²⁰ for the fast exponential.

use crate::harness::{Cpu, Device, Noise, Run, Traffic, U, assert_near, assert_traffic, in_sectors, on_gpu};
use irori::backend::ops::{SwiGlu, SwiGluBackward};

/// s, and dg and du over g and u.
fn run<D: Device>(d: &mut D, width: usize, gu: &[f32], ds: &[f32]) -> Run<2> {
    let (gu, ds, s) = (d.act(gu), d.act(ds), d.act_out(ds.len()));
    let mut costs = d.run(SwiGlu { gu, width, s });
    costs.extend(d.run(SwiGluBackward { gu, width, ds }));
    Run { results: [d.get(s), d.get(gu)], costs }
}

#[test]
fn forward_and_backward() {
    for (rows, width) in [(1, 12288), (2, 3072), (17, 8), (128, 264), (300, 64), (1000, 40)] {
        let mut noise = Noise::new(width as u64);
        let (mut gu, ds) = (noise.normal(rows * 2 * width, 3.0), noise.normal(rows * width, 1.0));
        // Gates beyond the exponential's range: sigmoid is 0 or 1, nothing becomes NaN.
        gu[..4].copy_from_slice(&[-120.0, 120.0, 0.0, -0.0]);
        let Some(Run { results: [s, dgu], costs }) = on_gpu(|gpu| run(gpu, width, &gu, &ds)) else { return };
        let Run { results: [want, want_back], .. } = run(&mut Cpu::new(), width, &gu, &ds);
        assert_near("s", &s, &want, 1.02 * U, |_| 1e-6);
        // 1 + g·(1 − σ) passes through zero: its f32 error is relative to its terms.
        assert_near("dgu", &dgu, &want_back, 1.02 * U, |_| 4e-6);
        let one = in_sectors(rows, width);
        assert_traffic("swiglu", &costs[0], Traffic { loads: 2 * one, stores: one });
        assert_traffic("swiglu_backward", &costs[1], Traffic { loads: 3 * one, stores: 2 * one });
    }
}
