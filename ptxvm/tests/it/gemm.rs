//! A real kernel: tiled bf16 matrix product with cp.async double buffering, ldmatrix, mma and an XOR swizzle.

use crate::common::{Noise, bf16, from_bf16, machine, upload};
use ptxvm::{Args, Class, Config, Detect, Module, Vm};
use std::time::Instant;

const PTX: &str = include_str!("../kernels/gemm.ptx");
const SHARED: u32 = 2 * 256 * 128;

struct Case {
    a: Vec<u16>,
    b: Vec<u16>,
    m: usize,
    n: usize,
    k: usize,
}

impl Case {
    fn new(m: usize, n: usize, k: usize) -> Case {
        let mut noise = Noise::new((m * 31 + n * 7 + k) as u64);
        let mut fill = |len: usize| (0..len).map(|_| bf16(noise.unit())).collect::<Vec<_>>();
        Case { a: fill(m * k), b: fill(n * k), m, n, k }
    }

    fn run(&self, vm: &mut Vm, module: &Module) -> (Vec<f32>, ptxvm::Counters) {
        let a = upload(vm, &self.a, u16::to_le_bytes);
        let b = upload(vm, &self.b, u16::to_le_bytes);
        let c = vm.alloc((self.m * self.n * 4) as u64).unwrap();
        let args = Args::new().u64(a).u64(b).u64(c).i32(self.m as i32).i32(self.n as i32).i32(self.k as i32);
        let grid = (self.n.div_ceil(128) as u32, self.m.div_ceil(128) as u32);
        let counters = vm.launch(module, "gemm", grid, 128, SHARED, args.bytes()).unwrap_or_else(|f| panic!("{f}"));
        let mut raw = vec![0; self.m * self.n * 4];
        assert!(vm.written(c, raw.len() as u64).unwrap());
        vm.read(c, &mut raw).unwrap();
        (raw.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect(), counters)
    }

    /// Each k-group of 16 summed in f64 and rounded once, as the machine states for mma: bit for bit.
    fn reference(&self) -> Vec<f32> {
        let mut out = vec![0f32; self.m * self.n];
        for i in 0..self.m {
            for j in 0..self.n {
                let mut acc = 0f32;
                for group in (0..self.k).step_by(16) {
                    let mut s = acc as f64;
                    for k in group..(group + 16).min(self.k) {
                        s += from_bf16(self.a[i * self.k + k]) as f64 * from_bf16(self.b[j * self.k + k]) as f64;
                    }
                    acc = s as f32;
                }
                out[i * self.n + j] = acc;
            }
        }
        out
    }
}

#[test]
fn ragged_shapes_equal_the_reference_under_every_schedule() {
    let module = Module::parse(PTX).unwrap();
    assert_eq!(module.kernel("gemm").unwrap().max_threads, Some(128));
    check_shapes(&module, &[(128, 128, 128), (1, 128, 64), (17, 130, 200), (200, 257, 72)]);
}

/// Runs the kernel at several shapes (m, n, k) and schedules against the reference, bit for bit.
pub fn check_shapes(module: &Module, shapes: &[(usize, usize, usize)]) {
    for &(m, n, k) in shapes {
        let case = Case::new(m, n, k);
        let want = case.reference();
        for seed in 0..2 {
            let mut vm = machine(seed);
            let (got, counters) = case.run(&mut vm, module);
            let bad = got.iter().zip(&want).position(|(g, w)| g.to_bits() != w.to_bits());
            assert_eq!(bad, None, "{m}x{n}x{k}");
            assert_eq!(counters.bank_conflicts(), 0, "{counters}");
            assert_eq!(counters.local_accesses, 0);
        }
    }
}

#[test]
fn counters_are_what_the_tiles_say() {
    let module = Module::parse(PTX).unwrap();
    let case = Case::new(256, 128, 256);
    let (_, c) = case.run(&mut machine(3), &module);
    // Two blocks, four warps, four k-steps of 64, 32 mma and 8 ldmatrix.x4 per 16.
    assert_eq!(c.mma, 2 * 4 * 4 * 4 * 32);
    assert_eq!(c.of(Class::Matrix), 2 * 4 * 4 * 4 * 8);
    assert_eq!(c.matrices, 4 * c.of(Class::Matrix));
    // Each block reads its A and B tiles once: (128 + 128) rows of 512 bytes, 16 sectors a row.
    assert_eq!(c.global_load_sectors, 2 * 256 * 16);
    assert_eq!(c.global_load_bytes, 2 * 256 * 512);
    assert_eq!(c.global_store_bytes, 256 * 128 * 4);
    assert_eq!(c.shared_wavefronts, c.matrices);
    // Every 16-byte cp.async goes by quarter warps of eight lanes.
    assert_eq!(c.async_wavefronts, 2 * 256 * 512 / 128);
    assert_eq!(c.barriers, 2 * 2 * 4);
}

/// Prints what the machine can do; asserts only that it is not absurdly slow.
#[test]
fn speed() {
    let module = Module::parse(PTX).unwrap();
    let case = Case::new(256, 256, 512);
    for (name, detect, count_memory) in [("all detectors", Detect::ALL, true), ("none", Detect::NONE, false)] {
        let mut vm = Vm::new(Config { threads: 1, detect, count_memory, ..Config::default() });
        let start = Instant::now();
        let (_, c) = case.run(&mut vm, &module);
        let s = start.elapsed().as_secs_f64();
        println!(
            "gemm 256x256x512, {name}: {s:.3} s, {:.1} M lane-instructions/s, {:.2} M mma/s on one thread",
            c.lanes as f64 / s / 1e6,
            c.mma as f64 / s / 1e6
        );
        assert!(s < 60.0);
    }
}
