//! nf4.cu: bit for bit what `src/quant` makes, which is bit for bit what bitsandbytes makes.

use crate::{
    harness::{Gpu, Noise, SEEDS, round},
    launches::{Traffic, assert_no_conflicts, assert_traffic, run},
};
use half::bf16;
#[allow(unused_imports)]
use irori::backend::calls::Calls as _;
use irori::{
    backend::cuda::rows::{self as launches, Elements},
    quant::nf4,
    tensor::Floats,
};

/// Weights of several sizes, with a block of zeros, ties between codewords, and tiny blocks.
fn weights(count: usize) -> Vec<f32> {
    let mut noise = Noise::new(count as u64);
    let mut x = noise.normal(count, 0.02);
    x[..64].fill(0.0);
    if count >= 256 {
        // Halves between codewords lie exactly on thresholds only for a few; all multiples of 1/128 come near them.
        for (i, x) in x[64..192].iter_mut().enumerate() {
            *x = (i as f32 - 64.0) / 64.0;
        }
        x[192..256].iter_mut().for_each(|x| *x = round(*x * 1e-30));
    }
    x
}

fn host(x: &[f32]) -> (Vec<u8>, Vec<f32>, Vec<bf16>) {
    let (mut packed, mut absmax) = (vec![0; x.len() / 2], vec![0.0; x.len() / 64]);
    nf4::quantize(Floats::F32(bytemuck::cast_slice(x)), &mut packed, &mut absmax);
    let mut dense = vec![bf16::ZERO; x.len()];
    nf4::dequantize_to_bf16(&packed, &absmax, &mut dense);
    (packed, absmax, dense)
}

#[test]
fn quantise_and_dequantise_give_the_bits_of_the_host() {
    for count in [64, 256, 17 * 1024, 300 * 64, 1024 * 128] {
        let x = weights(count);
        let (packed, absmax, dense) = host(&x);
        for (seed, elements) in [(SEEDS[0], Elements::Bf16), (SEEDS[1], Elements::Bf16), (SEEDS[0], Elements::F32)] {
            let Some(mut gpu) = Gpu::new("nf4", seed) else { return };
            let src = match elements {
                Elements::Bf16 => gpu.bf16(&x),
                Elements::F32 => gpu.f32(&x),
            };
            let (gp, ga, gd) = (gpu.fresh(count / 2), gpu.fresh(count / 16), gpu.fresh(count * 2));
            let q = run(&mut gpu, &launches::nf4_quantize(count, elements, src, gp, ga));
            let d = run(&mut gpu, &launches::nf4_dequantize(count, gp, ga, gd));
            assert_eq!(gpu.get_f32(ga, count / 64), absmax);
            assert_eq!(gpu.read(gp, count / 2), packed);
            assert_eq!(gpu.read(gd, count * 2), bytemuck::cast_slice::<_, u8>(&dense));
            if count > 10_000 {
                // f32 comes in two accesses of 16 bytes, 32 bytes apart: sectors are asked for twice, once of L1.
                let width = if elements == Elements::F32 { 8 } else { 2 };
                // absmax: a warp covers four blocks, half a sector.
                let small = count / 2 + count / 256 * 32;
                assert_traffic("nf4_quantize", &q, Traffic { loads: count * width, stores: small });
                assert_traffic("nf4_dequantize", &d, Traffic { loads: small, stores: count * 2 });
                assert_no_conflicts("nf4_dequantize", &d);
            }
        }
    }
}

/// Random f32 that bf16 does not represent: thresholds are compared in f32.
#[test]
fn f32_sources_are_not_rounded_first() {
    let x = Noise::new(9).normal_f32(64 * 100, 1.0);
    let (packed, absmax, _) = host(&x);
    let Some(mut gpu) = Gpu::new("nf4", 0) else { return };
    let (src, gp, ga) = (gpu.f32(&x), gpu.fresh(x.len() / 2), gpu.fresh(x.len() / 16));
    run(&mut gpu, &launches::nf4_quantize(x.len(), Elements::F32, src, gp, ga));
    assert_eq!(gpu.get_f32(ga, x.len() / 64), absmax);
    assert_eq!(gpu.read(gp, x.len() / 2), packed);
}
