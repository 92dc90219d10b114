//! kernels/linear_nf4.cu: the product from packed weights gives the bits of dequantising and multiplying densely.

use crate::{
    harness::{Gpu, SEEDS, assert_bits},
    linear::{Case, LoopCost, cases, launch, least_efficiency},
};
use irori::{
    backend::cuda::linear::{Direction, Stored, Tile, tiles},
    quant::{host::Floats, nf4},
};
use ptxvm::Counters;

/// The case with its W quantised, packed bytes and absmax; W is what they stand for, rounded once to bf16.
pub fn quantized(mut c: Case) -> (Case, Vec<u8>, Vec<f32>) {
    let (mut packed, mut absmax) = (vec![0; c.w.len() / 2], vec![0.0; c.w.len() / 64]);
    nf4::quantize(Floats::F32(bytemuck::cast_slice(&c.w)), &mut packed, &mut absmax);
    nf4::dequantize(&packed, &absmax, true, &mut c.w);
    (c, packed, absmax)
}

fn run(c: &Case, packed: &[u8], absmax: &[f32], tile: &Tile, seed: u64) -> Option<(Vec<f32>, Counters)> {
    let mut gpu = Gpu::new(tile.module, seed)?;
    let mut p = c.upload(&mut gpu);
    p.w = gpu.bytes(packed);
    p.absmax = gpu.f32(absmax);
    Some(launch(&mut gpu, tile, &p))
}

fn every_case(direction: Direction) {
    let widths = cases(direction).into_iter().filter(|c| c.n % 64 == 0 && c.k % 64 == 0);
    // One unit of absmax and a bit: 512 + 64 of the inner dimension.
    let long = match direction {
        Direction::Forward => Case::new(&[17], 128, 1088, &[0..128], 16, direction),
        Direction::Backward => Case::new(&[17], 576, 192, &[0..128], 16, direction),
    };
    for c in widths.chain([long]) {
        let (c, packed, absmax) = quantized(c);
        let Some((want, _)) = c.run(&tiles(Stored::Dense, direction)[1], 0) else { return };
        for tile in tiles(Stored::Packed, direction) {
            for seed in SEEDS {
                let Some((got, counters)) = run(&c, &packed, &absmax, tile, seed) else { return };
                assert_bits(tile.kernel, &got, &want);
                assert_eq!(counters.bank_conflicts(), 0, "{}: {counters}", tile.kernel);
                assert_eq!(counters.local_accesses, 0);
            }
        }
        c.check(&want);
    }
}

#[test]
fn forward_equals_the_dense_product_bit_for_bit() {
    every_case(Direction::Forward);
}

#[test]
fn backward_equals_the_dense_product_bit_for_bit() {
    every_case(Direction::Backward);
}

/// One tile at full width, K = 4096.
#[test]
fn a_full_tile_costs_what_it_must() {
    for direction in [Direction::Forward, Direction::Backward] {
        for tile in tiles(Stored::Packed, direction) {
            let case = |depth| match direction {
                Direction::Forward => Case::new(&[tile.rows as usize], 128, depth, &[], 16, direction),
                Direction::Backward => Case::new(&[tile.rows as usize], depth, 128, &[], 16, direction),
            };
            let (short, packed, absmax) = quantized(case(2048));
            let Some((_, at_short)) = run(&short, &packed, &absmax, tile, 5) else { return };
            let (long, packed, absmax) = quantized(case(4096));
            let Some((got, at_long)) = run(&long, &packed, &absmax, tile, 5) else { return };
            long.check(&got);
            let cost = LoopCost::of(&at_short, &at_long);
            let must = (tile.operand_bytes(Stored::Packed, direction, 4096)
                - tile.operand_bytes(Stored::Packed, direction, 2048)) as f64;
            println!(
                "{}: {:.2} instructions and {:.2} shared wavefronts an mma, {:.3} of the least global bytes",
                tile.kernel,
                cost.issued / cost.mma,
                cost.shared / cost.mma,
                cost.global_bytes / must
            );
            // Backward with 128 columns in all, the absmax of four rows share a sector.
            let shared_sectors = if direction == Direction::Backward { 2048.0 * 24.0 } else { 0.0 };
            let share = cost.global_bytes / (must - shared_sectors);
            assert!((1.0..1.05).contains(&share), "{share}");
            let (issued, shared) = if tile.rows == 256 { (4.5, 1.75) } else { (6.5, 2.25) };
            assert!(cost.issued / cost.mma <= issued, "{}", cost.issued / cost.mma);
            assert!(cost.shared / cost.mma <= shared, "{}", cost.shared / cost.mma);
            let estimate = f64::from(tile.step) * 64.0;
            assert!((0.97..=1.03).contains(&(cost.cycles() / estimate)), "{} of {estimate}", cost.cycles());
        }
        let least = least_efficiency(Stored::Packed, direction);
        assert!(least >= 0.8, "{least}");
    }
}
