//! docs/kernel-costs.md: what every kernel costs by count, and the estimate of a whole step of Qwen3-8B from it.
//!
//! Counts come from representative pieces that the virtual machine runs whole: one block, a few rows, three tiles of a
//! document. Larger launches are scaled from them where counts grow evenly, and the test checks that they do. The file is
//! committed; the test says when it is no longer true.

use crate::{
    attention,
    harness::Gpu,
    launches::run,
    linear::{self, Case, SLICE, main_loop},
    lora,
    measure::{Work, line},
};
use irori::{
    backend::{
        AdamW, Heads,
        cuda::{
            launch::Launch,
            linear::{Direction, Span, Stored, Tile, choose, tiles},
            modules::MODULES,
            rows, skinny,
        },
    },
    model::{LoraConfig, ModelConfig, Module},
    plan::device::profile,
};
use ptxvm::{Args, Detect};
use std::{cell::RefCell, collections::HashMap, fmt::Write, path::Path};

/// Boost clock of an A100.
const CLOCK: f64 = 1.41e9;
/// Bytes that the L2 slices of a 2g.20gb instance (two of eight) serve in a cycle: a quarter of the A100's 5120.
const L2_BYTES: f64 = 1280.0;
/// Rows of the micro-batch, of each of its documents, and of a chunk of logits.
const ROWS: usize = 2048;
const DOCUMENT: usize = 1024;
const LOGIT_ROWS: usize = 512;
const RANK: usize = 16;
/// Targets of a micro-batch of multiple-choice answers: a letter and the end of the turn for each of sixteen documents.
const FEW_TARGETS: usize = 32;
const REGENERATE: &str = "IRORI_WRITE_COSTS=1 cargo test --test kernels costs";

/// Launches of one kernel on one shape.
struct Row {
    kernel: String,
    /// Which operands, of which linear.
    what: String,
    /// In a micro-batch.
    launches: usize,
    /// Of one launch, what the busiest multiprocessor does.
    busiest: Work,
    /// Bytes that one launch asks of L2, and those that it must at least move to and from memory.
    asked: f64,
    least: f64,
}

impl Row {
    /// `blocks` equal blocks, dealt out evenly.
    fn new(
        kernel: impl Into<String>,
        what: impl Into<String>,
        launches: usize,
        block: Work,
        blocks: usize,
        least: usize,
    ) -> Self {
        let busiest = block * blocks.div_ceil(SLICE.sms as usize) as f64;
        Self { busiest, ..Self::spread(kernel, what, launches, block * blocks as f64, least) }
    }

    /// Many unequal blocks, taken as spread evenly.
    fn spread(kernel: impl Into<String>, what: impl Into<String>, launches: usize, all: Work, least: usize) -> Self {
        let busiest = all * (1.0 / f64::from(SLICE.sms));
        Self { kernel: kernel.into(), what: what.into(), launches, busiest, asked: all.asked, least: least as f64 }
    }

