//! kernels/synthetic.cu: random weights have the host's bits.

use crate::{
    harness::{Gpu, SEEDS, assert_bits},
    launches::{Traffic, assert_traffic, run},
};
#[allow(unused_imports)]
use irori::backend::calls::Calls as _;
use irori::{backend::cuda::rows::bell, rng::Bell};

#[test]
fn weights_are_those_of_the_host_bit_for_bit() {
    let recipe = Bell::new(0x0123_4567_89ab_cdef, 0.02);
    let want: Vec<f32> = recipe.elements(8208).iter().map(|x| x.to_f32()).collect();
    for seed in SEEDS {
        let Some(mut gpu) = Gpu::new("synthetic", seed) else { return };
        for (start, count) in [(0, 8208), (8, 8), (4096, 2056)] {
            let out = gpu.fresh(count * 2);
            let cost = run(&mut gpu, &bell(&recipe, start, count, out));
            assert_bits("weights", &gpu.get_bf16(out, count), &want[start..start + count]);
            if count > 4096 {
                assert_traffic("bell_bf16", &cost, Traffic { loads: 0, stores: count * 2 });
            }
        }
    }
    let mean = want.iter().sum::<f32>() / want.len() as f32;
    let deviation = (want.iter().map(|x| x * x).sum::<f32>() / want.len() as f32).sqrt();
    assert!(mean.abs() < 1e-3 && (deviation / 0.02 - 1.0).abs() < 0.02, "{mean} {deviation}");
}
