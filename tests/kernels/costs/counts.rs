//! What the virtual machine counts on representative pieces.

use super::{DOCUMENT, RANK, ROWS, model};
use crate::{attention, harness::Gpu, launches::run, lora, measure::Work};
use irori::backend::{
    AdamW, Heads,
    cuda::{launch::Launch, rows, skinny},
};
use ptxvm::Args;
use std::{cell::RefCell, collections::HashMap};

/// A launch whose blocks are alike, per block.
fn per_block(gpu: &mut Gpu, l: &Launch) -> Work {
    Work::of(&run(gpu, l)) * (1.0 / f64::from(l.grid.iter().product::<u32>()))
}

/// A kernel that works by rows, its cost a block, and the bytes that `rows` rows move at least.
pub struct Streaming {
    pub kernel: &'static str,
    pub block: Work,
    pub blocks_per_row: f64,
    /// Bytes of a row.
    pub least: usize,
}

/// Kernels that work row by row, at the widths of the model, measured on eight rows.
fn streaming() -> Option<Vec<Streaming>> {
    const N: usize = 8;
    let c = model();
    let (h, f, v, heads) = (c.hidden, c.intermediate, c.vocab, c.heads);
    let mut gpu = Gpu::counting("norm")?;
    let gpu = &mut gpu;
    let [a, b, out] = [(); 3].map(|()| gpu.fresh(N * v * 2));
    let w = gpu.f32(&vec![1.0; h]);
    let index = gpu.u32(&(0..N as u32).collect::<Vec<_>>());
    let stats = gpu.fresh(N * 4);
    let rope = rows::RopeInputs { rows: N, heads, positions: index, q_norm: w, k_norm: w, eps: 1e-6, rope: a };
    let [cross_entropy, _] = rows::cross_entropy(N, v, a, index, 1.0, stats, stats);
    let launches = [
        (rows::gather_rows(N, h, a, index, out), 2 * h * 2),
        (rows::scatter_rows(N, h, a, index, out), 2 * h * 2),
        (rows::rmsnorm(N, h, a, w, 1e-6, out), 2 * h * 2),
        (rows::rmsnorm_backward(N, h, a, w, 1e-6, b, b, out), 4 * h * 2),
        (rows::headnorm_rope(&rope, a, out), 2 * heads.qk_width() * 2),
        (rows::headnorm_rope_backward(&rope, a, b, out), 3 * heads.qk_width() * 2),
        (rows::swiglu(N, f, a, out), 3 * f * 2),
        (rows::swiglu_backward(N, f, a, b), 5 * f * 2),
        (cross_entropy, 3 * v * 2),
    ];
    let all = launches.into_iter().map(|(l, least)| Streaming {
        kernel: l.kernel,
        block: per_block(gpu, &l),
        blocks_per_row: f64::from(l.grid.iter().product::<u32>()) / N as f64,
        least,
    });
    Some(all.collect())
}

/// The optimizer's kernels, an element at a time: measured on 64 blocks.
fn optimizer() -> Option<Vec<Streaming>> {
    const N: usize = 64 * 1024;
    let mut gpu = Gpu::counting("optim")?;
    let gpu = &mut gpu;
    let x = gpu.f32(&vec![0.5; N]);
    let norm = gpu.f32(&[1.0]);
    let buffers = rows::OptimizerBuffers {
        norm,
        grad: x,
        m: gpu.fresh(N * 4),
        v: gpu.fresh(N * 4),
        master: gpu.fresh(N * 4),
        working: gpu.fresh(N * 2),
    };
    let rule = AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 1, max_norm: Some(1.0) };
    let [squared_norm, _] = rows::global_norm(N, x, gpu.fresh(rows::global_norm_scratch(N)), norm);
    let all = [(squared_norm, 4), (rows::adamw(&rule, N, &buffers), 30)].map(|(l, least)| Streaming {
        kernel: l.kernel,
        block: per_block(gpu, &l),
        blocks_per_row: f64::from(l.grid[0]) / N as f64,
        least,
    });
    Some(all.into())
}

/// Everything that is measured, each once.
pub struct Counts {
    pub streaming: Vec<Streaming>,
    pub optimizer: Vec<Streaming>,
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
        Some(Self {
            streaming: streaming()?,
            optimizer: optimizer()?,
            attention: attention(model().heads)?,
            lora,
            reduce: [reduce(false)?, reduce(true)?],
            edges: RefCell::default(),
        })
    }
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

/// Adding up the partial sums of [`REDUCED`] columns.
fn reduce(transposed: bool) -> Option<Work> {
    let mut gpu = Gpu::counting("lora")?;
    let splits = ROWS.div_ceil(skinny::SPLIT_ROWS);
    let (partial, gradient) = (gpu.fresh(splits * RANK * REDUCED * 4), gpu.fresh(RANK * REDUCED * 4));
    let l = skinny::reduce(transposed, RANK, REDUCED);
    let args = Args::new().u64(partial).u64(gradient).i32(splits as i32).i32(RANK as i32).i32(REDUCED as i32).f32(1.0);
    Some(Work::of(&gpu.launch(l.kernel, l.grid, l.threads, 0, &args)))
}
