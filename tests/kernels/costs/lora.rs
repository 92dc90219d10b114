//! The adapters' products, from modules of two widths that were counted over 512 rows.

use super::{
    RANK, ROWS,
    counts::{Counts, REDUCED, WIDTHS},
    rows::{Cost, Row},
    step::linear_name,
};
use crate::work::{Work, line};
use irori::backend::{
    DType,
    cuda::{launch::Launch, launches::lora::SPLIT_ROWS},
    ops::{LoraBackward, LoraDown},
};

/// What was counted of a kernel at each of [`WIDTHS`].
type Counted = [[Work; 5]; 2];

/// Rows of a block of u or v.
const PROJECT_ROWS: usize = 16;
/// Columns of a block of dA or dB.
const GRADIENT_COLUMNS: usize = 64;
/// u or v of one module.
const NARROW: usize = ROWS * RANK * 2;

/// A block of u or v, of the 512 rows that were counted.
fn project(of: &Counted, i: usize, depth: usize) -> Work {
    line((WIDTHS[0], of[0][i]), (WIDTHS[1], of[1][i]), depth) * (PROJECT_ROWS as f64 / SPLIT_ROWS as f64)
}

/// A block of dA or dB.
fn gradient(of: &Counted, i: usize) -> Work {
    let per = [0, 1].map(|j| of[j][i] * (GRADIENT_COLUMNS as f64 / WIDTHS[j] as f64));
    assert!((per[0].issued / per[1].issued - 1.0).abs() < 0.01, "blocks of one kernel are alike: {per:?}");
    per[1]
}

/// Bytes of partial sums over `width` columns.
fn partial(width: usize) -> usize {
    ROWS.div_ceil(SPLIT_ROWS) * RANK * width * DType::F32.size()
}

/// u of all parts.
pub fn down(counts: &Counts, op: &LoraDown, launches: &[Launch]) -> Vec<Row> {
    assert_eq!(op.rows(), ROWS);
    let [u] = launches else { panic!("{} launches", launches.len()) };
    let (parts, k) = (op.parts.len(), op.k);
    let block = project(&counts.lora[&(parts, op.mask.is_some())], 1, k);
    let least = ROWS * k * 2 + parts * NARROW;
    vec![Row::new(u.kernel, label("u", op.parts.as_slice()), Cost::of_blocks(block, u.grid[0], least))]
}

fn label(operand: &str, parts: &[irori::backend::LoraPart]) -> String {
    format!("{operand}, {}", linear_name(parts))
}

/// Bᵀ of each part, v of all, then dA of all and of each, dB of all and of each.
pub fn backward(counts: &Counts, op: &LoraBackward, launches: &[Launch]) -> Vec<Row> {
    assert_eq!(op.rows(), ROWS);
    let parts = op.parts.len();
    let (transposes, rest) = launches.split_at(parts);
    let [v, da, rest @ ..] = rest else { panic!("{} launches", launches.len()) };
    let (reduce_da, rest) = rest.split_at(parts);
    let [db, reduce_db @ ..] = rest else { panic!("{} launches", launches.len()) };
    let (z, dy) = (&counts.lora[&(parts, op.mask.is_some())], &counts.lora[&(1, false)]);
    let row = |launch: &Launch, operand, cost| Row::new(launch.kernel, label(operand, &op.parts), cost);
    let splits = ROWS.div_ceil(SPLIT_ROWS);
    let (n, k) = (op.n, op.k);
    let widths = || op.parts.iter().map(|p| p.out.len());

    let mut rows = Vec::new();
    for (launch, n) in transposes.iter().zip(widths()) {
        let all = dy[1][0] * (n as f64 / WIDTHS[1] as f64);
        rows.push(row(launch, "B", Cost::spread(all, n * RANK * 4)));
    }
    // Modules of unequal width: their blocks are unequal too.
    let all = widths().fold(Work::default(), |sum, n| sum + project(dy, 2, n) * f64::from(v.grid[0]));
    rows.push(row(v, "v", Cost::spread(all, ROWS * n * 2 + parts * NARROW)));
    let of_blocks = |of: &Counted, i, columns: usize, width, partials| {
        let blocks = (columns.div_ceil(GRADIENT_COLUMNS) * splits) as u32;
        Cost::of_blocks(gradient(of, i), blocks, ROWS * width * 2 + parts * NARROW + partial(partials))
    };
    rows.push(row(da, "dA", of_blocks(z, 3, k, k, k * parts)));
    rows.push(row(db, "dB", of_blocks(dy, 4, n, n, n)));
    let reduced = |i: usize, width: usize| {
        let all = counts.reduce[i] * (width as f64 / REDUCED as f64);
        Cost::spread(all, partial(width) + RANK * width * 8)
    };
    rows.extend(reduce_da.iter().map(|l| row(l, "dA", reduced(0, k))));
    rows.extend(reduce_db.iter().zip(widths()).map(|(l, n)| row(l, "dB", reduced(1, n))));
    rows
}
