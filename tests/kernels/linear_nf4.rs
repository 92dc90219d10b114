//! kernels/linear_nf4.cu: the product from packed weights gives the bits of dequantising and multiplying densely.

use crate::{
    harness::assert_bits,
    linear::{Case, cases, full_tiles_cost_what_they_must},
};
use irori::backend::cuda::launches::linear::tiles::{Direction, Stored, tiles};

fn every_case(direction: Direction) {
    let widths = cases(direction).into_iter().filter(|c| c.n % 64 == 0 && c.k % 64 == 0);
    // One unit of absmax and a bit: 512 + 64 of the inner dimension.
    let long = match direction {
        Direction::Forward => Case::new(&[17], 128, 1088, &[0..128], 16, direction),
        Direction::Backward => Case::new(&[17], 576, 192, &[0..128], 16, direction),
    };
    for c in widths.chain([long]) {
        let c = c.quantized();
        let Some((want, _)) = c.run(Stored::Dense, &tiles(Stored::Dense, direction)[1], 0) else { return };
        let Some(got) = c.run_all(Stored::Packed) else { return };
        assert_bits("packed", &got, &want);
        c.check(&want);
        c.check_whole(Stored::Packed, &want);
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

#[test]
fn a_full_tile_costs_what_it_must() {
    full_tiles_cost_what_they_must(Stored::Packed, 0.8);
}
