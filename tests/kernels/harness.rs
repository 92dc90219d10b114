//! What every kernel test needs: a device ([`Gpu`]: the virtual machine with one kernel file), the reference ([`Cpu`]: the
//! cpu backend with buffers declared by their content), random bf16 inputs, and comparisons.

use half::bf16;
use irori::{
    backend::{Backend, Buffer, DType, Kind, Layout, Rows, cpu::CpuBackend, cuda::modules::MODULES},
    rng::Rng,
};
use ptxvm::{Args, Config, Counters, Dim, Module, Vm};
use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock},
};

/// Schedules that a kernel must give the same bits under.
pub const SEEDS: [u64; 3] = [0, 1, 2];

/// Kernel file `name`, decoded once. `None`, aloud, in a build without kernels.
pub fn module(name: &str) -> Option<Module> {
    static DECODED: OnceLock<Mutex<HashMap<String, Module>>> = OnceLock::new();
    if MODULES.is_empty() {
        eprintln!("SKIP: this build has no kernels (no nvcc was found), kernels/{name}.cu is not tested");
        return None;
    }
    let mut decoded = DECODED.get_or_init(Default::default).lock().unwrap_or_else(|e| e.into_inner());
    if let Some(module) = decoded.get(name) {
        return Some(module.clone());
    }
    // Where a kernel is being worked on: PTX made by hand, without building the library anew.
    let ptx = match std::env::var("IRORI_PTX_DIR") {
        Ok(dir) => std::fs::read_to_string(format!("{dir}/{name}.ptx")).unwrap(),
        Err(_) => MODULES.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("no kernels/{name}.cu")).ptx.into(),
    };
    let module = Module::parse(&ptx).unwrap_or_else(|e| panic!("{name}: {e}"));
    decoded.insert(name.to_string(), module.clone());
    Some(module)
}

/// The virtual machine with one kernel file, all detectors on.
pub struct Gpu {
    pub vm: Vm,
    module: Module,
}

impl Gpu {
    /// Kernel file `name` under schedule `seed`; `None` if the build has no kernels.
    pub fn new(name: &str, seed: u64) -> Option<Self> {
        let module = module(name)?;
        Some(Self { vm: Vm::new(Config { seed, threads: 2, ..Config::default() }), module })
    }

    fn upload(&mut self, bytes: &[u8]) -> u64 {
        let at = self.vm.alloc(bytes.len().max(1) as u64).unwrap();
        self.vm.write(at, bytes).unwrap();
        at
    }

    /// f32 values, rounded to bf16.
    pub fn bf16(&mut self, x: &[f32]) -> u64 {
        let rounded: Vec<bf16> = x.iter().map(|&v| bf16::from_f32(v)).collect();
        self.upload(bytemuck::cast_slice(&rounded))
    }

    pub fn f32(&mut self, x: &[f32]) -> u64 {
        self.upload(bytemuck::cast_slice(x))
    }

    pub fn u32(&mut self, x: &[u32]) -> u64 {
        self.upload(bytemuck::cast_slice(x))
    }

    pub fn bytes(&mut self, x: &[u8]) -> u64 {
        self.upload(x)
    }

    /// `bytes` of memory that nobody has written: reading it before is a fault.
    pub fn fresh(&mut self, bytes: usize) -> u64 {
        self.vm.alloc(bytes.max(1) as u64).unwrap()
    }

    /// Runs a kernel; a fault fails the test with the machine's words.
    #[track_caller]
    pub fn launch(
        &mut self,
        kernel: &str,
        grid: impl Into<Dim>,
        block: impl Into<Dim>,
        shared: u32,
        args: &Args,
    ) -> Counters {
        self.vm.launch(&self.module, kernel, grid, block, shared, args.bytes()).unwrap_or_else(|f| panic!("{f}"))
    }

    /// Bytes of the device; all must have been written.
    #[track_caller]
    pub fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        assert!(self.vm.written(at, bytes as u64).unwrap(), "not every byte of the output was written");
        let mut raw = vec![0; bytes];
        self.vm.read(at, &mut raw).unwrap();
        raw
    }

    #[track_caller]
    pub fn get_bf16(&self, at: u64, len: usize) -> Vec<f32> {
        self.read(at, 2 * len).chunks_exact(2).map(|c| bf16::from_le_bytes([c[0], c[1]]).to_f32()).collect()
    }

    #[track_caller]
    pub fn get_f32(&self, at: u64, len: usize) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&self.read(at, 4 * len))
    }

    #[track_caller]
    pub fn get_u32(&self, at: u64, len: usize) -> Vec<u32> {
        bytemuck::pod_collect_to_vec(&self.read(at, 4 * len))
    }
}

