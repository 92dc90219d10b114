//! kernels/linear.cu: the dense product with adapters, forward and backward. What linear_nf4.rs and linear_gemv.rs need too:
//! cases, a full tile's cost.

mod full_tiles;

use crate::harness::{Cpu, Device, Documents, Gpu, Noise, SEEDS, assert_bits, assert_near, mask};
pub use full_tiles::{DEPTHS, full_tiles_cost_what_they_must, main_loop};
use irori::{
    backend::{
        Buffer, DType, LoraPart, Op, Weight, WeightStore,
        cuda::launches::linear::{
            GEMV_ROWS, Product,
            tiles::{Direction, Span, Stored, Tile, tiles},
        },
        ops,
    },
    quant::nf4,
    rng::Dropout,
    tensor::Floats,
};
use ptxvm::Counters;
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
