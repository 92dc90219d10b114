//! What the virtual machine counts on representative pieces.

use super::{DOCUMENT, RANK, ROWS, model};
use crate::{
    attention,
    harness::{Device, Documents, Gpu},
    lora,
    work::Work,
};
use irori::backend::{
    AdamW, DType, Heads, LoraPart, Op,
    cuda::launch::Launch,
    ops::{
        AdamWUpdate, CrossEntropy, GatherRows, GlobalNorm, HeadNormRope, HeadNormRopeBackward, LoraBackward, RmsNorm,
        RmsNormBackward, Rotary, ScatterRows, SwiGlu, SwiGluBackward,
    },
};
use std::{cell::RefCell, collections::HashMap};

/// A kernel that works by rows or elements: its name, and whether it adds another matrix on top.
pub type Streaming = (&'static str, bool);

/// Everything that is measured, each once.
pub struct Counts {
    /// A block of a kernel that works by rows or elements.
    pub streaming: HashMap<Streaming, Work>,
    pub attention: Attention,
    /// By parts and dropout: u's and v's blocks and the gradients' at two widths.
    pub lora: HashMap<(usize, bool), [[Work; 5]; 2]>,
    pub reduce: [Work; 2],
    /// A block at a depth of [`SHORT`], by kernel and what it does besides.
    pub edges: RefCell<HashMap<(&'static str, Adapters), Work>>,
}

impl Counts {
    /// `None` in a build without kernels.
    pub fn new() -> Option<Self> {
        let mut lora = HashMap::new();
        for (parts, dropout) in [1, 2, 3].into_iter().flat_map(|parts| [(parts, false), (parts, true)]) {
            let [a, b] = WIDTHS.map(|w| lora::count(parts, w, RANK, dropout));
            lora.insert((parts, dropout), [a?, b?]);
        }
        let mut streaming = HashMap::new();
        by_rows(&mut streaming)?;
        optimizer(&mut streaming)?;
        let attention = attention(model().heads)?;
        Some(Self { streaming, attention, lora, reduce: reduce()?, edges: RefCell::default() })
    }
}

/// Counts the first launch of an operation, whose blocks are alike, per block.
fn block(of: &mut HashMap<Streaming, Work>, gpu: &mut Gpu, op: impl Into<Op<'static>>) {
    let op = op.into();
    let adds = matches!(&op, Op::RmsNormBackward(op) if op.add.is_some());
    let launch = &gpu.launches(&op)[0];
    let work = Work::of(&gpu.launch(launch)) * (1.0 / f64::from(blocks(launch)));
    of.insert((launch.kernel, adds), work);
}

/// Blocks of a launch.
pub fn blocks(l: &Launch) -> u32 {
    l.grid.iter().product()
}

/// Kernels that work row by row, at the widths of the model, measured on eight rows.
fn by_rows(of: &mut HashMap<Streaming, Work>) -> Option<()> {
    const N: usize = 8;
    let c = model();
    let (width, heads, eps) = (c.hidden, c.heads, 1e-6);
    let mut gpu = Gpu::counting()?;
    let gpu = &mut gpu;
    let rows = gpu.rows(&Documents::new(&[N]));
    let index = rows.positions;
    let [x, y, z] = [(); 3].map(|()| gpu.act_out(N * width));
    let w = gpu.f32(&vec![1.0; width]);
    block(of, gpu, GatherRows { x, index, width, out: y });
    block(of, gpu, ScatterRows { src: x, index, width, x: y });
    block(of, gpu, RmsNorm { x, w, eps, y });
    let backward = RmsNormBackward { x, w, eps, dy: y, add: None, dx: z };
    block(of, gpu, backward);
    block(of, gpu, RmsNormBackward { add: Some(z), ..backward });

    let [qkv, dqkv] = [(); 2].map(|()| gpu.act_out(N * heads.qkv_width()));
    let qk = gpu.act_out(N * heads.qk_width());
    let (norm, table) = (w.prefix(heads.dim), gpu.out(DType::F32, N * heads.dim));
    let rotary = Rotary { heads, q_norm: norm, k_norm: norm, eps, table };
    block(of, gpu, HeadNormRope { qkv, rows, rotary, qk });
    block(of, gpu, HeadNormRopeBackward { qkv, dqk: qk, rows, rotary, dqkv });

    let width = c.intermediate;
    let (gu, s) = (gpu.act_out(N * 2 * width), gpu.act_out(N * width));
    block(of, gpu, SwiGlu { gu, width, s });
    block(of, gpu, SwiGluBackward { gu, width, ds: s });

    let vocab = c.vocab;
    let (logits, loss) = (gpu.act_out(N * vocab), gpu.out(DType::F32, 1));
    block(of, gpu, CrossEntropy { logits, vocab, targets: index, grad_scale: 1.0, loss });
    Some(())
}

/// The optimizer's kernels, an element at a time: measured on 64 blocks.
fn optimizer(of: &mut HashMap<Streaming, Work>) -> Option<()> {
    const N: usize = 64 * 1024;
    let mut gpu = Gpu::counting()?;
    let (grad, norm) = (gpu.f32(&vec![0.5; N]), gpu.f32(&[1.0]));
    let [m, v, master] = [(); 3].map(|()| gpu.out(DType::F32, N));
    let working = gpu.act_out(N);
    let adamw = AdamW { lr: 1e-4, ..AdamW::default() };
    let squares = gpu.out(DType::F32, 1);
    block(of, &mut gpu, GlobalNorm { grad, norm: squares });
    block(of, &mut gpu, AdamWUpdate { adamw, norm, grad, m, v, master, working });
    Some(())
}

/// Adds up the losses of this many rows: one block.
pub fn add_loss(rows: usize) -> Work {
    let mut gpu = Gpu::counting().expect("there are kernels");
    let vocab = 8;
    let (logits, targets) = (gpu.act_out(rows * vocab), gpu.out(DType::U32, rows));
    let loss = gpu.f32(&[0.0]);
    last_launch(&mut gpu, CrossEntropy { logits, vocab, targets, grad_scale: 1.0, loss })
}

/// Adds up the partial sums of squares of this many gradients: one block.
pub fn finish_norm(count: usize) -> Work {
    let mut gpu = Gpu::counting().expect("there are kernels");
    let (grad, norm) = (gpu.out(DType::F32, count), gpu.out(DType::F32, 1));
    last_launch(&mut gpu, GlobalNorm { grad, norm })
}

fn last_launch(gpu: &mut Gpu, op: impl Into<Op<'static>>) -> Work {
    let launches = gpu.launches(&op.into());
    Work::of(&gpu.launch(&launches[launches.len() - 1]))
}

/// The four attention kernels on one document of [`DOCUMENT`] rows with the heads of one key/value head.
pub struct Attention {
    pub forward: Work,
    pub stats: Work,
    pub dq: Work,
    pub dkv: Work,
}

fn attention(heads: Heads) -> Option<Attention> {
    // Two key/value heads: whole blocks of the preparation.
    let two = Heads { q: 2 * heads.q / heads.kv, kv: 2, ..heads };
    let mut tiles = Vec::new();
    for n in 1..=3 {
        tiles.push(attention::count(n * 128, two)?.map(|c| Work::of(&c) * 0.5));
    }
    let n = (DOCUMENT / 128) as f64;
    // A tile of queries costs the same for each tile of keys that it sees whole, and so for each beyond its own: n tiles
    // cost n of the first kind and n·(n−1)/2 of the second.
    let whole = |i: usize| {
        let (one, pair) = (tiles[0][i], tiles[1][i] - tiles[0][i] * 2.0);
        let at = |n: f64| one * n + pair * (n * (n - 1.0) / 2.0);
        let (third, counted) = (at(3.0), tiles[2][i]);
        let off = |f: fn(&Work) -> f64| (f(&third) / f(&counted) - 1.0).abs();
        assert!(off(|w| w.issued) < 0.002 && off(|w| w.asked) < 0.002, "kernel {i}: {third:?} and {counted:?}");
        assert_eq!((third.mma, third.shared), (counted.mma, counted.shared));
        at(n)
    };
    Some(Attention { forward: whole(0), stats: whole(1), dq: whole(2), dkv: whole(3) })
}

/// What a linear kernel does besides its product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Adapters {
    pub parts: usize,
    pub dropout: bool,
    pub add: bool,
}

/// Depth at which a linear kernel's edges are measured.
pub const SHORT: usize = 512;

/// Columns of the modules on which the adapters' kernels are measured, over 512 rows.
pub const WIDTHS: [usize; 2] = [512, 1024];
/// Columns on which adding up is measured.
pub const REDUCED: usize = 1024;

/// Adding up the partial sums of [`REDUCED`] columns over the micro-batch: of dA, and of dB.
fn reduce() -> Option<[Work; 2]> {
    let mut gpu = Gpu::counting()?;
    let (n, k, r) = (REDUCED, REDUCED, RANK);
    let [z, dy] = [n, k].map(|width| gpu.act_out(ROWS * width));
    let [a, b] = [k, n].map(|width| gpu.act_out(r * width));
    let [da, db] = [k, n].map(|width| gpu.f32(&vec![0.0; r * width]));
    let [u, v] = [(); 2].map(|()| gpu.act_out(ROWS * r));
    let part = LoraPart { module: 0, out: 0..n, r, scale: 1.0, a, b, da, db, u, v };
    let launches = gpu.launches(&LoraBackward { z, k, dy, n, parts: vec![part], mask: None }.into());
    Some(["lora_reduce", "lora_reduce_transposed"].map(|kernel| {
        let launch = launches.iter().find(|l| l.kernel == kernel).expect("one of its launches");
        Work::of(&gpu.launch(launch))
    }))
}
