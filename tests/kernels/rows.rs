//! rows.cu: copies, exact.

use crate::{
    harness::{Cpu, Gpu, Noise, SEEDS, assert_bits},
    launches::{Traffic, assert_traffic, in_sectors, run},
};
#[allow(unused_imports)]
use irori::backend::calls::Calls as _;
use irori::backend::{Backend, DType, cuda::rows as launches};

#[test]
fn gather_and_scatter() {
    for (count, of, width) in [(1, 1, 4096), (17, 40, 8), (128, 128, 264), (300, 999, 64), (1000, 1000, 1024)] {
        let mut noise = Noise::new(count as u64);
        let (x, src) = (noise.normal(of * width, 1.0), noise.normal(count * width, 1.0));
        // Without duplicates: 7 is prime to every `of` above.
        let index: Vec<u32> = (0..count).map(|i| (i * 7 % of) as u32).collect();
        let mut cpu = Cpu::new();
        let (cx, csrc, cindex) = (cpu.f32(&x), cpu.f32(&src), cpu.u32(&index));
        let cout = cpu.out(DType::F32, count * width);
        cpu.start(0);
        cpu.be.gather_rows(cx, cindex, width, cout).unwrap();
        cpu.be.scatter_rows(csrc, cindex, width, cx).unwrap();
        let (want, want_x) = (cpu.get(cout), cpu.get(cx));
        for seed in SEEDS {
            let Some(mut gpu) = Gpu::new("rows", seed) else { return };
            let (gx, gsrc, gindex) = (gpu.bf16(&x), gpu.bf16(&src), gpu.u32(&index));
            let out = gpu.fresh(count * width * 2);
            let gather = run(&mut gpu, &launches::gather_rows(count, width, gx, gindex, out));
            let scatter = run(&mut gpu, &launches::scatter_rows(count, width, gsrc, gindex, gx));
            assert_bits("gathered", &gpu.get_bf16(out, want.len()), &want);
            assert_bits("scattered", &gpu.get_bf16(gx, want_x.len()), &want_x);
            // The index: one sector for each warp of the row's block.
            let bytes = in_sectors(count, width);
            let least = Traffic { loads: bytes + count * 4 * 32, stores: bytes };
            assert_traffic("gather_rows", &gather, least);
            assert_traffic("scatter_rows", &scatter, least);
        }
    }
}
