use ptxvm::*;
fn main() {
    let m = Module::parse(include_str!("../tests/kernels/gemm.ptx")).unwrap();
    let on: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let mut d = Detect::NONE;
    if on & 1 != 0 { d.bounds = true; d.alignment = true; }
    if on & 2 != 0 { d.uninitialised_global = true; }
    if on & 4 != 0 { d.uninitialised_shared = true; d.shared_race = true; d.async_copies = true; }
    if on & 8 != 0 { d.block_race = true; }
    if on & 16 != 0 { d.absent_lanes = true; d.barrier_divergence = true; }
    let mut vm = Vm::new(Config { threads: 1, detect: d, count_memory: on & 32 != 0, ..Config::default() });
    let (mm, n, k) = (256u32, 256u32, 2048u32);
    let a = vm.alloc((mm * k * 2) as u64).unwrap(); vm.fill(a, 0x3c, (mm * k * 2) as u64).unwrap();
    let b = vm.alloc((n * k * 2) as u64).unwrap(); vm.fill(b, 0x3c, (n * k * 2) as u64).unwrap();
    let c = vm.alloc((n * mm * 4) as u64).unwrap();
    let r = vm.launch(&m, "gemm", (n / 128, mm / 128), 128, 65536, Args::new().u64(a).u64(b).u64(c).u32(mm).u32(n).u32(k).bytes()).unwrap();
    println!("{} lanes {} mma", r.lanes, r.mma);
}
