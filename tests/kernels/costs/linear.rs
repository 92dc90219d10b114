//! The products with frozen weights, from full tiles that were counted.

use super::{
    RANK,
    counts::{Adapters, Counts, SHORT},
    rows::{Cost, Row},
    step::linear_name,
};
use crate::{
    linear::{self, Case, main_loop},
    work::Work,
};
use irori::backend::{
    Weight,
    cuda::{
        launch::Launch,
        launches::linear::tiles::{Direction, Stored, Tile, tiles},
    },
    ops::{Linear, LinearBackward},
};

/// What a product's launches cost.
pub fn forward(counts: &Counts, op: &Linear, launches: &[Launch]) -> Vec<Row> {
    let adapters = Adapters { parts: op.parts.len(), dropout: false, add: op.add.is_some() };
    let (columns, depth) = (op.w.n, op.w.k);
    let p = Product { stored: stored(&op.w), direction: Direction::Forward, rows: op.rows(), columns, depth, adapters };
    p.launched(counts, linear_name(&op.parts), launches)
}

/// As [`forward`].
pub fn backward(counts: &Counts, op: &LinearBackward, launches: &[Launch]) -> Vec<Row> {
    let dropout = op.mask.is_some() && !op.parts.is_empty();
    let adapters = Adapters { parts: op.parts.len(), dropout, add: false };
    let (columns, depth) = (op.w.k, op.w.n);
    let p =
        Product { stored: stored(&op.w), direction: Direction::Backward, rows: op.rows(), columns, depth, adapters };
    p.launched(counts, linear_name(&op.parts), launches)
}

fn stored(w: &Weight) -> Stored {
    if w.is_packed() { Stored::Packed } else { Stored::Dense }
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
    /// Its one or two launches.
    fn launched(&self, counts: &Counts, what: &str, launches: &[Launch]) -> Vec<Row> {
        let Self { stored, rows, columns, depth, adapters, .. } = *self;
        let weights = match stored {
            Stored::Dense => columns * depth * 2,
            Stored::Packed => columns * depth / 2 + columns * depth / 16,
        };
        let least = weights + rows * (depth + columns * if adapters.add { 2 } else { 1 }) * 2;
        let outputs = |l: &Launch| {
            let tile = self.tile(l);
            (l.grid[0] * tile.rows * tile.columns) as usize
        };
        let all: usize = launches.iter().map(outputs).sum();
        let row = |(i, l): (usize, &Launch)| {
            let what = if i == 0 { what.to_string() } else { format!("{what}, last tiles") };
            // What must move, by the share of the outputs.
            let least = (least as f64 * outputs(l) as f64 / all as f64) as usize;
            Row::new(l.kernel, what, Cost::of_blocks(self.block(counts, self.tile(l)), l.grid[0], least))
        };
        launches.iter().enumerate().map(row).collect()
    }

    fn tile(&self, l: &Launch) -> &'static Tile {
        let of = tiles(self.stored, self.direction);
        of.iter().find(|t| t.kernel == l.kernel).unwrap_or_else(|| panic!("{} has no tile", l.kernel))
    }

    /// A block of `tile`, with its share of the adapters: measured at a depth of [`SHORT`], and from there on what the
    /// main loop costs.
    fn block(&self, counts: &Counts, tile: &Tile) -> Work {
        let (main, _) = main_loop(self.stored, self.direction, tile).expect("there are kernels");
        let depths = (linear::DEPTHS[1] - linear::DEPTHS[0]) as f64;
        self.edge(counts, tile) + main * ((self.depth as f64 - SHORT as f64) / depths)
    }

    fn edge(&self, counts: &Counts, tile: &Tile) -> Work {
        let key = (tile.kernel, self.adapters);
        if let Some(&known) = counts.edges.borrow().get(&key) {
            return known;
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
        let (_, counters) = c.run(self.stored, tile, 0).expect("there are kernels");
        let edge = Work::of(&counters);
        counts.edges.borrow_mut().insert(key, edge);
        edge
    }
}
