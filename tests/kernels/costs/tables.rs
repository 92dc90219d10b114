//! The tables of the page.

use super::{
    CLOCK, DOCUMENT,
    counts::Counts,
    greatest, model,
    rows::{Cost, Row},
    step::Step,
};
use crate::{harness::SLICE, linear::main_loop, work::Work};
use irori::backend::cuda::launches::linear::tiles::{Direction, Stored, tiles};
use std::fmt::Write;

pub fn main_loops(out: &mut String, counts: &Counts) -> Option<()> {
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

/// Place of the fused linear that a row is about in a layer's forward pass; rows about none come first.
pub fn linear_of(r: &Row) -> Option<usize> {
    let (_, name) = r.what.split_once(", ")?;
    ["qkv", "o", "gate/up", "down"].iter().position(|&n| n == name)
}

/// The kernels that memory should bind, each on its first shape.
pub fn streams(out: &mut String, rows: &[&Row]) {
    let header = "| kernel | on | instructions a sector | bytes asked of the least | issue | shared | L2 | memory | bound |\n\
                  |---|---|--:|--:|--:|--:|--:|--:|---|";
    let _ = writeln!(out, "{header}");
    let mut seen = Vec::new();
    let bound_elsewhere = |r: &Row| r.kernel.starts_with("linear") || ATTENTION.contains(&r.kernel);
    for &r in rows.iter().filter(|r| !bound_elsewhere(r) && !ONE_BLOCK.contains(&r.kernel)) {
        // The same kernel over z has masks to make, over dy it has not.
        let kind = (r.kernel, r.what.split(',').next());
        if seen.contains(&kind) || r.what == "head" && r.kernel != "cross_entropy" && r.kernel != "scatter_rows" {
            continue;
        }
        seen.push(kind);
        // Cycles of one multiprocessor for each KiB of those that must move.
        let Cost { busiest, asked, least } = r.cost();
        let kib = least / 1024.0 / f64::from(SLICE.sms);
        let [_, issue, shared, l2, memory] = r.bounds().map(|b| b.1 * 1e-6 * CLOCK / kib);
        let _ = writeln!(
            out,
            "| `{}` | {} | {:.1} | {:.2} | {issue:.0} | {shared:.0} | {l2:.0} | {memory:.0} | {} |",
            r.kernel,
            r.what,
            busiest.issued * f64::from(SLICE.sms) / (asked / 32.0),
            asked / least,
            r.binds().0,
        );
    }
}

const ATTENTION: [&str; 3] = ["attention", "attention_dq", "attention_dkv"];
/// Kernels that add up what many blocks have left: they wait, and nothing of theirs is worth a bound.
const ONE_BLOCK: [&str; 2] = ["add_loss", "finish_norm"];

pub fn step_table(out: &mut String, step: &Step) {
    let header = "| kernel | on | launches | tensor | issue | shared | L2 | memory | bound | all, ms | share |\n\
                  |---|---|--:|--:|--:|--:|--:|--:|---|--:|--:|";
    let _ = writeln!(out, "{header}");
    let total = step.ms();
    let mut rows: Vec<_> = step.rows.iter().collect();
    rows.sort_by_key(|r| linear_of(r));
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
