//! optim.cu. Everything but the working copy is f32: the kernel differs from the reference by the order of a sum and by
//! fused multiply-adds, a few units in the last place.

use crate::{
    harness::{Cpu, Gpu, Noise, SEEDS, assert_bits, assert_near, round},
    launches::{Traffic, assert_no_conflicts, assert_traffic, run},
};
#[allow(unused_imports)]
use irori::backend::calls::Calls as _;
use irori::backend::{AdamW, Backend, DType, cuda::rows as launches};

const COUNTS: [usize; 6] = [1, 17, 1024, 1030, 5003, 100_000];

#[test]
fn global_norm() {
    for count in COUNTS {
        let grad = Noise::new(count as u64).normal_f32(count, 0.1);
        let want = grad.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt() as f32;
        let mut first = None;
        for seed in SEEDS {
            let Some(mut gpu) = Gpu::new("optim", seed) else { return };
            let (g, partial) = (gpu.f32(&grad), gpu.fresh(launches::global_norm_scratch(count)));
            let norm = gpu.fresh(4);
            let [a, _] = launches::global_norm(count, g, partial, norm).map(|l| run(&mut gpu, &l));
            let got = gpu.get_f32(norm, 1);
            assert_near("norm", &got, &[want], 1e-6, |_| 0.0);
            assert_bits("norm under another schedule", &got, first.get_or_insert(got.clone()));
            if count > 4096 {
                assert_traffic("squared_norm", &a, Traffic { loads: count * 4, stores: count.div_ceil(1024) * 32 });
                assert_no_conflicts("squared_norm", &a);
            }
        }
    }
}

fn rule(step: u64, max_norm: Option<f32>) -> AdamW {
    AdamW { lr: 2e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step, max_norm }
}

/// Everything the update writes: m, v, master, working.
type State = [Vec<f32>; 4];

fn update(seed: u64, p: &AdamW, norm: f32, grad: &[f32], state: &[Vec<f32>; 3]) -> Option<State> {
    let n = grad.len();
    let mut gpu = Gpu::new("optim", seed)?;
    let b = launches::OptimizerBuffers {
        norm: gpu.f32(&[norm]),
        grad: gpu.f32(grad),
        m: gpu.f32(&state[0]),
        v: gpu.f32(&state[1]),
        master: gpu.f32(&state[2]),
        working: gpu.bf16(&vec![7.0; n]),
    };
    let c = run(&mut gpu, &launches::adamw(p, n, &b));
    if n > 4096 && norm.is_finite() {
        // The norm: a sector for each warp.
        let loads = n * 16 + n.div_ceil(256) * 8 * 32;
        assert_traffic("adamw", &c, Traffic { loads, stores: n * 14 });
    }
    Some([gpu.get_f32(b.m, n), gpu.get_f32(b.v, n), gpu.get_f32(b.master, n), gpu.get_bf16(b.working, n)])
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
        let (p, norm) = (rule(step, max_norm), 3.25);
        let mut cpu = Cpu::new();
        let (cnorm, cgrad) = (cpu.f32(&[norm]), cpu.f32(&grad));
        let [m, v, master] = [0, 1, 2].map(|i| cpu.f32(&state[i]));
        cpu.start(0);
        cpu.be.adamw(&p, cnorm, cgrad, m, v, master, master).unwrap();
        let want = [m, v, master].map(|b| cpu.get(b));
        let mut first = None;
        for seed in SEEDS {
            let Some(got) = update(seed, &p, norm, &grad, &state) else { return };
            for (i, name) in ["m", "v", "master"].into_iter().enumerate() {
                // m is a weighted mean of g and m, which may cancel: its error is relative to their size, up to 0.4. The
                // same relative error goes into the step that is taken off the weight.
                let error = |j: usize| match name {
                    "m" => 4e-8,
                    "v" => 1e-12,
                    _ => {
                        let step = (want[2][j] - state[2][j]).abs();
                        1e-6 * step + 1.2e-7 * state[2][j].abs() + step * 4e-8 / want[0][j].abs().max(1e-9)
                    }
                };
                assert_near(name, &got[i], &want[i], 1e-6, error);
            }
            let rounded: Vec<f32> = got[2].iter().map(|&x| round(x)).collect();
            assert_bits("working", &got[3], &rounded);
            let first = first.get_or_insert(got.clone());
            got.iter().zip(first.iter()).for_each(|(a, b)| assert_bits("state under another schedule", a, b));
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_leaves_everything() {
    let state = [vec![0.5; 40], vec![0.25; 40], vec![1.0; 40]];
    for norm in [f32::NAN, f32::INFINITY] {
        let Some(got) = update(0, &rule(3, Some(1.0)), norm, &[f32::NAN; 40], &state) else { return };
        for i in 0..3 {
            assert_bits("state", &got[i], &state[i]);
        }
        assert!(got[3].iter().all(|&x| x == 7.0));
    }
}

/// Ties, subnormal results, infinities.
#[test]
fn convert_rounds_to_nearest_even() {
    let mut x =
        vec![0.0, -0.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, f32::INFINITY, f32::MAX, 1e-40, f32::MIN_POSITIVE];
    x.extend(Noise::new(3).normal_f32(1000, 10.0));
    let mut cpu = Cpu::new();
    let (src, dst) = (cpu.f32(&x), cpu.out(DType::Bf16, x.len()));
    cpu.start(0);
    cpu.be.convert(src, dst).unwrap();
    let want: Vec<f32> = x.iter().map(|&x| round(x)).collect();
    let Some(mut gpu) = Gpu::new("optim", 0) else { return };
    let (gsrc, gdst) = (gpu.f32(&x), gpu.fresh(x.len() * 2));
    run(&mut gpu, &launches::convert(x.len(), gsrc, gdst));
    assert_bits("bf16", &gpu.get_bf16(gdst, x.len()), &want);
    assert_eq!(gpu.read(gdst, x.len() * 2), cpu.be.read(dst).unwrap());
}
