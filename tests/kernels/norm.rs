//! norm.cu. Tolerance: one rounding to bf16 of a value computed in f32, whose own error over H terms is far below.

use crate::{
    harness::{Cpu, Gpu, Noise, SEEDS, assert_bits, assert_near},
    launches::{Traffic, U, assert_no_conflicts, assert_traffic, in_sectors, run},
};
#[allow(unused_imports)]
use irori::backend::calls::Calls as _;
use irori::backend::{Backend, DType, cuda::rows as launches};

const EPS: f32 = 1e-6;
/// (rows, hidden): ragged row counts, Qwen3's hidden sizes, one vector, the widest row.
const SHAPES: [(usize, usize); 8] =
    [(1, 1024), (17, 8), (128, 256), (300, 136), (1000, 64), (3, 4096), (2, 5120), (1, launches::MAX_HIDDEN)];

/// Sectors that a warp's accesses to w touch: eight f32 a thread in two accesses of 16 bytes, 32 bytes apart, so each sector
/// is asked for twice; the second time, and in later rows, L1 has it.
fn weights(rows: usize, hidden: usize) -> usize {
    rows * hidden * 8
}

#[test]
fn forward() {
    for (rows, hidden) in SHAPES {
        let mut noise = Noise::new(hidden as u64);
        let (x, w) = (noise.normal(rows * hidden, 3.0), noise.normal_f32(hidden, 1.0));
        let mut cpu = Cpu::new();
        let (cx, cw, cy) = (cpu.f32(&x), cpu.f32(&w), cpu.out(DType::F32, rows * hidden));
        cpu.start(0);
        cpu.be.rmsnorm(cx, cw, EPS, cy).unwrap();
        let want = cpu.get(cy);
        let mut first = None;
        for seed in SEEDS {
            let Some(mut gpu) = Gpu::new("norm", seed) else { return };
            let (x, w, y) = (gpu.bf16(&x), gpu.f32(&w), gpu.fresh(rows * hidden * 2));
            let c = run(&mut gpu, &launches::rmsnorm(rows, hidden, x, w, EPS, y));
            let got = gpu.get_bf16(y, rows * hidden);
            assert_near(&format!("y of {rows} × {hidden}"), &got, &want, 1.02 * U, |_| 1e-6);
            assert_bits("y under another schedule", &got, first.get_or_insert(got.clone()));
            let bytes = in_sectors(rows, hidden);
            assert_traffic("rmsnorm", &c, Traffic { loads: bytes + weights(rows, hidden), stores: bytes });
            assert_no_conflicts("rmsnorm", &c);
        }
    }
}

/// Which of the buffers are one and the same.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Alias {
    None,
    DxIsDy,
    DxIsAdd,
}

#[test]
fn backward_with_and_without_add_and_in_place() {
    for (rows, hidden) in SHAPES {
        let mut noise = Noise::new(hidden as u64 + 1);
        let (x, w) = (noise.normal(rows * hidden, 3.0), noise.normal_f32(hidden, 1.0));
        let (dy, plus) = (noise.normal(rows * hidden, 1.0), noise.normal(rows * hidden, 0.3));
        for with_add in [false, true] {
            let mut cpu = Cpu::new();
            let (cx, cw, cdy, cplus) = (cpu.f32(&x), cpu.f32(&w), cpu.f32(&dy), cpu.f32(&plus));
            let cdx = cpu.out(DType::F32, rows * hidden);
            cpu.start(0);
            cpu.be.rmsnorm_backward(cx, cw, EPS, cdy, with_add.then_some(cplus), cdx).unwrap();
            let want = cpu.get(cdx);
            let mut first = None;
            for (seed, alias) in [(0, Alias::None), (1, Alias::DxIsDy), (2, Alias::DxIsAdd)] {
                if alias == Alias::DxIsAdd && !with_add {
                    continue;
                }
                let Some(mut gpu) = Gpu::new("norm", seed) else { return };
                let (gx, gw, gdy) = (gpu.bf16(&x), gpu.f32(&w), gpu.bf16(&dy));
                let add = if with_add { gpu.bf16(&plus) } else { 0 };
                let dx = match alias {
                    Alias::None => gpu.fresh(rows * hidden * 2),
                    Alias::DxIsDy => gdy,
                    Alias::DxIsAdd => add,
                };
                let c = run(&mut gpu, &launches::rmsnorm_backward(rows, hidden, gx, gw, EPS, gdy, add, dx));
                let got = gpu.get_bf16(dx, rows * hidden);
                // g − x̂·mean is a difference: its f32 error is relative to its terms, of size up to about 10.
                assert_near(&format!("dx of {rows} × {hidden}, {alias:?}"), &got, &want, 1.02 * U, |_| 1e-5);
                assert_bits("dx elsewhere", &got, first.get_or_insert(got.clone()));
                let bytes = in_sectors(rows, hidden);
                let loads = bytes * if with_add { 3 } else { 2 } + weights(rows, hidden);
                assert_traffic("rmsnorm_backward", &c, Traffic { loads, stores: bytes });
                assert_no_conflicts("rmsnorm_backward", &c);
            }
        }
    }
}
