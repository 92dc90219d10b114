//! kernels/linear.cu: the dense product with adapters, forward and backward. What linear_nf4.rs and gemv.rs need too: cases,
//! uploads, a full tile's cost.

use crate::{
    harness::{Cpu, Documents, Gpu, Noise, SEEDS, assert_bits, assert_near},
    measure::Work,
};
#[allow(unused_imports)]
use irori::backend::calls::Calls as _;
use irori::{
    backend::{
        Backend, Buffer, DType, LoraPart, Weight, WeightStore,
        cuda::{linear::*, modules::MODULES},
    },
    quant::nf4,
    rng::Dropout,
    tensor::Floats,
};
use ptxvm::{Args, Counters};
use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, OnceLock},
};

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
    /// W in NF4, bytes and absmax, if it is what they stand for.
    pub packed: Option<(Vec<u8>, Vec<f32>)>,
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
        Self { docs, n, k, rank, scale: 2.0, drop: None, x, w, packed: None, add: None, parts, direction }
    }

    /// The case with its W quantised; `w` becomes what the packed bytes stand for, rounded once to bf16.
    pub fn quantized(mut self) -> Self {
        let (mut packed, mut absmax) = (vec![0; self.w.len() / 2], vec![0.0; self.w.len() / 64]);
        nf4::quantize(Floats::F32(bytemuck::cast_slice(&self.w)), &mut packed, &mut absmax);
        nf4::dequantize(&packed, &absmax, true, &mut self.w);
        self.packed = Some((packed, absmax));
        self
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

    /// The kernel's parameters, W as it is stored; `out` is `add` where there is one.
    pub fn upload(&self, gpu: &mut Gpu, stored: Stored) -> Linear {
        let (w, absmax) = match stored {
            Stored::Dense => (gpu.bf16(&self.w), 0),
            Stored::Packed => {
                let (packed, absmax) = self.packed.as_ref().expect("the case was quantised");
                (gpu.bytes(packed), gpu.f32(absmax))
            }
        };
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
            w,
            absmax,
            add: add.unwrap_or(0),
            out: add.unwrap_or_else(|| gpu.fresh(self.rows() * self.columns() * 2)),
            samples: gpu.u32(&self.docs.samples),
            positions: gpu.u32(&self.docs.positions),
            rows: self.rows() as i32,
            columns: self.columns() as i32,
            depth: self.depth() as i32,
            group: 3,
            first: 0,
            drop: DropoutArgs::new(self.drop),
            parts: self.parts.len() as i32,
            unused: 0,
            part,
        }
    }

    /// Runs one kernel over everything and reads its output.
    pub fn run(&self, stored: Stored, tile: &Tile, seed: u64) -> Option<(Vec<f32>, Counters)> {
        let blocks = tile.blocks(self.rows(), self.columns());
        self.launch(stored, &[Span { tile: *tile, group: 3, first: 0, blocks }], seed)
    }

    /// Runs the launches of a product and reads their output.
    pub fn launch(&self, stored: Stored, launches: &[Span], seed: u64) -> Option<(Vec<f32>, Counters)> {
        let mut gpu = Gpu::new(launches.first()?.tile.module, seed)?;
        let mut p = self.upload(&mut gpu, stored);
        let mut all = Counters::default();
        for Span { tile, group, first, blocks } in launches {
            (p.group, p.first) = (*group, *first);
            let args = Args::new().raw(8, bytemuck::bytes_of(&p));
            all.add(&gpu.launch(tile.kernel, *blocks, tile.threads(), tile.shared, &args));
        }
        Some((gpu.get_bf16(p.out, self.rows() * self.columns()), all))
    }

    /// Runs every tile under every schedule. None has a bank conflict, and all give the same bits: neither the schedule
    /// nor the tile shape changes one, every output is one chain of the same mma.
    pub fn run_all(&self, stored: Stored) -> Option<Vec<f32>> {
        let mut first: Option<Vec<f32>> = None;
        for tile in tiles(stored, self.direction) {
            for seed in SEEDS {
                let (got, counters) = self.run(stored, tile, seed)?;
                assert_eq!(counters.bank_conflicts(), 0, "{}: {counters}", tile.kernel);
                assert_eq!(counters.local_accesses, 0);
                assert_bits(tile.kernel, &got, first.get_or_insert_with(|| got.clone()));
            }
        }
        first
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

/// Rows 1, 17, 128, 300, 1000; widths that are not multiples of the tile; adapters whose columns begin inside a tile.
pub fn cases(direction: Direction) -> Vec<Case> {
    let mut cases = vec![
        Case::new(&[1], 64, 64, &[], 16, direction),
        Case::new(&[1, 11, 5], 136, 72, &[0..136], 16, direction),
        Case::new(&[128], 128, 256, &[0..40, 40..64, 64..128], 8, direction),
        Case::new(&[130, 1, 169], 320, 192, &[0..128, 192..320], 48, direction),
        Case::new(&[1, 700, 1, 298], 64, 192, &[0..40, 40..64], 16, direction),
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
        let Some(got) = c.run_all(Stored::Dense) else { return };
        c.check(&got);
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

/// A 2g.20gb slice of an A100.
pub const SLICE: Chip = Chip { sms: 28, shared_per_block: 163 << 10, shared_per_sm: 164 << 10 };

/// (n, k) of Qwen3-8B's fused linears.
pub const QWEN3_8B: [(usize, usize); 4] = [(6144, 4096), (4096, 4096), (24576, 4096), (4096, 12288)];

/// The least that `choose` is estimated to reach for Qwen3-8B at 2048 rows on 28 multiprocessors.
pub fn least_efficiency(stored: Stored, direction: Direction) -> f64 {
    let mut least = 1.0f64;
    for (n, k) in QWEN3_8B {
        let (columns, depth) = if direction == Direction::Forward { (n, k) } else { (k, n) };
        let spans = choose(&SLICE, stored, direction, 2048, columns, depth).unwrap();
        let share = spans.efficiency(&SLICE, 2048, columns, depth);
        let kernels: Vec<_> = spans.launches.iter().map(|s| (s.tile.kernel, s.blocks)).collect();
        println!("  {columns:>6} x {depth:>6}  {:.1} % of the tensor cores: {kernels:?}", 100.0 * share);
        least = least.min(share);
    }
    least
}

/// Inner dimensions between which a main loop is measured.
pub const DEPTHS: [usize; 2] = [2048, 4096];

/// What one full tile costs at each of [`DEPTHS`], with a result that is right at the greater. `None` without kernels.
pub fn full_tile(stored: Stored, direction: Direction, tile: &Tile) -> Option<[Counters; 2]> {
    static MEASURED: OnceLock<Mutex<HashMap<&'static str, [Counters; 2]>>> = OnceLock::new();
    let mut measured = MEASURED.get_or_init(Mutex::default).lock().unwrap_or_else(|e| e.into_inner());
    if let Some(known) = measured.get(tile.kernel) {
        return Some(known.clone());
    }
    let run = |depth| {
        let c = match direction {
            Direction::Forward => Case::new(&[tile.rows as usize], 128, depth, &[], 16, direction),
            Direction::Backward => Case::new(&[tile.rows as usize], depth, 128, &[], 16, direction),
        };
        let c = if stored == Stored::Packed { c.quantized() } else { c };
        let (got, counters) = c.run(stored, tile, 5)?;
        if depth == DEPTHS[1] {
            c.check(&got);
        }
        Some(counters)
    };
    let counters = [run(DEPTHS[0])?, run(DEPTHS[1])?];
    measured.insert(tile.kernel, counters.clone());
    Some(counters)
}

/// What the main loop costs from one of [`DEPTHS`] to the other, and the bytes of operands that it must read.
pub fn main_loop(stored: Stored, direction: Direction, tile: &Tile) -> Option<(Work, f64)> {
    let [short, long] = full_tile(stored, direction, tile)?.map(|c| Work::of(&c));
    let [from, to] = DEPTHS.map(|depth| tile.operand_bytes(stored, direction, depth));
    // Backward with 128 columns in all, the absmax of four rows share a sector.
    let together = match (stored, direction) {
        (Stored::Packed, Direction::Backward) => (DEPTHS[1] - DEPTHS[0]) * 24,
        _ => 0,
    };
    Some((long - short, (to - from - together) as f64))
}

/// One tile at full width, K = 4096: right, each operand byte once, and the tensor cores (or what [`Tile::step`] says) are
/// what its main loop waits for. The figures themselves stand in docs/kernel-costs.md.
pub fn full_tiles_cost_what_they_must(stored: Stored, least_share: f64) {
    for direction in [Direction::Forward, Direction::Backward] {
        for tile in tiles(stored, direction) {
            let Some((cost, must)) = main_loop(stored, direction, tile) else { return };
            // Instructions and shared wavefronts an mma at most: 8 ldmatrix.x4 of 4 wavefronts for 32 mma, operands written
            // once, and decoding. Then what bytes and cycles may be off by.
            let (instructions, shared, bytes, cycles) = match (stored, tile.rows) {
                (Stored::Dense, 64) => (4.2, 2.25, 0.0, 0.0),
                (Stored::Dense, _) => (3.0, 1.5, 0.0, 0.0),
                (Stored::Packed, 256) => (4.5, 1.75, 0.05, 0.03),
                (Stored::Packed, 128) => (6.5, 2.25, 0.05, 0.03),
                (Stored::Packed, _) => (10.5, 3.75, 0.05, 0.03),
            };
            let share = cost.asked / must;
            assert!((1.0..=1.0 + bytes).contains(&share), "{}: {share} of the least bytes", tile.kernel);
            assert!(cost.issued / cost.mma <= instructions, "{}: {} an mma", tile.kernel, cost.issued / cost.mma);
            assert!(cost.shared / cost.mma <= shared, "{}: {} an mma", tile.kernel, cost.shared / cost.mma);
            let steps = ((DEPTHS[1] - DEPTHS[0]) / 32) as f64;
            let off = cost.cycles() / (steps * f64::from(tile.step)) - 1.0;
            assert!(off.abs() <= cycles, "{}: {off} beside the cycles that `choose` counts on", tile.kernel);
        }
        let least = least_efficiency(stored, direction);
        assert!(least >= least_share, "{least}");
    }
}

#[test]
fn a_full_tile_costs_what_it_must() {
    full_tiles_cost_what_they_must(Stored::Dense, 0.85);
}

/// Estimated by cycles: big tiles where they fill the chip, a tail of small ones where the last wave would be mostly
/// empty, small ones alone for few rows.
#[test]
fn the_choice_follows_shape_and_chip() {
    let kernels = |chip: &Chip, rows, n| -> Vec<_> {
        let spans = choose(chip, Stored::Dense, Direction::Forward, rows, n, 4096);
        spans.into_iter().flat_map(|s| s.launches).map(|s| (s.tile.kernel, s.blocks)).collect()
    };
    assert_eq!(kernels(&SLICE, 256, 28 * 128), [("linear_256x128", 28)]);
    assert_eq!(kernels(&SLICE, 2048, 4096), [("linear_256x128", 9 * 28), ("linear_64x128", 16)]);
    assert_eq!(kernels(&SLICE, 40, 4096), [("linear_64x128", 32)]);
    let small = Chip { shared_per_block: 99 << 10, shared_per_sm: 100 << 10, ..SLICE };
    for stored in [Stored::Dense, Stored::Packed] {
        assert!(choose(&small, stored, Direction::Backward, 2048, 4096, 4096).is_some(), "sm_86 has 99 KiB a block");
    }
    assert_eq!(choose(&Chip { shared_per_block: 40 << 10, ..SLICE }, Stored::Dense, Direction::Forward, 1, 8, 8), None);
    for tile in tiles(Stored::Dense, Direction::Forward) {
        assert!((1..=16).contains(&tile.group(&SLICE, 2048)), "{}", tile.group(&SLICE, 2048));
        assert_eq!(tile.group(&SLICE, 1), 1);
    }
}

/// Every tile with every smaller one for its tail, on chips of so few multiprocessors that a small product has whole waves:
/// every output is made (the machine reports what nobody wrote), and is the same bits.
#[test]
fn two_launches_give_the_bits_of_one() {
    let mut parted = 0;
    for (direction, n, k) in [(Direction::Forward, 448, 64), (Direction::Backward, 64, 448)] {
        let c = Case::new(&[1, 700, 1, 298], n, k, &[0..40, 40..n], 16, direction).quantized();
        for stored in [Stored::Dense, Stored::Packed] {
            let all = tiles(stored, direction);
            let Some((want, _)) = c.run(stored, &all[0], 0) else { return };
            for ((tile, tail), sms) in
                all.iter().flat_map(|t| all.iter().map(move |u| (t, u))).zip([3, 5, 7].iter().cycle())
            {
                let chip = Chip { sms: *sms, ..SLICE };
                let Some(s) = Spans::with_tail(tile, tail, &chip, c.rows(), c.columns(), c.depth()) else { continue };
                assert_eq!(s.launches[0].blocks % sms, 0, "whole waves");
                let left = tile.blocks(c.rows(), c.columns()) - s.launches[0].blocks;
                assert!(
                    s.launches[1].blocks <= left * tile.rows / tail.rows,
                    "nothing is made twice: {:?}",
                    s.launches
                );
                let (got, _) = c.launch(stored, &s.launches, 0).unwrap();
                assert_bits(&format!("{:?}", s.launches), &got, &want);
                parted += 1;
            }
        }
    }
    assert!(parted == 12 || MODULES.is_empty(), "{parted} products were parted");
}
