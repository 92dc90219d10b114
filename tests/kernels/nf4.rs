//! nf4.cu: bit for bit what `src/quant` makes, which is bit for bit what bitsandbytes makes.

use crate::harness::{Device, Gpu, Noise, SEEDS, Traffic, assert_no_conflicts, assert_traffic, round};
use half::bf16;
use irori::{
    backend::{
        Buffer, DType, HostTensor, Weight, WeightStore,
        ops::{Dequantize, LoadNf4, MakeNf4},
    },
    quant::nf4,
    rng::NearNormal,
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

/// As W of rows of one block.
fn weight(packed: Buffer, absmax: Buffer) -> Weight {
    let store = WeightStore::Nf4 { packed, absmax, compute: DType::Bf16 };
    Weight { n: absmax.len(), k: nf4::BLOCK, store }
}

#[test]
fn quantise_and_dequantise_give_the_bits_of_the_host() {
    for count in [64, 256, 17 * 1024, 300 * 64, 1024 * 128] {
        let x = weights(count);
        let (want_packed, want_absmax, want_dense) = host(&x);
        let rounded: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
        for (seed, dtype) in [(SEEDS[0], DType::Bf16), (SEEDS[1], DType::Bf16), (SEEDS[0], DType::F32)] {
            let Some(mut gpu) = Gpu::new(seed) else { return };
            let bytes = if dtype == DType::F32 { bytemuck::cast_slice(&x) } else { bytemuck::cast_slice(&rounded) };
            let (packed, absmax) = (gpu.out(DType::U8, count / 2), gpu.out(DType::F32, count / 64));
            let dst = gpu.out(DType::Bf16, count);
            let quantize = &gpu.run(LoadNf4 { src: HostTensor { dtype, bytes }, packed, absmax })[0];
            let dequantize = &gpu.run(Dequantize { w: weight(packed, absmax), dst })[0];
            assert_eq!(gpu.get(absmax), want_absmax);
            assert_eq!(gpu.bytes_of(packed), want_packed);
            assert_eq!(gpu.bytes_of(dst), bytemuck::cast_slice::<_, u8>(&want_dense));
            if count > 10_000 {
                // f32 comes in two accesses of 16 bytes, 32 bytes apart: sectors are asked for twice, once of L1.
                let width = if dtype == DType::F32 { 8 } else { 2 };
                // absmax: a warp covers four blocks, half a sector.
                let small = count / 2 + count / 256 * 32;
                assert_traffic("nf4_quantize", quantize, Traffic { loads: count * width, stores: small });
                assert_traffic("nf4_dequantize", dequantize, Traffic { loads: small, stores: count * 2 });
                assert_no_conflicts("nf4_dequantize", dequantize);
            }
        }
    }
}

/// Random f32 that bf16 does not represent: thresholds are compared in f32.
#[test]
fn f32_sources_are_not_rounded_first() {
    let x = Noise::new(9).normal_f32(64 * 100, 1.0);
    let (want_packed, want_absmax, _) = host(&x);
    let Some(mut gpu) = Gpu::new(0) else { return };
    let (packed, absmax) = (gpu.out(DType::U8, x.len() / 2), gpu.out(DType::F32, x.len() / 64));
    let src = HostTensor { dtype: DType::F32, bytes: bytemuck::cast_slice(&x) };
    gpu.run(LoadNf4 { src, packed, absmax });
    assert_eq!(gpu.get(absmax), want_absmax);
    assert_eq!(gpu.bytes_of(packed), want_packed);
}

/// A chunk in scratch and a bit: what begins in the middle of a tensor is what the host makes there.
#[test]
fn made_and_quantised_in_chunks() {
    let (recipe, len) = (NearNormal::new(77, 0.02), (4 << 20) + 64 * 5);
    let dense: Vec<f32> = recipe.elements(len).iter().map(|x| x.to_f32()).collect();
    let (want_packed, want_absmax, _) = host(&dense);
    let Some(mut gpu) = Gpu::counting() else { return };
    let (packed, absmax) = (gpu.out(DType::U8, len / 2), gpu.out(DType::F32, len / 64));
    assert_eq!(gpu.run(MakeNf4 { recipe, packed, absmax }).len(), 4);
    assert!(gpu.get(absmax) == want_absmax && gpu.bytes_of(packed) == want_packed);
}
