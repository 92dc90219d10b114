//! optim.cu. Everything but the working copy is f32: the kernel differs from the reference by the order of a sum and by
//! fused multiply-adds, a few units in the last place.

use crate::harness::{
    Cpu, Device, Noise, Run, Traffic, assert_bits, assert_near, assert_no_conflicts, assert_traffic, on_gpu, round,
};
use irori::backend::{
    AdamW, DType,
    ops::{AdamWUpdate, GlobalNorm},
};

const COUNTS: [usize; 6] = [1, 17, 1024, 1030, 5003, 100_000];

#[test]
fn global_norm() {
    for count in COUNTS {
        let grad = Noise::new(count as u64).normal_f32(count, 0.1);
        let want = grad.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt() as f32;
        let got = on_gpu(|gpu| {
            let (grad, norm) = (gpu.f32(&grad), gpu.out(DType::F32, 1));
            let costs = gpu.run(GlobalNorm { grad, norm });
            Run { results: [gpu.get(norm)], costs }
        });
        let Some(Run { results: [got], costs }) = got else { return };
        assert_near("norm", &got, &[want], 1e-6, |_| 0.0);
        if count > 4096 {
            let squared_norm = Traffic { loads: count * 4, stores: count.div_ceil(1024) * 32 };
            assert_traffic("squared_norm", &costs[0], squared_norm);
            assert_no_conflicts("squared_norm", &costs[0]);
        }
    }
}

/// Parameters before an update.
struct Case {
    adamw: AdamW,
    norm: f32,
    grad: Vec<f32>,
    /// m, v, master.
    state: [Vec<f32>; 3],
}

impl Case {
    /// m, v, master, working; the last is the master copy itself where activations are f32.
    fn run<D: Device>(&self, d: &mut D) -> Run<4> {
        let (norm, grad) = (d.f32(&[self.norm]), d.f32(&self.grad));
        let [m, v, master] = [0, 1, 2].map(|i| d.f32(&self.state[i]));
        let working = if D::ACT == DType::F32 { master } else { d.act(&vec![7.0; self.grad.len()]) };
        let costs = d.run(AdamWUpdate { adamw: self.adamw, norm, grad, m, v, master, working });
        Run { results: [m, v, master, working].map(|b| d.get(b)), costs }
    }
}

fn rule(step: u64, max_norm: Option<f32>) -> AdamW {
    AdamW { lr: 2e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step, max_norm }
}

#[test]
fn adamw() {
    for (count, step, max_norm) in [(1, 1, None), (1030, 1, Some(1.0)), (5003, 1000, Some(1.0)), (300, 7, Some(1e9))] {
        let mut noise = Noise::new(count as u64);
        let grad = noise.normal_f32(count, 0.1);
        let state = [
            noise.normal_f32(count, 0.1),
            noise.normal_f32(count, 0.1).iter().map(|x| x * x).collect(),
            noise.normal_f32(count, 1.0),
        ];
        let case = Case { adamw: rule(step, max_norm), norm: 3.25, grad, state };
        let Some(Run { results: got, costs }) = on_gpu(|gpu| case.run(gpu)) else { return };
        let want = case.run(&mut Cpu::new()).results;
        for (i, name) in ["m", "v", "master"].into_iter().enumerate() {
            // m is a weighted mean of g and m, which may cancel: its error is relative to their size, up to 0.4. The
            // same relative error goes into the step that is taken off the weight.
            let error = |j: usize| match name {
                "m" => 4e-8,
                "v" => 1e-12,
                _ => {
                    let before = case.state[2][j];
                    let step = (want[2][j] - before).abs();
                    1e-6 * step + 1.2e-7 * before.abs() + step * 4e-8 / want[0][j].abs().max(1e-9)
                }
            };
            assert_near(name, &got[i], &want[i], 1e-6, error);
        }
        let rounded: Vec<f32> = got[2].iter().map(|&x| round(x)).collect();
        assert_bits("working", &got[3], &rounded);
        if count > 4096 {
            // The norm: a sector for each warp.
            let loads = count * 16 + count.div_ceil(256) * 8 * 32;
            assert_traffic("adamw", &costs[0], Traffic { loads, stores: count * 14 });
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_leaves_everything() {
    for norm in [f32::NAN, f32::INFINITY] {
        let state = [vec![0.5; 40], vec![0.25; 40], vec![1.0; 40]];
        let case = Case { adamw: rule(3, Some(1.0)), norm, grad: vec![f32::NAN; 40], state };
        let Some(Run { results: got, .. }) = on_gpu(|gpu| case.run(gpu)) else { return };
        for (got, before) in got.iter().zip(&case.state) {
            assert_bits("state", got, before);
        }
        assert!(got[3].iter().all(|&x| x == 7.0));
    }
}
