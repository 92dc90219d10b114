//! What every kernel test needs: a device ([`Gpu`]: the virtual machine with one kernel file), the reference ([`Cpu`]: the
//! cpu backend with buffers declared by their content), random bf16 inputs, and comparisons.
//!
//! With IRORI_TEST_DEVICE=N kernels run on GPU number N instead. Nothing is counted there, so tests of costs say so and pass
//! (those that ask [`Gpu::counting`]) or are left out by name (`--skip traffic --skip cost --skip counts`).

use half::bf16;
#[allow(unused_imports)]
use irori::backend::calls::Calls as _;
use irori::{
    backend::{
        Backend, Buffer, DType, Kind, Layout, Rows,
        cpu::CpuBackend,
        cuda::{
            cudarc_driver::CudaDriver,
            driver::{Driver, Stream},
            launch::{self, Launch},
            modules::MODULES,
        },
    },
    rng::Rng,
};
use ptxvm::{Args, Config, Counters, Detect, Dim, Module, Vm};
use std::{
    cell::RefCell,
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

/// The GPU that is to be tested instead of the virtual machine.
pub fn real_device() -> Option<u32> {
    std::env::var("IRORI_TEST_DEVICE").ok().map(|n| n.parse().expect("IRORI_TEST_DEVICE is a number"))
}

/// That GPU, opened. One more handle is kept for as long as the tests run: the last one to go takes the context with it.
pub fn open_real(number: u32) -> CudaDriver {
    static KEPT: OnceLock<Mutex<CudaDriver>> = OnceLock::new();
    let open = || CudaDriver::open(number).unwrap_or_else(|e| panic!("{e}"));
    KEPT.get_or_init(|| Mutex::new(open()));
    open()
}

/// A device with one kernel file: the virtual machine with all detectors on, or a GPU.
pub struct Gpu {
    device: Device,
    file: &'static str,
}

enum Device {
    Virtual(Box<Vm>, Module),
    Real { driver: Box<RefCell<CudaDriver>>, taken: Vec<u64> },
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if let Device::Real { driver, taken } = &mut self.device {
            let driver = driver.get_mut();
            let _ = driver.synchronize(Stream::MAIN);
            taken.iter().for_each(|&at| drop(driver.free(at)));
        }
    }
}

impl Gpu {
    /// Kernel file `name` under schedule `seed`; `None` if the build has no kernels.
    pub fn new(name: &str, seed: u64) -> Option<Self> {
        let file = MODULES.iter().find(|m| m.name == name);
        if let (Some(number), Some(file)) = (real_device(), file) {
            let mut driver = open_real(number);
            driver.load(file).unwrap_or_else(|e| panic!("{e}"));
            return Some(Self {
                device: Device::Real { driver: Box::new(driver.into()), taken: Vec::new() },
                file: file.name,
            });
        }
        let module = module(name)?;
        let vm = Box::new(Vm::new(Config { seed, threads: 2, ..Config::default() }));
        Some(Self { device: Device::Virtual(vm, module), file: file.map_or("", |m| m.name) })
    }

    /// The virtual machine for counting only, detectors off; `None`, aloud, on a GPU.
    pub fn counting(name: &str) -> Option<Self> {
        if real_device().is_some() {
            eprintln!("SKIP: a GPU counts nothing");
            return None;
        }
        let mut gpu = Self::new(name, 0)?;
        if let Device::Virtual(vm, _) = &mut gpu.device {
            vm.config_mut().detect = Detect::NONE;
        }
        Some(gpu)
    }

    fn upload(&mut self, bytes: &[u8]) -> u64 {
        let at = self.fresh(bytes.len());
        match &mut self.device {
            Device::Virtual(vm, _) => vm.write(at, bytes).unwrap(),
            Device::Real { driver, .. } => driver.get_mut().write(at, bytes, Stream::MAIN).unwrap(),
        }
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
        match &mut self.device {
            Device::Virtual(vm, _) => vm.alloc(bytes.max(1) as u64).unwrap(),
            Device::Real { driver, taken } => {
                taken.push(driver.get_mut().alloc(bytes).unwrap_or_else(|e| panic!("{e}")));
                taken[taken.len() - 1]
            }
        }
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
        match &mut self.device {
            Device::Virtual(vm, module) => {
                vm.launch(module, kernel, grid, block, shared, args.bytes()).unwrap_or_else(|f| panic!("{f}"))
            }
            Device::Real { driver, .. } => {
                // Few and short: names live as long as the process.
                let kernel: &'static str = kernel.to_owned().leak();
                let args = args.bytes().iter().fold(launch::Args::new(), |args, &byte| args.with(byte));
                let (grid, threads) = (grid.into().0, block.into().0.iter().product());
                let l = Launch { shared, ..Launch::new(self.file, kernel, grid, threads, args) };
                let driver = driver.get_mut();
                let done = driver.launch(&l, Stream::MAIN).and_then(|()| driver.synchronize(Stream::MAIN));
                done.unwrap_or_else(|e| panic!("{kernel}: {e}"));
                Counters::default()
            }
        }
    }

    /// Runs a launch of the backend, of whatever file.
    #[track_caller]
    pub fn run(&mut self, l: &Launch) -> Counters {
        match &mut self.device {
            Device::Virtual(vm, _) => {
                let module = module(l.file).expect("there are kernels: the caller has a Gpu");
                let done = vm.launch(&module, l.kernel, l.grid, l.threads, l.shared, l.args.bytes());
                done.unwrap_or_else(|f| panic!("{f}"))
            }
            Device::Real { driver, .. } => {
                let driver = driver.get_mut();
                let file = MODULES.iter().find(|m| m.name == l.file).expect("the backend's kernels are there");
                let done = driver.load(file).and_then(|()| driver.launch(l, Stream::MAIN));
                done.and_then(|()| driver.synchronize(Stream::MAIN)).unwrap_or_else(|e| panic!("{}: {e}", l.kernel));
                Counters::default()
            }
        }
    }

    /// Bytes of the device; all must have been written.
    #[track_caller]
    pub fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut raw = vec![0; bytes];
        match &self.device {
            Device::Virtual(vm, _) => {
                assert!(vm.written(at, bytes as u64).unwrap(), "not every byte of the output was written");
                vm.read(at, &mut raw).unwrap();
            }
            Device::Real { driver, .. } => driver.borrow_mut().read(at, &mut raw, Stream::MAIN).unwrap(),
        }
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