/// Random inputs that bf16 represents exactly: the reference and the kernel see the same numbers.
pub struct Noise(Rng);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(Rng::new(seed, 0x6b65_726e))
    }

    /// Standard normal values times `size`, rounded to bf16.
    pub fn normal(&mut self, len: usize, size: f32) -> Vec<f32> {
        (0..len).map(|_| round(self.0.normal() * size)).collect()
    }

    /// Standard normal values times `size`, not rounded.
    pub fn normal_f32(&mut self, len: usize, size: f32) -> Vec<f32> {
        (0..len).map(|_| self.0.normal() * size).collect()
    }

    /// Uniform in 0..n.
    pub fn below(&mut self, n: u32) -> u32 {
        self.0.below(n)
    }
}

/// To the nearest bf16.
pub fn round(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

/// The cpu backend: buffers are declared with their content, then the arena is taken.
pub struct Cpu {
    layout: Layout,
    pending: Vec<(Buffer, Vec<u8>)>,
    pub be: CpuBackend,
}

impl Cpu {
    pub fn new() -> Self {
        Self { layout: Layout::new(), pending: Vec::new(), be: CpuBackend::new(Some(2)).unwrap() }
    }

    pub fn f32(&mut self, x: &[f32]) -> Buffer {
        self.raw(DType::F32, x.len(), bytemuck::cast_slice(x))
    }

    pub fn u32(&mut self, x: &[u32]) -> Buffer {
        self.raw(DType::U32, x.len(), bytemuck::cast_slice(x))
    }

    pub fn raw(&mut self, dtype: DType, len: usize, bytes: &[u8]) -> Buffer {
        let b = self.layout.take(Kind::Workspace, dtype, len);
        self.pending.push((b, bytes.to_vec()));
        b
    }

    /// A buffer of zeros.
    pub fn out(&mut self, dtype: DType, len: usize) -> Buffer {
        self.layout.take(Kind::Workspace, dtype, len)
    }

    /// Takes the arena with `scratch_bytes` of scratch and fills the buffers declared so far.
    pub fn start(&mut self, scratch_bytes: usize) {
        let scratch = self.layout.take(Kind::Scratch, DType::U8, scratch_bytes);
        self.be.allocate(self.layout.bytes(), self.layout.host_bytes(), scratch).unwrap();
        for (b, bytes) in self.pending.drain(..) {
            self.be.write(b, &bytes).unwrap();
        }
    }

    pub fn get(&mut self, b: Buffer) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&self.be.read(b).unwrap())
    }

    /// The rows of these documents.
    pub fn rows(&mut self, d: &Documents) -> Rows {
        Rows {
            count: d.positions.len(),
            docs: d.bounds.len() - 1,
            max_len: d.bounds.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0),
            tokens: self.u32(&vec![0; d.positions.len()]),
            positions: self.u32(&d.positions),
            samples: self.u32(&d.samples),
            cu_seqlens: self.u32(&d.bounds),
        }
    }
}

/// Documents packed into rows.
#[derive(Debug, Clone)]
pub struct Documents {
    pub positions: Vec<u32>,
    pub samples: Vec<u32>,
    /// First row of each document, then the number of rows.
    pub bounds: Vec<u32>,
}

impl Documents {
    /// Of the given lengths; sample numbers 100, 101, …
    pub fn new(lengths: &[usize]) -> Self {
        let mut d = Self { positions: Vec::new(), samples: Vec::new(), bounds: vec![0] };
        for (i, &n) in lengths.iter().enumerate() {
            d.positions.extend(0..n as u32);
            d.samples.extend(std::iter::repeat_n(100 + i as u32, n));
            d.bounds.push(d.positions.len() as u32);
        }
        d
    }

    pub fn rows(&self) -> usize {
        self.positions.len()
    }
}

/// `|got − want| ≤ relative·|want| + absolute(i)` for every element; says where it is worst.
#[track_caller]
pub fn assert_near(what: &str, got: &[f32], want: &[f32], relative: f32, absolute: impl Fn(usize) -> f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let mut worst = (0.0f32, 0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let share = (g - w).abs() / (relative * w.abs() + absolute(i));
        // A NaN on either side counts as infinitely wrong.
        let share = if share.is_nan() && g.to_bits() != w.to_bits() { f32::INFINITY } else { share };
        if share > worst.0 {
            worst = (share, i);
        }
    }
    let (share, i) = worst;
    assert!(
        share <= 1.0,
        "{what}[{i}] = {}, expected {}: {share} times the tolerance of {:e}",
        got[i],
        want[i],
        relative * want[i].abs() + absolute(i)
    );
}

/// The same bits everywhere.
#[track_caller]
pub fn assert_bits(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    if let Some(i) = got.iter().zip(want).position(|(g, w)| g.to_bits() != w.to_bits()) {
        panic!("{what}[{i}] = {} ({:#x}), expected {} ({:#x})", got[i], got[i].to_bits(), want[i], want[i].to_bits());
    }
}
