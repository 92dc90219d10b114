//! Tiles: what a full one costs, which are chosen, and that the choice changes no bit.

use super::Case;
use crate::{
    harness::{SLICE, assert_bits},
    work::Work,
};
use irori::backend::cuda::{
    context::Chip,
    launches::linear::tiles::{Direction, Spans, Stored, Tile, choose, tiles},
    modules::MODULES,
};
use ptxvm::Counters;
use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock},
};

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
