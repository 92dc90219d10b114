//! kernels/linear.cu: the dense product with adapters, forward and backward.

use crate::harness::{Cpu, Documents, Gpu, Noise, SEEDS, assert_bits, assert_near};
use irori::{
    backend::{Backend, Buffer, DType, LoraPart, Weight, WeightStore, cuda::linear::*},
    rng::Dropout,
};
use ptxvm::{Args, Class, Counters};
use std::ops::Range;

pub const DROP: Option<Dropout> = Some(Dropout { p: 0.3, key: 0x1234_5678_9abc_def0, layer: 7 });

/// A layer with its inputs. Every value is a bf16.
#[derive(Clone)]
pub struct Case {
    pub docs: Documents,
    pub n: usize,
    pub k: usize,
    pub rank: usize,
    pub scale: f32,
    pub drop: Option<Dropout>,
    /// z [T, k] forward, dy [T, n] backward.
    pub x: Vec<f32>,
    /// [n, k].
    pub w: Vec<f32>,
    pub add: Option<Vec<f32>>,
    pub parts: Vec<Adapter>,
    pub direction: Direction,
}

/// A module's share of a [`Case`].
#[derive(Clone)]
pub struct Adapter {
    pub module: u32,
    pub out: Range<usize>,
    /// u or v, [T, r].
    pub left: Vec<f32>,
    /// [r, k].
    pub a: Vec<f32>,
    /// [out, r].
    pub b: Vec<f32>,
}

impl Case {
    /// Outputs have size about 1.
    pub fn new(
        lengths: &[usize],
        n: usize,
        k: usize,
        modules: &[Range<usize>],
        rank: usize,
        direction: Direction,
    ) -> Self {
        let docs = Documents::new(lengths);
        let rows = docs.rows();
        let mut noise = Noise::new((rows * 31 + n * 7 + k) as u64);
        let depth = if direction == Direction::Forward { k } else { n };
        let parts = modules
            .iter()
            .enumerate()
            .map(|(i, out)| Adapter {
                module: i as u32 * 2,
                out: out.clone(),
                left: noise.normal(rows * rank, 1.0),
                a: noise.normal(rank * k, 0.3),
                b: noise.normal(out.len() * rank, 0.3),
            })
            .collect();
        let x = noise.normal(rows * depth, 1.0);
        let w = noise.normal(n * k, (depth as f32).sqrt().recip());
        Self { docs, n, k, rank, scale: 2.0, drop: None, x, w, add: None, parts, direction }
    }

    pub fn rows(&self) -> usize {
        self.docs.rows()
    }

    pub fn columns(&self) -> usize {
        if self.direction == Direction::Forward { self.n } else { self.k }
    }

    pub fn depth(&self) -> usize {
        if self.direction == Direction::Forward { self.k } else { self.n }
    }

    /// The cpu backend's operation.
    pub fn reference(&self) -> Vec<f32> {
        let mut cpu = Cpu::new();
        let rows = cpu.rows(&self.docs);
        let (x, w) = (cpu.f32(&self.x), cpu.f32(&self.w));
        let add = self.add.as_ref().map(|a| cpu.f32(a));
        let out = cpu.out(DType::F32, self.rows() * self.columns());
        let empty = Buffer::empty(DType::F32);
        let parts: Vec<LoraPart> = self
            .parts
            .iter()
            .map(|p| {
                let left = cpu.f32(&p.left);
                LoraPart {
                    module: p.module,
                    out: p.out.clone(),
                    r: self.rank,
                    scale: self.scale,
                    a: cpu.f32(&p.a),
                    b: cpu.f32(&p.b),
                    da: empty,
                    db: empty,
                    u: left,
                    v: left,
                }
            })
            .collect();
        cpu.start(1 << 24);
        let w = Weight { n: self.n, k: self.k, store: WeightStore::Dense(w) };
        match self.direction {
            Direction::Forward => cpu.be.linear(x, &w, &parts, add, out).unwrap(),
            Direction::Backward => cpu.be.linear_backward(x, &w, &rows, &parts, self.drop, out).unwrap(),
        }
        cpu.get(out)
    }

