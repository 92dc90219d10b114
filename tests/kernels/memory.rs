//! memory.cu, and what the driver does itself: elements on their way into the arena.

use crate::harness::{Cpu, Device, Gpu, Noise, Run, SEEDS, Traffic, assert_bits, assert_traffic, on_gpu, round};
use half::{bf16, f16};
use irori::{
    backend::{
        DType, HostTensor,
        ops::{Convert, Copy, LoadDense, MakeDense, Zero},
    },
    rng::NearNormal,
};

/// Ties, subnormal results, infinities.
#[test]
fn convert_rounds_to_nearest_even() {
    let mut x =
        vec![0.0, -0.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, f32::INFINITY, f32::MAX, 1e-40, f32::MIN_POSITIVE];
    x.extend(Noise::new(3).normal_f32(1000, 10.0));
    fn converted<D: Device>(d: &mut D, x: &[f32]) -> Run<1> {
        let (src, dst) = (d.f32(x), d.out(DType::Bf16, x.len()));
        let costs = d.run(Convert { src, dst });
        d.run(Convert { src, dst: src });
        let wide = d.out(DType::F32, x.len());
        d.run(Convert { src, dst: wide });
        assert_bits("f32 to f32", &d.get(wide), x);
        Run { results: [d.get(dst)], costs }
    }
    let Some(got) = on_gpu(|gpu| converted(gpu, &x)) else { return };
    let want: Vec<f32> = x.iter().map(|&x| round(x)).collect();
    assert_bits("bf16", &got.results[0], &want);
    let Some(mut gpu) = Gpu::new(0) else { return };
    let bytes = |b: Run<1>| b.results[0].iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bytes(converted(&mut gpu, &x)), bytes(converted(&mut Cpu::new(), &x)));
}

/// In chunks through scratch, where elements are rounded; two chunks and a bit.
#[test]
fn tensors_of_every_type_arrive_as_on_the_cpu() {
    fn loaded<D: Device>(d: &mut D, src: HostTensor, to: DType) -> Run<1> {
        let dst = d.out(to, src.bytes.len() / src.dtype.size());
        let costs = d.run(LoadDense { src, dst });
        Run { results: [d.get(dst)], costs }
    }
    let x = Noise::new(5).normal_f32((4 << 20) + 40, 1.0);
    let (bf, half): (Vec<_>, Vec<_>) = x.iter().map(|&x| (bf16::from_f32(x), f16::from_f32(x))).unzip();
    let wide = HostTensor { dtype: DType::F32, bytes: bytemuck::cast_slice(&x) };
    let bf = HostTensor { dtype: DType::Bf16, bytes: bytemuck::cast_slice(&bf) };
    let half = HostTensor { dtype: DType::F16, bytes: bytemuck::cast_slice(&half) };
    for src in [wide, bf, half] {
        for to in [DType::F32, DType::Bf16] {
            let Some(mut gpu) = Gpu::counting() else { return };
            let got = loaded(&mut gpu, src, to);
            let want = loaded(&mut Cpu::new(), src, to);
            assert_bits(&format!("{:?} as {to:?}", src.dtype), &got.results[0], &want.results[0]);
            let launches = if to == DType::Bf16 && src.dtype != DType::Bf16 { 3 } else { 0 };
            assert_eq!(got.costs.len(), launches, "{:?} as {to:?}", src.dtype);
        }
    }
}

#[test]
fn zeros_and_copies() {
    let Some(mut gpu) = Gpu::new(0) else { return };
    let x = Noise::new(1).normal(100, 1.0);
    let (src, dst) = (gpu.bf16(&x), gpu.bf16(&x));
    gpu.run(Zero { dst: dst.prefix(60) });
    assert_bits("zeros, and what is behind", &gpu.get(dst), &[&[0.0; 60][..], &x[60..]].concat());
    gpu.run(Copy { src: src.prefix(60), dst: dst.prefix(60) });
    assert_bits("a copy", &gpu.get(dst), &x);
}

#[test]
fn made_weights_are_those_of_the_host_bit_for_bit() {
    let recipe = NearNormal::new(0x0123_4567_89ab_cdef, 0.02);
    let want: Vec<f32> = recipe.elements(8208).iter().map(|x| x.to_f32()).collect();
    for (seed, len) in SEEDS.into_iter().flat_map(|seed| [(seed, 8208), (seed, 8), (seed, 2056), (seed, 13)]) {
        let Some(mut gpu) = Gpu::new(seed) else { return };
        let dst = gpu.out(DType::Bf16, len);
        let costs = gpu.run(MakeDense { recipe, dst });
        assert_bits("weights", &gpu.get(dst), &want[..len]);
        // What is not whole vectors is made by the host.
        assert_eq!(costs.len(), usize::from(len % 8 == 0));
        if len > 4096 {
            assert_traffic("near_normal_bf16", &costs[0], Traffic { loads: 0, stores: len * 2 });
        }
    }
    let mean = want.iter().sum::<f32>() / want.len() as f32;
    let deviation = (want.iter().map(|x| x * x).sum::<f32>() / want.len() as f32).sqrt();
    assert!(mean.abs() < 1e-3 && (deviation / 0.02 - 1.0).abs() < 0.02, "{mean} {deviation}");
}
