//! docs/kernel-costs.md: what every kernel costs by count, and the estimate of a whole step of Qwen3-8B from it.
//!
//! Counts come from representative pieces that the virtual machine runs whole: one block, a few rows, three tiles of a
//! document. Larger launches are scaled from them where counts grow evenly, and the test checks that they do. The file is
//! committed; the test says when it is no longer true.

mod counts;
mod linear;
mod lora;
mod rows;
mod step;
mod tables;

use crate::{
    harness::{SLICE, compiler},
    linear::DEPTHS,
};
use counts::{Counts, SHORT};
use irori::{model::ModelConfig, plan::device::profile};
use std::{fmt::Write, path::Path};
use step::{Step, micro_batch, update};
use tables::{linear_of, main_loops, step_table, streams};

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

fn greatest<const N: usize>(bounds: [(&'static str, f64); N]) -> (&'static str, f64) {
    bounds.into_iter().fold(("", 0.0), |a, b| if b.1 > a.1 { b } else { a })
}

fn bandwidth() -> f64 {
    profile("a100-2g.20gb").expect("a known profile").speed.bandwidth
}

fn model() -> ModelConfig {
    ModelConfig::preset("qwen3-8b").expect("a preset")
}

fn peak() -> f64 {
    f64::from(SLICE.sms) * 2048.0 * CLOCK
}

/// The document, from counts made now. `None` in a build without kernels.
fn document() -> Option<String> {
    let counts = Counts::new()?;
    let (full, update) = (micro_batch(&counts, ROWS, true), update(&counts));
    let (few, plain) = (micro_batch(&counts, FEW_TARGETS, true), micro_batch(&counts, ROWS, false));
    let variants =
        [("all rows targets, dropout", &full), ("32 targets, dropout", &few), ("all rows targets, no dropout", &plain)];
    let mut out = String::new();
    the_machine(&mut out);
    main_loops(&mut out, &counts)?;
    memory_bound(&mut out, &full, &update);
    whole(&mut out, &full, &update, &variants);
    Some(out)
}

fn the_machine(out: &mut String) {
    let _ = write!(
        out,
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
        DEPTHS[1],
        DEPTHS[0],
    );
}

fn memory_bound(out: &mut String, full: &Step, update: &Step) {
    let _ = write!(
        out,
        "
## Kernels that memory should bind

On Qwen3-8B's widths and {ROWS} rows, rank {RANK}, dropout on. Bytes asked are whole sectors from wherever they come; the
least is every buffer once. The last columns are cycles of one multiprocessor for each KiB of the least.

"
    );
    let mut rows: Vec<_> = full.rows.iter().chain(&update.rows).collect();
    rows.sort_by_key(|r| linear_of(r));
    streams(out, &rows);
}

fn whole(out: &mut String, full: &Step, update: &Step, variants: &[(&str, &Step)]) {
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
    step_table(out, full);
    let _ = writeln!(out, "\n| micro-batch | ms | tokens/s | of the tensor peak |\n|---|--:|--:|--:|");
    for (what, step) in variants {
        let ms = step.ms();
        let share = 100.0 * step.flops / peak() / (ms / 1e3);
        let _ = writeln!(out, "| {what} | {ms:.1} | {:.0} | {share:.1} % |", ROWS as f64 / ms * 1e3);
    }
    let (once, launches) = (update.ms(), full.launches());
    let _ = write!(
        out,
        "
The peak's share counts the operations that the mathematics asks for: both products of every linear, seven of attention's
{DOCUMENT}-row triangles, the adapters, the head. The optimizer adds {once:.1} ms to each step, whatever its micro-batches. Not
counted: {launches} launches a micro-batch, each a microsecond or more of an idle device unless the next one overlaps it.
"
    );
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