    /// What one launch takes at least, microseconds by bound.
    fn bounds(&self) -> [(&'static str, f64); 5] {
        let cycles = |c: f64| c / CLOCK * 1e6;
        [
            ("tensor", cycles(self.busiest.tensor_cycles())),
            ("issue", cycles(self.busiest.issue_cycles())),
            ("shared", cycles(self.busiest.shared)),
            ("L2", cycles(self.asked / L2_BYTES)),
            ("memory", self.least / bandwidth() * 1e6),
        ]
    }

    fn binds(&self) -> (&'static str, f64) {
        greatest(self.bounds())
    }

    /// Milliseconds of all launches.
    fn ms(&self) -> f64 {
        self.binds().1 * self.launches as f64 / 1e3
    }
}

fn greatest<const N: usize>(bounds: [(&'static str, f64); N]) -> (&'static str, f64) {
    bounds.into_iter().fold(("", 0.0), |a, b| if b.1 > a.1 { b } else { a })
}

fn bandwidth() -> f64 {
    profile("a100-2g.20gb").expect("a known profile").speed.bandwidth
}

fn model() -> ModelConfig {
    ModelConfig::preset("qwen3-8b").expect("a preset")
}

/// Of adapters on all linears.
fn adapter_parameters(c: &ModelConfig) -> usize {
    let targets = Module::ALL.to_vec();
    LoraConfig { r: RANK, alpha: 2.0 * RANK as f32, dropout: 0.05, rslora: false, targets }.parameters(c)
}

/// A device for counting only.
fn counting(file: &str) -> Option<Gpu> {
    let mut gpu = Gpu::new(file, 0)?;
    gpu.vm.config_mut().detect = Detect::NONE;
    Some(gpu)
}

/// A launch whose blocks are alike, per block.
fn per_block(gpu: &mut Gpu, l: &Launch) -> Work {
    Work::of(&run(gpu, l)) * (1.0 / f64::from(l.grid.iter().product::<u32>()))
}

/// A kernel that works by rows, its cost a block, and the bytes that `rows` rows move at least.
struct Streaming {
    kernel: &'static str,
    block: Work,
    blocks_per_row: f64,
    /// Bytes of a row.
    least: usize,
}

/// Kernels that work row by row, at the widths of the model, measured on eight rows.
fn streaming() -> Option<Vec<Streaming>> {
    const N: usize = 8;
    let c = model();
    let (h, f, v, heads) = (c.hidden, c.intermediate, c.vocab, c.heads);
    let mut gpu = counting("norm")?;
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
    let mut gpu = counting("optim")?;
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
struct Counts {
    streaming: Vec<Streaming>,
    optimizer: Vec<Streaming>,
    attention: Attention,
    /// By parts and dropout: u's and v's blocks and the gradients' at two widths.
    lora: HashMap<(usize, bool), [[Work; 5]; 2]>,
    reduce: [Work; 2],
    /// A block at a depth of [`SHORT`], by kernel and what it does besides.
    edges: RefCell<HashMap<(&'static str, Adapters), Work>>,
}

impl Counts {
    /// `None` in a build without kernels.
    fn new() -> Option<Self> {
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
struct Attention {
    forward: Work,
    stats: Work,
    dq: Work,
    dkv: Work,
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
struct Adapters {
    parts: usize,
    dropout: bool,
    add: bool,
}

/// Depth at which a linear kernel's edges are measured.
const SHORT: usize = 512;

/// A linear product of the micro-batch; `columns` × `depth` is W the way the kernel sees it.
#[derive(Clone, Copy)]
struct Product {
    stored: Stored,
    direction: Direction,
    rows: usize,
    columns: usize,
    depth: usize,
    adapters: Adapters,
}

impl Product {
    /// A block of `tile`, with its share of the adapters: measured at a depth of [`SHORT`], and from there on what the
    /// main loop costs.
    fn block(&self, counts: &Counts, tile: &Tile) -> Option<Work> {
        let (main, _) = main_loop(self.stored, self.direction, tile)?;
        let depths = (linear::DEPTHS[1] - linear::DEPTHS[0]) as f64;
        Some(self.edge(counts, tile)? + main * ((self.depth as f64 - SHORT as f64) / depths))
    }

    fn edge(&self, counts: &Counts, tile: &Tile) -> Option<Work> {
        let key = (tile.kernel, self.adapters);
        if let Some(&known) = counts.edges.borrow().get(&key) {
            return Some(known);
        }
        let (rows, width) = ([tile.rows as usize], 128);
        let Adapters { parts, dropout, add } = self.adapters;
        let mut c = match self.direction {
            // Whatever the layer, a block's columns belong to one part.
            Direction::Forward => Case::new(&rows, width, SHORT, &[0..width][..parts.min(1)], RANK, self.direction),
            Direction::Backward => {
                let parts: Vec<_> = (0..parts).map(|i| i * width..(i + 1) * width).collect();
                Case::new(&rows, SHORT, width, &parts, RANK, self.direction)
            }
        };
        if dropout && self.direction == Direction::Backward {
            c.drop = linear::DROP;
        }
        if add {
            c.add = Some(vec![0.0; c.rows() * c.columns()]);
        }
        let c = if self.stored == Stored::Packed { c.quantized() } else { c };
        let edge = Work::of(&c.run(self.stored, tile, 0)?.1);
        counts.edges.borrow_mut().insert(key, edge);
        Some(edge)
    }

    /// Its one or two launches.
    fn rows(&self, counts: &Counts, what: &str, launches: usize) -> Option<Vec<Row>> {
        let Self { stored, direction, rows, columns, depth, adapters } = *self;
        let spans = choose(&SLICE, stored, direction, rows, columns, depth).expect("sm_80 has the memory for a tile");
        let weights = match stored {
            Stored::Dense => columns * depth * 2,
            Stored::Packed => columns * depth / 2 + columns * depth / 16,
        };
        let least = weights + rows * (depth + columns * if adapters.add { 2 } else { 1 }) * 2;
        let outputs = |s: &Span| (s.blocks * s.tile.rows * s.tile.columns) as usize;
        let all: usize = spans.launches.iter().map(outputs).sum();
        let row = |(i, s): (usize, &Span)| {
            let what = if i == 0 { what.to_string() } else { format!("{what}, last tiles") };
            // What must move, by the share of the outputs.
            let least = (least as f64 * outputs(s) as f64 / all as f64) as usize;
            Some(Row::new(s.tile.kernel, what, launches, self.block(counts, &s.tile)?, s.blocks as usize, least))
        };
        spans.launches.iter().enumerate().map(row).collect()
    }
}

/// A fused linear of a layer: its modules' widths, and what it reads.
struct Group {
    name: &'static str,
    outs: Vec<usize>,
    k: usize,
    add: bool,
}

fn groups(c: &ModelConfig) -> [Group; 4] {
    let outs = |modules: &[Module]| modules.iter().map(|m| m.shape(c).0).collect();
    let group = |name, modules: &[Module], add| Group { name, outs: outs(modules), k: modules[0].shape(c).1, add };
    [
        group("qkv", &[Module::QProj, Module::KProj, Module::VProj], false),
        group("o", &[Module::OProj], true),
        group("gate/up", &[Module::GateProj, Module::UpProj], false),
        group("down", &[Module::DownProj], true),
    ]
}

/// Columns of the modules on which the adapters' kernels are measured, over 512 rows.
const WIDTHS: [usize; 2] = [512, 1024];
/// Columns on which adding up is measured.
const REDUCED: usize = 1024;

/// The adapters' products of a fused linear.
fn lora_rows(counts: &Counts, g: &Group, layers: usize, dropout: bool) -> Vec<Row> {
    let parts = g.outs.len();
    let n: usize = g.outs.iter().sum();
    let (z, dy) = (&counts.lora[&(parts, dropout)], &counts.lora[&(1, false)]);
    // A block of u or v, 16 rows of the 512 that were measured.
    let project =
        |m: &[[Work; 5]; 2], i: usize, depth| line((WIDTHS[0], m[0][i]), (WIDTHS[1], m[1][i]), depth) * (16.0 / 512.0);
    // A block of dA or dB: 64 columns.
    let gradient = |m: &[[Work; 5]; 2], i: usize| {
        let per = [0, 1].map(|j| m[j][i] * (64.0 / WIDTHS[j] as f64));
        assert!((per[0].issued / per[1].issued - 1.0).abs() < 0.01, "blocks of one kernel are alike: {per:?}");
        per[1]
    };
    let sum = |f: &dyn Fn(usize) -> Work| g.outs.iter().fold(Work::default(), |sum, &n| sum + f(n));
    let (row_blocks, splits) = (ROWS / 16, ROWS.div_ceil(skinny::SPLIT_ROWS));
    let widest = g.outs.iter().copied().max().unwrap_or(0);
    let (narrow, partial) = (ROWS * RANK * 2, |width: usize| splits * RANK * width * 4);
    // Seven of adding up and transposing: one launch for each part, here the mean.
    let mean = |all: Work| all * (1.0 / parts as f64);
    let transposed = mean(sum(&|n| dy[1][0] * (n as f64 / WIDTHS[1] as f64)));
    let v = sum(&|n| project(dy, 2, n) * row_blocks as f64);
    let reduced = |i: usize, width: usize| mean(counts.reduce[i] * (width as f64 / REDUCED as f64));
    let label = |operand: &str| format!("{operand}, {}", g.name);
    let kernel = |l: skinny::SkinnyLaunch| l.kernel.to_string();
    let k = g.k * parts;
    vec![
        Row::new(
            kernel(skinny::project(true, parts, RANK, ROWS)),
            label("u"),
            layers,
            project(z, 1, g.k),
            row_blocks,
            ROWS * g.k * 2 + parts * narrow,
        ),
        Row::spread("lora_transpose", label("B"), layers * parts, transposed, n * RANK * 4 / parts),
        Row::spread(
            kernel(skinny::project(false, parts, RANK, ROWS)),
            label("v"),
            layers,
            v,
            ROWS * n * 2 + parts * narrow,
        ),
        Row::new(
            kernel(skinny::gradient(false, parts, RANK, ROWS, widest)),
            label("dB"),
            layers,
            gradient(dy, 4),
            n / 64 * splits,
            ROWS * n * 2 + parts * narrow + partial(n),
        ),
        Row::new(
            kernel(skinny::gradient(true, parts, RANK, ROWS, g.k)),
            label("dA"),
            layers,
            gradient(z, 3),
            g.k / 64 * splits,
            ROWS * g.k * 2 + parts * narrow + partial(k),
        ),
        Row::spread("lora_reduce", label("dA"), layers * parts, reduced(0, k), (partial(k) + RANK * k * 8) / parts),
        Row::spread(
            "lora_reduce_transposed",
            label("dB"),
            layers * parts,
            reduced(1, n),
            (partial(n) + RANK * n * 8) / parts,
        ),
    ]
}

/// Adding up the partial sums of [`REDUCED`] columns.
fn reduce(transposed: bool) -> Option<Work> {
    let mut gpu = counting("lora")?;
    let splits = ROWS.div_ceil(skinny::SPLIT_ROWS);
    let (partial, gradient) = (gpu.fresh(splits * RANK * REDUCED * 4), gpu.fresh(RANK * REDUCED * 4));
    let l = skinny::reduce(transposed, RANK, REDUCED);
    let args = Args::new().u64(partial).u64(gradient).i32(splits as i32).i32(RANK as i32).i32(REDUCED as i32).f32(1.0);
    Some(Work::of(&gpu.launch(&l.kernel, l.grid, l.threads, 0, &args)))
}

/// All launches of a micro-batch, in the order of src/model/engine/graph.rs: everything saved, adapters on all linears.
fn micro_batch(counts: &Counts, targets: usize, dropout: bool) -> Option<Vec<Row>> {
    let c = model();
    let (layers, heads) = (c.layers, c.heads);
    let by_rows = |kernel: &str, what: &str, launches, rows: usize| {
        let s = counts.streaming.iter().find(|s| s.kernel == kernel).expect("measured");
        Row::new(kernel, what, launches, s.block, (s.blocks_per_row * rows as f64).round() as usize, rows * s.least)
    };
    let attention_row = |kernel: &str, work: Work, least| {
        Row::spread(kernel, "", layers, work * (heads.kv * (ROWS / DOCUMENT)) as f64, least)
    };
    let lse = ROWS * heads.q * 4;
    let (q, qk, kv) = (ROWS * heads.q_width() * 2, ROWS * heads.qk_width() * 2, ROWS * heads.kv_width() * 2);

    let mut rows = vec![
        by_rows("gather_rows", "embedding", 1, ROWS),
        by_rows("rmsnorm", "forward, and again backward", 4 * layers, ROWS),
    ];
    for g in groups(&c) {
        let n = g.outs.iter().sum();
        let adapters = Adapters { parts: g.outs.len(), dropout: false, add: g.add };
        let (stored, rows_of) = (Stored::Packed, ROWS);
        let forward =
            Product { stored, direction: Direction::Forward, rows: rows_of, columns: n, depth: g.k, adapters };
        let adapters = Adapters { dropout, add: false, ..adapters };
        let backward = Product { direction: Direction::Backward, columns: g.k, depth: n, adapters, ..forward };
        rows.append(&mut lora_rows(counts, &g, layers, dropout));
        rows.append(&mut forward.rows(counts, g.name, layers)?);
        // Nothing below the first layer's qkv has adapters.
        rows.append(&mut backward.rows(counts, g.name, if g.name == "qkv" { layers - 1 } else { layers })?);
    }
    let a = &counts.attention;
    rows.extend([
        by_rows("headnorm_rope", "forward, and again backward", 2 * layers, ROWS),
        by_rows("headnorm_rope_backward", "", layers, ROWS),
        attention_row("attention", a.forward, qk + kv + q + lse),
        attention_row("attention_stats", a.stats, 2 * q + 3 * lse),
        attention_row("attention_dq", a.dq, qk + kv + 2 * q + 2 * lse),
        attention_row("attention_dkv", a.dkv, qk + kv + q + 2 * lse + 2 * kv),
        by_rows("swiglu", "forward, and again backward", 2 * layers, ROWS),
        by_rows("swiglu_backward", "", layers, ROWS),
        by_rows("rmsnorm_backward", "", 2 * layers - 1, ROWS),
    ]);

    let chunk = targets.min(LOGIT_ROWS);
    assert_eq!(targets % chunk, 0, "chunks are alike");
    let chunks = targets / chunk;
    let adapters = Adapters { parts: 0, dropout: false, add: false };
    let forward = Product {
        stored: Stored::Dense,
        direction: Direction::Forward,
        rows: chunk,
        columns: c.vocab,
        depth: c.hidden,
        adapters,
    };
    let backward = Product { direction: Direction::Backward, columns: c.hidden, depth: c.vocab, ..forward };
    rows.extend([
        by_rows("gather_rows", "head", chunks, chunk),
        by_rows("rmsnorm", "head", chunks, chunk),
        by_rows("cross_entropy", "head", chunks, chunk),
        by_rows("rmsnorm_backward", "head", chunks, chunk),
        by_rows("scatter_rows", "head", chunks, chunk),
    ]);
    rows.append(&mut forward.rows(counts, "head", chunks)?);
    rows.append(&mut backward.rows(counts, "head", chunks)?);
    Some(rows)
}

/// What the optimizer does once a step, however many micro-batches it has.
fn update(counts: &Counts) -> Vec<Row> {
    let parameters = adapter_parameters(&model());
    let row = |s: &Streaming| {
        let blocks = (s.blocks_per_row * parameters as f64).ceil() as usize;
        Row::new(s.kernel, "once a step", 1, s.block, blocks, parameters * s.least)
    };
    counts.optimizer.iter().map(row).collect()
}

fn total_ms(rows: &[Row]) -> f64 {
    rows.iter().map(Row::ms).sum()
}

/// Floating-point operations of the micro-batch that the mathematics asks for.
fn flops(targets: usize) -> f64 {
    let c = model();
    let weights: usize = Module::ALL.iter().map(|m| m.shape(&c)).map(|(n, k)| n * k).sum();
    let first_qkv = c.hidden * c.heads.qkv_width();
    let linears = 2.0 * ROWS as f64 * (2 * c.layers * weights - first_qkv) as f64;
    let adapters = 6.0 * ROWS as f64 * adapter_parameters(&c) as f64;
    let pairs = (ROWS / DOCUMENT * DOCUMENT * (DOCUMENT + 1) / 2) as f64;
    // Two products forward, five backward.
    let attention = 7.0 * 2.0 * pairs * (c.heads.q_width() * c.layers) as f64;
    let head = 4.0 * (targets * c.vocab * c.hidden) as f64;
    linears + adapters + attention + head
}

fn peak() -> f64 {
    f64::from(SLICE.sms) * 2048.0 * CLOCK
}

/// What nvcc wrote at the top of its PTX.
fn compiler() -> &'static str {
    let ptx = MODULES.first().map_or("", |m| m.ptx);
    ptx.lines().find_map(|l| l.split_once("release ")).map_or("unknown", |(_, release)| release.trim())
}

fn main_loops(out: &mut String, counts: &Counts) -> Option<()> {
    let header = "| kernel | instructions an mma | shared wavefronts an mma | bytes of the least | cycles an mma | bound | \
                  tensor cores busy |\n|---|--:|--:|--:|--:|---|--:|";
    let _ = writeln!(out, "{header}");
    let mut line = |kernel: &str, w: &Work, least: f64, useful: f64| {
        let bounds = [("tensor", w.tensor_cycles()), ("issue", w.issue_cycles()), ("shared", w.shared)];
        let _ = writeln!(
            out,
            "| `{kernel}` | {:.2} | {:.2} | {:.2} | {:.2} | {} | {:.0} % |",
            w.issued / w.mma,
            w.shared / w.mma,
            w.asked / least,
            w.cycles() / w.mma,
            greatest(bounds).0,
            100.0 * useful * 2.0 / w.cycles()
        );
    };
    for stored in [Stored::Dense, Stored::Packed] {
        for direction in [Direction::Forward, Direction::Backward] {
            for tile in tiles(stored, direction) {
                let (w, least) = main_loop(stored, direction, tile)?;
                line(tile.kernel, &w, least, w.mma);
            }
        }
    }
    let (heads, a) = (model().heads, &counts.attention);
    let group = (heads.q / heads.kv) as f64;
    let (n, d) = (DOCUMENT as f64, heads.dim as f64);
    // mma of one product over the pairs that causality leaves; rows of 256 bytes that tiles of 128 meet.
    let product = group * n * (n + 1.0) / 2.0 * d / 2048.0;
    let seen = n / 128.0 * (n / 128.0 + 1.0) / 2.0 * 128.0;
    line("attention", &a.forward, group * ((2.0 * n + 2.0 * seen) * 256.0 + n * 32.0), 2.0 * product);
    line("attention_dq", &a.dq, group * ((3.0 * n + 2.0 * seen) * 256.0 + n * 8.0), 3.0 * product);
    line("attention_dkv", &a.dkv, 4.0 * n * 256.0 + group * seen * (2.0 * 256.0 + 8.0), 4.0 * product);
    Some(())
}

/// The kernels that memory should bind, each on the first shape it has in the step.
fn streams(out: &mut String, rows: &[Row]) {
    let header = "| kernel | on | instructions a sector | bytes asked of the least | issue | shared | L2 | memory | bound |\n\
                  |---|---|--:|--:|--:|--:|--:|--:|---|";
    let _ = writeln!(out, "{header}");
    let mut seen = Vec::new();
    for r in rows.iter().filter(|r| !r.kernel.starts_with("linear") && !ATTENTION.contains(&r.kernel.as_str())) {
        // The same kernel over z has masks to make, over dy it has not.
        let kind = (&r.kernel, r.what.split(',').next());
        if seen.contains(&kind) || r.what == "head" && r.kernel != "cross_entropy" && r.kernel != "scatter_rows" {
            continue;
        }
        seen.push(kind);
        // Cycles of one multiprocessor for each KiB of those that must move.
        let kib = r.least / 1024.0 / f64::from(SLICE.sms);
        let [_, issue, shared, l2, memory] = r.bounds().map(|b| b.1 * 1e-6 * CLOCK / kib);
        let _ = writeln!(
            out,
            "| `{}` | {} | {:.1} | {:.2} | {issue:.0} | {shared:.0} | {l2:.0} | {memory:.0} | {} |",
            r.kernel,
            r.what,
            r.busiest.issued * f64::from(SLICE.sms) / (r.asked / 32.0),
            r.asked / r.least,
            r.binds().0,
        );
    }
}

const ATTENTION: [&str; 3] = ["attention", "attention_dq", "attention_dkv"];

fn step_table(out: &mut String, rows: &[Row]) {
    let header = "| kernel | on | launches | tensor | issue | shared | L2 | memory | bound | all, ms | share |\n\
                  |---|---|--:|--:|--:|--:|--:|--:|---|--:|--:|";
    let _ = writeln!(out, "{header}");
    let total = total_ms(rows);
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_by(|a, b| b.ms().total_cmp(&a.ms()));
    for r in rows {
        let _ = write!(out, "| `{}` | {} | {} |", r.kernel, r.what, r.launches);
        for (_, us) in r.bounds() {
            let _ = write!(out, " {us:.1} |");
        }
        let (bound, _) = r.binds();
        let _ = writeln!(out, " {bound} | {:.2} | {:.1} % |", r.ms(), 100.0 * r.ms() / total);
    }
}

/// The document, from counts made now. `None` in a build without kernels.
fn document() -> Option<String> {
    let counts = Counts::new()?;
    let full = micro_batch(&counts, ROWS, true)?;
    let variants = [
        ("all rows targets, dropout", total_ms(&full), ROWS),
        ("32 targets, dropout", total_ms(&micro_batch(&counts, FEW_TARGETS, true)?), FEW_TARGETS),
        ("all rows targets, no dropout", total_ms(&micro_batch(&counts, ROWS, false)?), ROWS),
    ];
    let mut out = format!(
        "# What the kernels cost, by count

Made by `{REGENERATE}` from kernels that nvcc {} compiled.
`cargo test` compares this page with the counts; with another compiler it says so and does not.

These are counted bounds, not measurements: no GPU has run for this page. They know no latency, no launch time and no miss
in L2 beyond the first; a kernel can only be slower. Moves and parameter reads are left out, as most vanish in machine
code; of the rest ptxas merges some (two exclusive ors, an address and its offset), so the bound by instructions is a high one.

## The machine

One multiprocessor of sm_80 in a cycle: four instructions issued, half an mma m16n8k16 (1024 multiply-adds), one wavefront
of shared memory (a shfl is one), 64 lanes of f32, 16 lanes of approximate functions. Of them {} at {:.2} GHz, the boost
clock; L2 serves {L2_BYTES:.0} bytes a cycle to all (two of the eight slices of an A100), memory {:.0} GB/s (profile
a100-2g.20gb). Tensor peak {:.1} TFLOP/s.

## Main loops on the tensor cores

linear: one tile, the difference between a depth of {} and one of {}. attention: a document of {DOCUMENT} rows, the heads of
one key/value head of Qwen3-8B, everything included; \"busy\" counts only the pairs that causality leaves.

",
        compiler(),
        SLICE.sms,
        CLOCK / 1e9,
        bandwidth() / 1e9,
        peak() / 1e12,
        linear::DEPTHS[1],
        linear::DEPTHS[0],
    );
    main_loops(&mut out, &counts)?;
    let _ = write!(
        out,
        "
## Kernels that memory should bind

On Qwen3-8B's widths and {ROWS} rows, rank {RANK}, dropout on. Bytes asked are whole sectors from wherever they come; the
least is every buffer once. The last columns are cycles of one multiprocessor for each KiB of the least.

"
    );
    let mut rows = micro_batch(&counts, ROWS, true)?;
    rows.append(&mut update(&counts));
    streams(&mut out, &rows);
    let _ = write!(
        out,
        "
## A whole micro-batch

Qwen3-8B, NF4 by the fused kernels, adapters of rank {RANK} on all seven linears, {} documents of {DOCUMENT} rows, logits in
chunks of {LOGIT_ROWS} rows, nothing recomputed but norms, RoPE and SwiGLU. Microseconds of one launch by each bound; the
greatest is taken, so a launch overlaps its own parts perfectly and two launches not at all. The slowest first.

How launches are scaled up from what was run: kernels by rows are measured on eight rows at full width; a linear kernel's
block at a depth of {SHORT} with its adapters, and the main loop from there on; attention on one to three tiles of 128 rows
(the third confirms the rule); the adapters' products on 512 rows and two widths. Equal blocks are dealt out whole: the
busiest multiprocessor counts. Blocks of unequal length (attention, v of unequal modules) are taken as spread evenly.

",
        ROWS / DOCUMENT
    );
    step_table(&mut out, &full);
    let _ = writeln!(out, "\n| micro-batch | ms | tokens/s | of the tensor peak |\n|---|--:|--:|--:|");
    for (what, ms, targets) in variants {
        let share = 100.0 * flops(targets) / peak() / (ms / 1e3);
        let _ = writeln!(out, "| {what} | {ms:.1} | {:.0} | {share:.1} % |", ROWS as f64 / ms * 1e3);
    }
    let once = total_ms(&update(&counts));
    let launches: usize = full.iter().map(|r| r.launches).sum();
    let _ = write!(
        out,
        "
The peak's share counts the operations that the mathematics asks for: both products of every linear, seven of attention's
{DOCUMENT}-row triangles, the adapters, the head. The optimizer adds {once:.1} ms to each step, whatever its micro-batches. Not
counted: {launches} launches a micro-batch, each a microsecond or more of an idle device unless the next one overlaps it.
"
    );
    Some(out)
}

#[test]
fn the_committed_table_is_what_is_counted() {
    let Some(text) = document() else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kernel-costs.md");
    if std::env::var_os("IRORI_WRITE_COSTS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if !committed.is_empty() && !committed.contains(&format!("nvcc {} compiled", compiler())) {
        eprintln!("SKIP: docs/kernel-costs.md is of another nvcc than {}", compiler());
        return;
    }
    if let Some((line, (new, old))) = text.lines().zip(committed.lines()).enumerate().find(|(_, (a, b))| a != b) {
        panic!("docs/kernel-costs.md:{}: now\n{new}\ncommitted\n{old}\nMake it anew: {REGENERATE}", line + 1);
    }
    assert_eq!(text.len(), committed.len(), "docs/kernel-costs.md is cut short. Make it anew: {REGENERATE}");
}
