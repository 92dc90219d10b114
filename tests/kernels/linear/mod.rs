//! kernels/linear.cu: the dense product with adapters, forward and backward. What linear_nf4.rs and linear_gemv.rs need too:
//! cases, a full tile's cost.

use crate::{
    harness::{Cpu, Device, Documents, Gpu, Noise, SEEDS, SLICE, assert_bits, assert_near, mask},
    work::Work,
};
use irori::{
    backend::{
        Buffer, DType, LoraPart, Op, Weight, WeightStore,
        cuda::{
            context::Chip,
            launches::linear::{
                GEMV_ROWS, Product,
                tiles::{Direction, Span, Spans, Stored, Tile, choose, tiles},
            },
            modules::MODULES,
        },
        ops,
    },
    quant::nf4,
    rng::Dropout,
    tensor::Floats,
};
use ptxvm::Counters;
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

    /// The operation on a device, W as it is stored, and its output, which is `add` where there is one.
    pub fn op<D: Device>(&self, d: &mut D, stored: Stored) -> (Op<'static>, Buffer) {
        let rows = d.rows(&self.docs);
        let store = match stored {
            Stored::Dense => WeightStore::Dense(d.act(&self.w)),
            Stored::Packed => {
                let (packed, absmax) = self.packed.as_ref().expect("the case was quantised");
                WeightStore::Nf4 { packed: d.bytes(packed), absmax: d.f32(absmax), compute: DType::Bf16 }
            }
        };
        let w = Weight { n: self.n, k: self.k, store };
        let parts = self.parts.iter().map(|p| self.part(p, d)).collect();
        let (x, add) = (d.act(&self.x), self.add.as_ref().map(|a| d.act(a)));
        let out = add.unwrap_or_else(|| d.act_out(self.rows() * self.columns()));
        let op = match self.direction {
            Direction::Forward => ops::Linear { z: x, w, parts, add, y: out }.into(),
            Direction::Backward => {
                ops::LinearBackward { dy: x, w, parts, mask: mask(self.drop, &rows), dz: out }.into()
            }
        };
        (op, out)
    }

    fn part<D: Device>(&self, p: &Adapter, d: &mut D) -> LoraPart {
        let (left, empty) = (d.act(&p.left), Buffer::empty(DType::F32));
        LoraPart {
            module: p.module,
            out: p.out.clone(),
            r: self.rank,
            scale: self.scale,
            a: d.act(&p.a),
            b: d.act(&p.b),
            da: empty,
            db: empty,
            u: left,
            v: left,
        }
    }

    /// The operation run as a whole, by the launches that are chosen for it.
    pub fn whole<D: Device>(&self, d: &mut D, stored: Stored) -> (Vec<f32>, Vec<Counters>) {
        let (op, out) = self.op(d, stored);
        let costs = d.run(op);
        (d.get(out), costs)
    }

    /// What the kernels take, on a device.
    pub fn product(&self, gpu: &mut Gpu, stored: Stored) -> (Product, Buffer) {
        let (op, out) = self.op(gpu, stored);
        let product = gpu.with_context(Buffer::empty(DType::U8), |at| match &op {
            Op::Linear(op) => Product::forward(op, at),
            Op::LinearBackward(op) => Product::backward(op, at),
            other => panic!("{} is no product", other.name()),
        });
        (product.unwrap_or_else(|e| panic!("{e}")), out)
    }

    /// Runs one kernel over everything and reads its output.
    pub fn run(&self, stored: Stored, tile: &Tile, seed: u64) -> Option<(Vec<f32>, Counters)> {
        let blocks = tile.blocks(self.rows(), self.columns());
        self.launch(stored, &[Span { tile: *tile, group: 3, first: 0, blocks }], seed)
    }

    /// Runs the launches of a product and reads their output.
    pub fn launch(&self, stored: Stored, launches: &[Span], seed: u64) -> Option<(Vec<f32>, Counters)> {
        let mut gpu = Gpu::new(seed)?;
        let (product, out) = self.product(&mut gpu, stored);
        let mut all = Counters::default();
        for span in launches {
            all.add(&gpu.launch(&product.launch(span)));
        }
        Some((gpu.get(out), all))
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
        let (want, _) = self.whole(&mut Cpu::new(), Stored::Dense);
        assert_near("out", got, &want, 2f32.powi(-8), |_| absolute);
    }
}

impl Case {
    /// The launches that are chosen give the bits of any tile; few rows are summed in another order.
    pub fn check_whole(&self, stored: Stored, tiled: &[f32]) {
        let Some(mut gpu) = Gpu::new(SEEDS[0]) else { return };
        let (whole, _) = self.whole(&mut gpu, stored);
        if self.direction == Direction::Forward && self.rows() <= GEMV_ROWS {
            self.check(&whole);
        } else {
            assert_bits("the whole operation", &whole, tiled);
        }
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
        c.check_whole(Stored::Dense, &got);
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

/// (n, k) of Qwen3-8B's fused linears.
pub const QWEN3_8B: [(usize, usize); 4] = [(6144, 4096), (4096, 4096), (24576, 4096), (4096, 12288)];

/// The least that `choose` is estimated to reach for Qwen3-8B at 2048 rows on 28 multiprocessors.
pub fn least_efficiency(stored: Stored, direction: Direction) -> f64 {
    let mut least = 1.0f64;
    for (n, k) in QWEN3_8B {
        let (columns, depth) = if direction == Direction::Forward { (n, k) } else { (k, n) };
        let shape = (2048, columns, depth);
        let spans = choose(&SLICE, stored, direction, shape).unwrap();
        let share = spans.efficiency(&SLICE, shape);
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
        let spans = choose(chip, Stored::Dense, Direction::Forward, (rows, n, 4096));
        spans.into_iter().flat_map(|s| s.launches).map(|s| (s.tile.kernel, s.blocks)).collect()
    };
    assert_eq!(kernels(&SLICE, 256, 28 * 128), [("linear_256x128", 28)]);
    assert_eq!(kernels(&SLICE, 2048, 4096), [("linear_256x128", 9 * 28), ("linear_64x128", 16)]);
    assert_eq!(kernels(&SLICE, 40, 4096), [("linear_64x128", 32)]);
    let small = Chip { shared_per_block: 99 << 10, shared_per_sm: 100 << 10, ..SLICE };
    for stored in [Stored::Dense, Stored::Packed] {
        assert!(choose(&small, stored, Direction::Backward, (2048, 4096, 4096)).is_some(), "sm_86 has 99 KiB a block");
    }
    let tiny = Chip { shared_per_block: 40 << 10, ..SLICE };
    assert_eq!(choose(&tiny, Stored::Dense, Direction::Forward, (1, 8, 8)), None);
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
                let shape = (c.rows(), c.columns(), c.depth());
                let Some(s) = Spans::with_tail(tile, tail, &chip, shape) else { continue };
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
