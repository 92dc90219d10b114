//! norm.cu. Tolerance: one rounding to bf16 of a value computed in f32, whose own error over H terms is far below.

use crate::harness::{
    Cpu, Device, Gpu, Noise, Run, Traffic, U, assert_bits, assert_near, assert_no_conflicts, assert_traffic,
    in_sectors, on_gpu,
};
use irori::backend::{
    cuda::launches::norm::MAX_HIDDEN,
    ops::{RmsNorm, RmsNormBackward},
};

const EPS: f32 = 1e-6;
/// (rows, hidden): ragged row counts, Qwen3's hidden sizes, one vector, the widest row.
const SHAPES: [(usize, usize); 8] =
    [(1, 1024), (17, 8), (128, 256), (300, 136), (1000, 64), (3, 4096), (2, 5120), (1, MAX_HIDDEN)];

/// Sectors that a warp's accesses to w touch: eight f32 a thread in two accesses of 16 bytes, 32 bytes apart, so each sector
/// is asked for twice; the second time, and in later rows, L1 has it.
fn weights(rows: usize, hidden: usize) -> usize {
    rows * hidden * 8
}

#[test]
fn forward() {
    fn y<D: Device>(d: &mut D, x: &[f32], w: &[f32]) -> Run<1> {
        let (x, w, y) = (d.act(x), d.f32(w), d.act_out(x.len()));
        let costs = d.run(RmsNorm { x, w, eps: EPS, y });
        Run { results: [d.get(y)], costs }
    }
    for (rows, hidden) in SHAPES {
        let mut noise = Noise::new(hidden as u64);
        let (x, w) = (noise.normal(rows * hidden, 3.0), noise.normal_f32(hidden, 1.0));
        let Some(got) = on_gpu(|gpu| y(gpu, &x, &w)) else { return };
        let want = y(&mut Cpu::new(), &x, &w);
        assert_near(&format!("y of {rows} × {hidden}"), &got.results[0], &want.results[0], 1.02 * U, |_| 1e-6);
        let bytes = in_sectors(rows, hidden);
        assert_traffic("rmsnorm", &got.costs[0], Traffic { loads: bytes + weights(rows, hidden), stores: bytes });
        assert_no_conflicts("rmsnorm", &got.costs[0]);
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
    fn dx<D: Device>(d: &mut D, [x, w, dy]: [&[f32]; 3], add: Option<&[f32]>, alias: Alias) -> Run<1> {
        let len = x.len();
        let (x, w, dy, add) = (d.act(x), d.f32(w), d.act(dy), add.map(|a| d.act(a)));
        let dx = match alias {
            Alias::None => d.act_out(len),
            Alias::DxIsDy => dy,
            Alias::DxIsAdd => add.expect("there is one"),
        };
        let costs = d.run(RmsNormBackward { x, w, eps: EPS, dy, add, dx });
        Run { results: [d.get(dx)], costs }
    }
    for (rows, hidden) in SHAPES {
        let mut noise = Noise::new(hidden as u64 + 1);
        let (x, w) = (noise.normal(rows * hidden, 3.0), noise.normal_f32(hidden, 1.0));
        let (dy, plus) = (noise.normal(rows * hidden, 1.0), noise.normal(rows * hidden, 0.3));
        let inputs = [&x[..], &w, &dy];
        for add in [None, Some(&plus[..])] {
            let want = dx(&mut Cpu::new(), inputs, add, Alias::None);
            let mut first = None;
            for (seed, alias) in [(0, Alias::None), (1, Alias::DxIsDy), (2, Alias::DxIsAdd)] {
                if alias == Alias::DxIsAdd && add.is_none() {
                    continue;
                }
                let Some(mut gpu) = Gpu::new(seed) else { return };
                let Run { results: [got], costs } = dx(&mut gpu, inputs, add, alias);
                // g − x̂·mean is a difference: its f32 error is relative to its terms, of size up to about 10.
                let what = format!("dx of {rows} × {hidden}, {alias:?}");
                assert_near(&what, &got, &want.results[0], 1.02 * U, |_| 1e-5);
                assert_bits("dx elsewhere", &got, first.get_or_insert(got.clone()));
                let bytes = in_sectors(rows, hidden);
                let loads = bytes * if add.is_some() { 3 } else { 2 } + weights(rows, hidden);
                assert_traffic("rmsnorm_backward", &costs[0], Traffic { loads, stores: bytes });
                assert_no_conflicts("rmsnorm_backward", &costs[0]);
            }
        }
    }
}
