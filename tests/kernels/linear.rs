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

/// What one step of the main loop costs a block, as the difference of two runs that differ in depth only.
pub struct LoopCost {
    pub mma: f64,
    /// Warp instructions of the PTX that become machine instructions.
    pub issued: f64,
    /// Wavefronts of shared memory; a shfl is one.
    pub shared: f64,
    pub global_bytes: f64,
}

impl LoopCost {
    pub fn of(short: &Counters, long: &Counters) -> Self {
        let issued = |c: &Counters| -> u64 {
            Class::ALL.iter().filter(|c| !matches!(c, Class::Move | Class::Param)).map(|&class| c.of(class)).sum()
        };
        let shared = |c: &Counters| c.shared_wavefronts + c.async_wavefronts + c.of(Class::Warp);
        let difference = |f: &dyn Fn(&Counters) -> u64| (f(long) - f(short)) as f64;
        Self {
            mma: difference(&|c| c.mma),
            issued: difference(&issued),
            shared: difference(&shared),
            global_bytes: difference(&|c| 32 * c.global_load_sectors),
        }
    }

    /// Cycles on an sm_80 multiprocessor at least: four tensor cores take 8 cycles an mma, four schedulers issue an
    /// instruction a cycle, shared memory serves a wavefront a cycle.
    pub fn cycles(&self) -> f64 {
        (self.mma * 8.0 / 4.0).max(self.issued / 4.0).max(self.shared)
    }
}

/// A 2g.20gb slice of an A100.
pub const SLICE: Chip = Chip { sms: 28, shared_per_block: 163 << 10, shared_per_sm: 164 << 10 };

/// (n, k) of Qwen3-8B's fused linears.
pub const QWEN3_8B: [(usize, usize); 4] = [(6144, 4096), (4096, 4096), (24576, 4096), (4096, 12288)];

/// The least that `choose` is estimated to reach for Qwen3-8B at 2048 rows on 28 multiprocessors.
pub fn least_efficiency(stored: Stored, direction: Direction) -> f64 {
    let mut least = 1.0f64;
    for (n, k) in QWEN3_8B {
        let (columns, depth) = if direction == Direction::Forward { (n, k) } else { (k, n) };
        let tile = choose(&SLICE, stored, direction, 2048, columns, depth).unwrap();
        let share = tile.efficiency(&SLICE, 2048, columns, depth);
        println!("  {columns:>6} x {depth:>6}  {:<30} {:.1} % of the tensor cores", tile.kernel, 100.0 * share);
        least = least.min(share);
    }
    least
}

/// One tile at full width, K = 4096: right, and its main loop costs what the kernel's head says.
#[test]
fn a_full_tile_costs_what_it_must() {
    for direction in [Direction::Forward, Direction::Backward] {
        for tile in tiles(Stored::Dense, direction) {
            let case = |depth| match direction {
                Direction::Forward => Case::new(&[tile.rows as usize], 128, depth, &[], 16, direction),
                Direction::Backward => Case::new(&[tile.rows as usize], depth, 128, &[], 16, direction),
            };
            let (short, long) = (case(2048), case(4096));
            let Some((_, at_short)) = short.run(tile, 5) else { return };
            let Some((got, at_long)) = long.run(tile, 5) else { return };
            long.check(&got);
            let cost = LoopCost::of(&at_short, &at_long);
            let must = (tile.operand_bytes(Stored::Dense, direction, 4096)
                - tile.operand_bytes(Stored::Dense, direction, 2048)) as f64;
            println!(
                "{}: {:.2} instructions and {:.2} shared wavefronts an mma, {:.3} of the least global bytes",
                tile.kernel,
                cost.issued / cost.mma,
                cost.shared / cost.mma,
                cost.global_bytes / must
            );
            assert_eq!(cost.global_bytes, must, "each operand byte once");
            assert!(cost.issued / cost.mma <= 3.0, "{}", cost.issued / cost.mma);
            // 8 ldmatrix.x4 of 4 wavefronts for 32 mma, and the operands written once.
            assert!(cost.shared / cost.mma <= 1.5, "{}", cost.shared / cost.mma);
            assert_eq!(cost.cycles(), f64::from(tile.step) * 64.0, "2048 of the depth are 64 steps");
        }
        let least = least_efficiency(Stored::Dense, direction);
        assert!(least >= 0.85, "{least}");
    }
}

/// Estimated by cycles: big tiles where they fill the chip, small ones where the last wave would be mostly empty.
#[test]
fn the_choice_follows_shape_and_chip() {
    let kernel =
        |chip: &Chip, rows, n| choose(chip, Stored::Dense, Direction::Forward, rows, n, 4096).map(|t| t.kernel);
    assert_eq!(kernel(&SLICE, 2048, 4096), Some("linear_128x128"), "19 of 128 rows beat 10 of 256");
    assert_eq!(kernel(&SLICE, 100, 4096), Some("linear_128x128"));
    assert_eq!(kernel(&SLICE, 256, 28 * 128), Some("linear_256x128"));
    let small = Chip { shared_per_block: 99 << 10, shared_per_sm: 100 << 10, ..SLICE };
    for stored in [Stored::Dense, Stored::Packed] {
        assert!(choose(&small, stored, Direction::Backward, 2048, 4096, 4096).is_some(), "sm_86 has 99 KiB a block");
    }
    assert_eq!(choose(&Chip { shared_per_block: 48 << 10, ..SLICE }, Stored::Dense, Direction::Forward, 1, 8, 8), None);
    for tile in tiles(Stored::Dense, Direction::Forward) {
        assert!((1..=16).contains(&tile.group(&SLICE, 2048)), "{}", tile.group(&SLICE, 2048));
        assert_eq!(tile.group(&SLICE, 1), 1);
    }
}