    /// The kernel's parameters, all but W uploaded; `out` is `add` where there is one.
    pub fn upload(&self, gpu: &mut Gpu) -> Linear {
        let mut part = [Part { left: 0, right: 0, start: 0, end: 0, rank: 0, module: 0, scale: 0.0, unused: 0 }; PARTS];
        for (to, p) in part.iter_mut().zip(&self.parts) {
            let right = if self.direction == Direction::Forward { &p.b } else { &p.a };
            *to = Part {
                left: gpu.bf16(&p.left),
                right: gpu.bf16(right),
                start: p.out.start as i32,
                end: p.out.end as i32,
                rank: self.rank as i32,
                module: p.module,
                scale: self.scale,
                unused: 0,
            };
        }
        let add = self.add.as_ref().map(|a| gpu.bf16(a));
        Linear {
            x: gpu.bf16(&self.x),
            w: 0,
            absmax: 0,
            add: add.unwrap_or(0),
            out: add.unwrap_or_else(|| gpu.fresh(self.rows() * self.columns() * 2)),
            samples: gpu.u32(&self.docs.samples),
            positions: gpu.u32(&self.docs.positions),
            rows: self.rows() as i32,
            columns: self.columns() as i32,
            depth: self.depth() as i32,
            group: 3,
            drop: DropoutArgs::new(self.drop),
            parts: self.parts.len() as i32,
            part,
        }
    }

    /// Runs a dense kernel.
    pub fn run(&self, tile: &Tile, seed: u64) -> Option<(Vec<f32>, Counters)> {
        let mut gpu = Gpu::new(tile.module, seed)?;
        let mut p = self.upload(&mut gpu);
        p.w = gpu.bf16(&self.w);
        Some(launch(&mut gpu, tile, &p))
    }

    /// The kernel sums in f32 in another order than the reference, and rounds once to bf16.
    ///
    /// Terms are exact products of bf16. A sum of m of them in f32 has an error of at most m·2⁻²⁴·Σ|terms|, and of about
    /// √m·2⁻²⁴·√(Σ terms²) if roundings are independent; 8 times that covers 10⁶ outputs and both sides' errors. The terms
    /// of one output have Σ terms² of about 1 from W, and of parts·rank·0.09·scale² from the adapters. The rounding to
    /// bf16 adds 2⁻⁸ of the result at most (half of the 2⁻⁷ between neighbours).
    pub fn check(&self, got: &[f32]) {
        let terms = (self.depth() + self.rank * self.parts.len()) as f32;
        let squares = 2.0 + (self.rank * self.parts.len()) as f32 * 0.09 * self.scale * self.scale * 4.0;
        let absolute = 8.0 * terms.sqrt() * squares.sqrt() * 2f32.powi(-24);
        assert_near("out", got, &self.reference(), 2f32.powi(-8), |_| absolute);
    }
}

/// Launches a linear kernel and reads its output.
pub fn launch(gpu: &mut Gpu, tile: &Tile, p: &Linear) -> (Vec<f32>, Counters) {
    let (rows, columns) = (p.rows as usize, p.columns as usize);
    let args = Args::new().raw(8, bytemuck::bytes_of(p));
    let counters = gpu.launch(tile.kernel, tile.blocks(rows, columns), tile.threads(), tile.shared, &args);
    (gpu.get_bf16(p.out, rows * columns), counters)
}

/// Rows 1, 17, 128, 300; widths that are not multiples of the tile; adapters whose columns begin inside a tile.
pub fn cases(direction: Direction) -> Vec<Case> {
    let mut cases = vec![
        Case::new(&[1], 64, 64, &[], 16, direction),
        Case::new(&[1, 11, 5], 136, 72, &[0..136], 16, direction),
        Case::new(&[128], 128, 256, &[0..40, 40..64, 64..128], 8, direction),
        Case::new(&[130, 1, 169], 320, 192, &[0..128, 192..320], 48, direction),
    ];
    if direction == Direction::Forward {
        for c in &mut cases[1..3] {
            c.add = Some(Noise::new(9).normal(c.rows() * c.columns(), 1.0));
        }
    } else {
        for c in &mut cases[1..] {
            c.drop = DROP;
        }
    }
    cases
}

fn every_case(direction: Direction) {
    for c in cases(direction) {
        let mut all: Vec<Vec<f32>> = Vec::new();
        for tile in tiles(Stored::Dense, direction) {
            for seed in SEEDS {
                let Some((got, counters)) = c.run(tile, seed) else { return };
                assert_eq!(counters.bank_conflicts(), 0, "{}: {counters}", tile.kernel);
                assert_eq!(counters.local_accesses, 0);
                all.push(got);
            }
        }
        c.check(&all[0]);
        // Neither the schedule nor the tile shape changes a bit: every output is one chain of the same mma.
        for other in &all[1..] {
            assert_bits("out", other, &all[0]);
        }
    }
}

#[test]
fn forward_is_the_cpu_operation_under_every_schedule() {
    every_case(Direction::Forward);
}

#[test]
fn backward_is_the_cpu_operation_under_every_schedule() {
    every_case(Direction::Backward);
}

/// Instructions that become machine instructions in a main loop.
pub fn issued(c: &Counters) -> u64 {
    Class::ALL.iter().filter(|c| !matches!(c, Class::Move | Class::Param)).map(|&class| c.of(class)).sum()
}
