//! The launches of a micro-batch of Qwen3-8B, each with what it takes at least.

use super::{
    CLOCK, DOCUMENT, L2_BYTES, LOGIT_ROWS, RANK, ROWS, adapter_parameters, bandwidth,
    counts::{Adapters, Counts, REDUCED, SHORT, Streaming, WIDTHS},
    greatest, model,
};
use crate::{
    linear::{self, Case, SLICE, main_loop},
    measure::{Work, line},
};
use irori::{
    backend::cuda::{
        linear::{Direction, Span, Stored, Tile, choose},
        skinny,
    },
    model::{ModelConfig, Module},
};

/// Launches of one kernel on one shape.
pub struct Row {
    pub kernel: String,
    /// Which operands, of which linear.
    pub what: String,
    /// In a micro-batch.
    pub launches: usize,
    /// Of one launch, what the busiest multiprocessor does.
    pub busiest: Work,
    /// Bytes that one launch asks of L2, and those that it must at least move to and from memory.
    pub asked: f64,
    pub least: f64,
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
    pub fn bounds(&self) -> [(&'static str, f64); 5] {
        let cycles = |c: f64| c / CLOCK * 1e6;
        [
            ("tensor", cycles(self.busiest.tensor_cycles())),
            ("issue", cycles(self.busiest.issue_cycles())),
            ("shared", cycles(self.busiest.shared)),
            ("L2", cycles(self.asked / L2_BYTES)),
            ("memory", self.least / bandwidth() * 1e6),
        ]
    }

    pub fn binds(&self) -> (&'static str, f64) {
        greatest(self.bounds())
    }

    /// Milliseconds of all launches.
    pub fn ms(&self) -> f64 {
        self.binds().1 * self.launches as f64 / 1e3
    }
}

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

/// All launches of a micro-batch, in the order of src/model/engine/graph/mod.rs: everything saved, adapters on all linears.
pub fn micro_batch(counts: &Counts, targets: usize, dropout: bool) -> Option<Vec<Row>> {
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
pub fn update(counts: &Counts) -> Vec<Row> {
    let parameters = adapter_parameters(&model());
    let row = |s: &Streaming| {
        let blocks = (s.blocks_per_row * parameters as f64).ceil() as usize;
        Row::new(s.kernel, "once a step", 1, s.block, blocks, parameters * s.least)
    };
    counts.optimizer.iter().map(row).collect()
}
