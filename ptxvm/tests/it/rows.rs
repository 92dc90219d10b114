//! Kernels from nvcc with reductions, special functions, atomics and a switch, against the CPU; and, where nvcc is
//! at hand, the same sources compiled anew for other architectures.

use crate::common::{Noise, bf16, download_u32, from_bf16, machine, upload};
use ptxvm::{Args, Module};
use std::path::{Path, PathBuf};
use std::process::Command;

const PTX: &str = include_str!("../kernels/rows.ptx");

fn softmax(module: &Module) {
    for (rows, n, threads) in [(3usize, 1000usize, 128u32), (2, 7, 64), (1, 4096, 1024)] {
        let mut vm = machine(n as u64);
        let mut noise = Noise::new(n as u64);
        let x: Vec<f32> = (0..rows * n).map(|_| noise.unit() * 10.0).collect();
        let px = upload(&mut vm, &x, f32::to_le_bytes);
        let py = vm.alloc((rows * n * 4) as u64).unwrap();
        let args = Args::new().u64(px).u64(py).i32(n as i32);
        vm.launch(module, "softmax", rows as u32, threads, 0, args.bytes()).unwrap_or_else(|f| panic!("{f}"));
        for (r, row) in download_u32(&vm, py, rows * n).chunks(n).enumerate() {
            let x = &x[r * n..(r + 1) * n];
            let top = x.iter().fold(f32::MIN, |a, b| a.max(*b)) as f64;
            let sum: f64 = x.iter().map(|v| (*v as f64 - top).exp()).sum();
            for (got, v) in row.iter().zip(x) {
                let want = (*v as f64 - top).exp() / sum;
                // expf: 2 ulp and x - top rounded to 20 * 2^-24; the sum: log2(n) + n / threads roundings.
                let tolerance = want * (20.0 + 2.0 + 2.0 + 10.0 + n as f64 / threads as f64) * 2f64.powi(-24) * 2.0;
                assert!(
                    (f32::from_bits(*got) as f64 - want).abs() <= tolerance,
                    "row {r}: {} {want}",
                    f32::from_bits(*got)
                );
            }
        }
    }
}

fn swiglu(module: &Module) {
    let n = 1003usize;
    let mut vm = machine(0);
    let mut noise = Noise::new(5);
    let mut values = || (0..8 * n).map(|_| bf16(noise.unit() * 8.0)).collect::<Vec<u16>>();
    let (gate, up) = (values(), values());
    let (pg, pu) = (upload(&mut vm, &gate, u16::to_le_bytes), upload(&mut vm, &up, u16::to_le_bytes));
    let py = vm.alloc(16 * n as u64).unwrap();
    let args = Args::new().u64(pg).u64(pu).u64(py).i32(n as i32);
    let c = vm.launch(module, "swiglu", 8, 128, 0, args.bytes()).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!((c.global_load_bytes, c.global_load_sectors), (32 * n as u64, n as u64 + n as u64 % 2));
    for (i, word) in download_u32(&vm, py, 4 * n).into_iter().enumerate() {
        for half in 0..2 {
            let (g, u) = (from_bf16(gate[2 * i + half]) as f64, from_bf16(up[2 * i + half]) as f64);
            let want = g / (1.0 + (-g).exp()) * u;
            let got = from_bf16((word >> (16 * half)) as u16) as f64;
            // One bf16 rounding (2^-8 relative at most) beside a few f32 ones.
            assert!((got - want).abs() <= want.abs() * 2f64.powi(-8) * 1.001, "{got} {want}");
        }
    }
}

fn mixed(module: &Module) {
    let (n, divisor) = (5000usize, 77u32);
    let mut noise = Noise::new(9);
    let x: Vec<u32> = (0..n).map(|_| noise.bits()).collect();
    let mut want = [0u64; 16];
    for x in &x {
        let v = x / divisor;
        let w = match v % 7 {
            0 => v.count_ones(),
            1 => v.leading_zeros(),
            2 => ((v as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u32,
            3 => v % (divisor + 1),
            4 => v.reverse_bits() >> 7,
            5 => ((v as u64 * 0xD251_1F53) >> 32) as u32,
            _ => (v as i32 / -3) as u32,
        };
        want[(w & 15) as usize] += 1;
    }
    for seed in 0..3 {
        let mut vm = machine(seed);
        let px = upload(&mut vm, &x, u32::to_le_bytes);
        let bins = vm.alloc(128).unwrap();
        vm.fill(bins, 0, 128).unwrap();
        let args = Args::new().u64(px).u64(bins).i32(n as i32).u32(divisor);
        vm.launch(module, "mixed", 4, 256, 0, args.bytes()).unwrap_or_else(|f| panic!("{f}"));
        let got: Vec<u64> = download_u32(&vm, bins, 32).chunks(2).map(|c| (c[1] as u64) << 32 | c[0] as u64).collect();
        assert_eq!(got, want);
    }
}

#[test]
fn committed_kernels_agree_with_the_cpu() {
    let module = Module::parse(PTX).unwrap();
    softmax(&module);
    swiglu(&module);
    mixed(&module);
}

fn nvcc() -> Option<PathBuf> {
    let named = std::env::var_os("NVCC").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    named.into_iter().chain(std::env::split_paths(&path).map(|d| d.join("nvcc"))).find(|p| p.is_file())
}

#[test]
fn freshly_compiled_kernels_agree_too() {
    let Some(nvcc) = nvcc() else {
        eprintln!("SKIP: no nvcc (set NVCC or PATH) to compile tests/kernels/*.cu anew");
        return;
    };
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels");
    let compile = |name: &str, arch: &str| {
        let out = std::env::temp_dir().join(format!("ptxvm-{}-{name}-{arch}.ptx", std::process::id()));
        let status = Command::new(&nvcc)
            .args(["-ptx", "-lineinfo", "-arch", arch, "-o"])
            .arg(&out)
            .arg(kernels.join(format!("{name}.cu")))
            .status()
            .unwrap();
        assert!(status.success(), "{name} for {arch}");
        let text = std::fs::read_to_string(&out).unwrap();
        std::fs::remove_file(&out).unwrap();
        Module::parse(&text).unwrap_or_else(|e| panic!("{name} for {arch}: {e}"))
    };
    for arch in ["sm_80", "sm_90", "sm_100"] {
        let module = compile("rows", arch);
        softmax(&module);
        swiglu(&module);
        mixed(&module);
        crate::gemm::check_shapes(&compile("gemm", arch), &[(128, 128, 128), (17, 130, 200)]);
    }
}
