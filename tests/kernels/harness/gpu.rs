//! The kernels: on the virtual machine with all detectors on, or on a GPU.

use super::{Device, SLICE};
use irori::backend::{
    Buffer, DType, Kind, Layout, Op, Properties,
    check::{Extent, check},
    cuda::{
        CudaProperties, Nf4Path,
        command::Command,
        context::{Chip, Context},
        driver::{CudaDriver, Driver},
        launch::{Address, Launch},
        launches,
        modules::MODULES,
    },
};
use ptxvm::{Config, Counters, Detect, Module, Vm};
use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock},
};

/// Kernel file `name`, decoded once. `None`, aloud, in a build without kernels.
pub fn module(name: &str) -> Option<Module> {
    static DECODED: OnceLock<Mutex<HashMap<String, Module>>> = OnceLock::new();
    if !there_are_kernels() {
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

/// Whether the build has kernels; says so, aloud, if it has none.
pub fn there_are_kernels() -> bool {
    if MODULES.is_empty() {
        eprintln!("SKIP: this build has no kernels (no nvcc was found)");
    }
    !MODULES.is_empty()
}

/// The nvcc that made the kernels, as it says at the top of its PTX: counts, and the last bits of results, depend on it.
pub fn compiler() -> &'static str {
    let ptx = MODULES.first().map_or("", |m| m.ptx);
    ptx.lines().find_map(|l| l.split_once("release ")).map_or("unknown", |(_, release)| release.trim())
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

/// A device whose buffers are allocations of their own: on the virtual machine, an access beside one is a fault.
pub struct Gpu {
    machine: Machine,
    chip: Chip,
    layout: Layout,
    /// Each buffer with its address.
    buffers: Vec<(Buffer, Address)>,
}

enum Machine {
    Virtual(Box<Vm>),
    Real(Box<CudaDriver>),
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if let Machine::Real(driver) = &mut self.machine {
            let _ = driver.synchronize();
            self.buffers.iter().for_each(|&(_, at)| drop(driver.free(at)));
        }
    }
}

impl Gpu {
    /// The device under schedule `seed`; `None` if the build has no kernels.
    pub fn new(seed: u64) -> Option<Self> {
        if !there_are_kernels() {
            return None;
        }
        let (machine, chip) = match real_device() {
            Some(number) => {
                let driver = open_real(number);
                let a = driver.attributes();
                let chip = Chip { sms: a.sms, shared_per_block: a.shared_per_block, shared_per_sm: a.shared_per_sm };
                (Machine::Real(Box::new(driver)), chip)
            }
            None => {
                let vm = Vm::new(Config { seed, threads: 2, ..Config::default() });
                (Machine::Virtual(Box::new(vm)), SLICE)
            }
        };
        Some(Self { machine, chip, layout: Layout::new(), buffers: Vec::new() })
    }

    /// The virtual machine for counting only, detectors off; `None`, aloud, on a GPU.
    pub fn counting() -> Option<Self> {
        if real_device().is_some() {
            eprintln!("SKIP: a GPU counts nothing");
            return None;
        }
        let mut gpu = Self::new(0)?;
        if let Machine::Virtual(vm) = &mut gpu.machine {
            vm.config_mut().detect = Detect::NONE;
        }
        Some(gpu)
    }

    /// Address of a buffer, or of a part of one.
    pub fn address(&self, b: Buffer) -> Address {
        let holds = |(whole, _): &&(Buffer, Address)| {
            let (whole, part) = (whole.range(), b.range());
            whole.start <= part.start && part.end <= whole.end
        };
        let (whole, at) = self.buffers.iter().find(holds).unwrap_or_else(|| panic!("{b:?} is not of this device"));
        at + (b.offset() - whole.offset()) as u64
    }

    /// What launches are made from here.
    pub fn with_context<T>(&self, scratch: Buffer, f: impl FnOnce(&Context) -> T) -> T {
        f(&Context { chip: self.chip, address: &|b| self.address(b), scratch, nf4: Nf4Path::Fused })
    }

    /// The commands of an operation, with as much scratch as the backend's properties say.
    #[track_caller]
    fn commands<'a>(&mut self, op: &'a Op<'a>) -> Vec<Command<'a>> {
        let scratch = self.out(DType::U8, CudaProperties::FUSED.scratch(op));
        let (device, host) = (self.layout.bytes(), self.layout.host_bytes());
        let checked = check(op, DType::Bf16, &Extent { device, host, scratch: scratch.range() });
        let commands = checked.and_then(|op| self.with_context(scratch, |at| launches::of(&op, at)));
        commands.unwrap_or_else(|e| panic!("{e}"))
    }

    /// The launches of an operation, not run.
    #[track_caller]
    pub fn launches(&mut self, op: &Op) -> Vec<Launch> {
        let launch = |c| if let Command::Launch(l) = c { Some(l) } else { None };
        self.commands(op).into_iter().filter_map(launch).collect()
    }

    /// Runs one launch.
    #[track_caller]
    pub fn launch(&mut self, l: &Launch) -> Counters {
        match &mut self.machine {
            Machine::Virtual(vm) => {
                let module = module(l.file).expect("there are kernels: there is a Gpu");
                let done = vm.launch(&module, l.kernel, l.grid, l.threads, l.shared, l.args.bytes());
                done.unwrap_or_else(|fault| panic!("{fault}"))
            }
            Machine::Real(driver) => {
                let file = MODULES.iter().find(|m| m.name == l.file).expect("the backend's kernels are there");
                let done = driver.load(file).and_then(|()| driver.launch(l)).and_then(|()| driver.synchronize());
                done.unwrap_or_else(|e| panic!("{}: {e}", l.kernel));
                Counters::default()
            }
        }
    }

    /// Runs a command; says what it cost if it is a launch of any blocks.
    #[track_caller]
    fn command(&mut self, command: &Command) -> Option<Counters> {
        match command {
            Command::Launch(l) => return (!l.is_empty()).then(|| self.launch(l)),
            Command::Upload { dst, data } => data.with(|bytes| self.write(*dst, bytes)),
            &Command::Zero { dst, bytes } => match &mut self.machine {
                Machine::Virtual(vm) => vm.fill(dst, 0, bytes as u64).unwrap(),
                Machine::Real(driver) => driver.zero(dst, bytes).unwrap(),
            },
            &Command::Copy { src, dst, bytes } => match &mut self.machine {
                Machine::Virtual(vm) => vm.copy(dst, src, bytes as u64).unwrap(),
                Machine::Real(driver) => driver.copy(src, dst, bytes).unwrap(),
            },
        }
        None
    }

    fn write(&mut self, at: Address, bytes: &[u8]) {
        match &mut self.machine {
            Machine::Virtual(vm) => vm.write(at, bytes).unwrap(),
            Machine::Real(driver) => driver.write(at, bytes).unwrap(),
        }
    }
}

impl Device for Gpu {
    const ACT: DType = DType::Bf16;

    fn upload(&mut self, dtype: DType, bytes: &[u8]) -> Buffer {
        let b = self.out(dtype, bytes.len() / dtype.size());
        self.write(self.address(b), bytes);
        b
    }

    fn out(&mut self, dtype: DType, len: usize) -> Buffer {
        // At least one byte, so that every buffer has a place of its own.
        let whole = self.layout.take(Kind::Workspace, dtype, len.max(1));
        let at = match &mut self.machine {
            Machine::Virtual(vm) => vm.alloc((len * dtype.size()).max(1) as u64).unwrap(),
            Machine::Real(driver) => driver.alloc(len * dtype.size()).unwrap_or_else(|e| panic!("{e}")),
        };
        let b = whole.prefix(len);
        self.buffers.push((b, at));
        b
    }

    fn run<'a>(&mut self, op: impl Into<Op<'a>>) -> Vec<Counters> {
        let op = op.into();
        let commands = self.commands(&op);
        commands.iter().filter_map(|c| self.command(c)).collect()
    }

    fn bytes_of(&mut self, b: Buffer) -> Vec<u8> {
        let (at, mut raw) = (self.address(b), vec![0; b.bytes()]);
        match &mut self.machine {
            Machine::Virtual(vm) => {
                assert!(vm.written(at, b.bytes() as u64).unwrap(), "not every byte of the output was written");
                vm.read(at, &mut raw).unwrap();
            }
            Machine::Real(driver) => driver.read(at, &mut raw).unwrap(),
        }
        raw
    }
}
