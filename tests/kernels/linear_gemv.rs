//! kernels/linear_gemv.cu: the product for few rows.

use crate::{
    harness::{Gpu, Noise, SEEDS, assert_bits},
    linear::Case,
};
use irori::backend::cuda::launches::linear::tiles::{Direction, Stored};
use ptxvm::Counters;

fn run(c: &Case, stored: Stored, seed: u64) -> Option<(Vec<f32>, Counters)> {
    let (out, mut costs) = c.whole(&mut Gpu::new(seed)?, stored);
    assert_eq!(costs.len(), 1);
    Some((out, costs.remove(0)))
}

#[test]
fn is_the_cpu_operation_under_every_schedule() {
    let mut cases = vec![
        Case::new(&[1], 64, 64, &[], 16, Direction::Forward),
        Case::new(&[1, 2], 40, 192, &[0..24, 24..40], 16, Direction::Forward),
        Case::new(&[1; 8], 128, 1088, &[0..64, 64..96, 96..128], 24, Direction::Forward),
        Case::new(&[1; 4], 16, 4096, &[0..16], 16, Direction::Forward),
    ];
    cases[1].add = Some(Noise::new(3).normal(3 * 40, 1.0));
    for c in cases {
        let c = c.quantized();
        for stored in [Stored::Dense, Stored::Packed] {
            let Some((want, _)) = run(&c, stored, SEEDS[0]) else { return };
            c.check(&want);
            for seed in &SEEDS[1..] {
                let (other, cost) = run(&c, stored, *seed).unwrap();
                assert_bits("another schedule", &other, &want);
                assert_eq!(cost.bank_conflicts(), 0, "{cost}");
                assert_eq!(cost.local_accesses, 0);
            }
        }
    }
}

/// W once; z once for each 16 columns; what is left are outputs.
#[test]
fn traffic_is_within_five_percent_of_what_it_must_be() {
    let c = Case::new(&[1], 64, 4096, &[], 16, Direction::Forward).quantized();
    let Some((_, dense)) = run(&c, Stored::Dense, 0) else { return };
    let (_, nf4) = run(&c, Stored::Packed, 0).unwrap();
    // Packed: a lane takes 16 of 32 consecutive bytes of z at a time, and 4 of a sector of absmax.
    for (what, cost, w, z) in [
        ("dense", dense, 64 * 4096 * 2, 4 * 4096 * 2),
        ("packed", nf4, 64 * 4096 / 2 + 64 * 4096 / 128 * 32, 2 * 4 * 4096 * 2),
    ] {
        let share = cost.global_load_sectors as f64 * 32.0 / f64::from(w + z);
        println!("gemv, {what}: {share:.3} of the least bytes read");
        assert!((1.0..1.05).contains(&share), "{what}: {share}\n{cost}");
    }
}
