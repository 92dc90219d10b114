//! What the outside sees: modules, the machine with its memory, launches.

use crate::count::Counters;
use crate::decode::{self, inst::Code};
use crate::detect::Detect;
use crate::error::{Error, Fault, FaultKind};
use crate::exec::{self, Machine};
use crate::memory::Global;
use crate::parse::{self, ast::Space, ast::Var};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A parsed and decoded PTX text. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Module(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: u64,
    text: String,
    version: String,
    target: String,
    vars: Vec<Var>,
    kernels: Vec<Code>,
    files: HashMap<u32, String>,
}

/// What is known about a kernel before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelInfo {
    /// Its name as in the PTX.
    pub name: String,
    /// Bytes of statically declared shared memory.
    pub static_shared: u32,
    /// Bytes of local memory per thread that the PTX declares. (Spills are ptxas' doing and unknown here.)
    pub local: u32,
    /// Bytes of all parameters with their padding.
    pub param_bytes: u32,
    /// Offset, size and alignment of each parameter.
    pub params: Vec<(u32, u32, u32)>,
    /// `.maxntid` (`__launch_bounds__`): threads of a block at most.
    pub max_threads: Option<u32>,
    /// `.minnctapersm`.
    pub min_blocks_per_sm: Option<u32>,
    /// Instructions in the PTX.
    pub instructions: usize,
}

impl Module {
    /// Parses and decodes a PTX text. An instruction that the machine does not know is an error here, not at run time.
    ///
    /// ```
    /// let e = ptxvm::Module::parse(".version 8.0\n.target sm_80\n.address_size 64\n.entry k() { frob.u32 1; }");
    /// assert!(e.unwrap_err().to_string().contains("PTX line 4"));
    /// ```
    pub fn parse(text: &str) -> Result<Module, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if text.len() > u32::MAX as usize {
            return Err(Error::new(0, "a PTX text of more than 4 GiB"));
        }
        let file = parse::parse(text)?;
        let kernels =
            file.entries.iter().map(|e| decode::kernel(text, e, &file.vars)).collect::<Result<Vec<_>, _>>()?;
        Ok(Module(Arc::new(Inner {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            text: text.to_string(),
            version: file.version,
            target: file.target,
            vars: file.vars,
            kernels,
            files: file.files,
        })))
    }

    /// `.version`, as in "8.0".
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// `.target`, as in "sm_80".
    pub fn target(&self) -> &str {
        &self.0.target
    }

    /// Names of the kernels, in the order of the text.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.0.kernels.iter().map(|k| k.name.as_str())
    }

    fn code(&self, name: &str) -> Option<&Code> {
        self.0.kernels.iter().find(|k| k.name == name)
    }

    /// Attributes of a kernel.
    pub fn kernel(&self, name: &str) -> Option<KernelInfo> {
        let c = self.code(name)?;
        Some(KernelInfo {
            name: c.name.clone(),
            static_shared: c.static_shared,
            local: c.local_bytes,
            param_bytes: c.param_bytes,
            params: c.params.iter().map(|p| (p.offset, p.size, p.align)).collect(),
            max_threads: c.max_threads.or(c.required_threads).map(|t| t.iter().fold(1u32, |n, d| n.saturating_mul(*d))),
            min_blocks_per_sm: c.min_blocks,
            instructions: c.insts.len(),
        })
    }
}

/// Settings of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Host threads that run blocks; 0: as many as the host has.
    pub threads: usize,
    /// Seed of the order of blocks and warps. One seed and one host thread: one exact execution.
    pub seed: u64,
    /// Which mistakes to look for.
    pub detect: Detect,
    /// Count sectors and wavefronts (instructions are always counted).
    pub count_memory: bool,
    /// Instructions that one warp may issue before the launch is given up as hanging.
    pub budget: u64,
    /// Warp instructions between two switches of warps, on average.
    pub quantum: u32,
    /// Bytes of shared memory that a block may have.
    pub max_shared: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            threads: 0,
            seed: 0,
            detect: Detect::ALL,
            count_memory: true,
            budget: 200_000_000,
            quantum: 100,
            max_shared: 227 << 10,
        }
    }
}

/// Sizes of a grid or a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dim(pub [u32; 3]);

impl From<u32> for Dim {
    fn from(x: u32) -> Dim {
        Dim([x, 1, 1])
    }
}

impl From<(u32, u32)> for Dim {
    fn from((x, y): (u32, u32)) -> Dim {
        Dim([x, y, 1])
    }
}

impl From<(u32, u32, u32)> for Dim {
    fn from((x, y, z): (u32, u32, u32)) -> Dim {
        Dim([x, y, z])
    }
}

impl From<[u32; 3]> for Dim {
    fn from(d: [u32; 3]) -> Dim {
        Dim(d)
    }
}

/// Builds a kernel's parameter bytes: each value at the next multiple of its alignment, as CUDA lays them out.
///
/// ```
/// let args = ptxvm::Args::new().u32(1).u64(2);
/// assert_eq!(args.bytes().len(), 16);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args(Vec<u8>);

impl Args {
    /// No parameters yet.
    pub fn new() -> Args {
        Args::default()
    }

    /// Appends raw bytes at a multiple of `align` (a struct parameter, say).
    pub fn raw(mut self, align: usize, bytes: &[u8]) -> Args {
        self.0.resize(self.0.len().next_multiple_of(align.max(1)), 0);
        self.0.extend_from_slice(bytes);
        self
    }

    /// A device pointer or other 64-bit integer.
    pub fn u64(self, v: u64) -> Args {
        self.raw(8, &v.to_le_bytes())
    }

    /// A signed 64-bit integer.
    pub fn i64(self, v: i64) -> Args {
        self.raw(8, &v.to_le_bytes())
    }

    /// A 32-bit integer.
    pub fn u32(self, v: u32) -> Args {
        self.raw(4, &v.to_le_bytes())
    }

    /// A signed 32-bit integer.
    pub fn i32(self, v: i32) -> Args {
        self.raw(4, &v.to_le_bytes())
    }

    /// A single-precision number.
    pub fn f32(self, v: f32) -> Args {
        self.raw(4, &v.to_le_bytes())
    }

    /// A double-precision number.
    pub fn f64(self, v: f64) -> Args {
        self.raw(8, &v.to_le_bytes())
    }

    /// The bytes for [`Vm::launch`].
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The machine: device memory, loaded modules, launches.
///
/// Everything is synchronous: a launch has finished when [`Vm::launch`] returns.
///
/// ```
/// use ptxvm::{Args, Config, Module, Vm};
/// let module = Module::parse(
///     ".version 8.0
///      .target sm_80
///      .address_size 64
///      .visible .entry double_it(.param .u64 x) {
///          .reg .b32 %r<3>;
///          .reg .b64 %rd<4>;
///          ld.param.u64 %rd1, [x];
///          mov.u32 %r1, %tid.x;
///          mul.wide.u32 %rd2, %r1, 4;
///          add.s64 %rd3, %rd1, %rd2;
///          ld.global.u32 %r2, [%rd3];
///          shl.b32 %r2, %r2, 1;
///          st.global.u32 [%rd3], %r2;
///          ret;
///      }",
/// )?;
/// let mut vm = Vm::new(Config::default());
/// let x = vm.alloc(64 * 4)?;
/// vm.write(x, &7u32.to_le_bytes().repeat(64))?;
/// let counters = vm.launch(&module, "double_it", 1, 64, 0, Args::new().u64(x).bytes())?;
/// let mut out = [0; 4];
/// vm.read(x + 252, &mut out)?;
/// assert_eq!(u32::from_le_bytes(out), 14);
/// assert_eq!(counters.global_load_sectors, 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Vm {
    config: Config,
    global: Global,
    /// Addresses of each loaded module's variables.
    modules: HashMap<u64, Vec<u64>>,
    fast: bool,
}

impl Vm {
    /// A machine without any memory allocated.
    pub fn new(config: Config) -> Vm {
        Vm { config, global: Global::default(), modules: HashMap::new(), fast: exec::has_fast_vectors() }
    }

    /// The settings; changes hold from the next launch on.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Allocates `bytes` of global memory, aligned to 512; its content counts as never written. Addresses are not
    /// reused after [`Vm::free`].
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, Error> {
        self.global.alloc(bytes, false)
    }

    /// Frees an allocation by its first address.
    pub fn free(&mut self, address: u64) -> Result<(), Error> {
        self.global.free(address)
    }

    /// Copies host bytes to the device.
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), Error> {
        self.global.write(address, data)
    }

    /// Copies device bytes to the host. Bytes never written read as 0xff; see [`Vm::written`].
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Error> {
        self.global.read(address, out)
    }

    /// Sets bytes.
    pub fn fill(&mut self, address: u64, value: u8, len: u64) -> Result<(), Error> {
        self.global.fill(address, value, len)
    }

    /// Copies within the device; bytes never written stay so in the copy.
    pub fn copy(&mut self, to: u64, from: u64, len: u64) -> Result<(), Error> {
        self.global.copy(to, from, len)
    }

    /// Whether host or kernels have written every byte of a range.
    pub fn written(&self, address: u64, len: u64) -> Result<bool, Error> {
        self.global.written(address, len)
    }

    /// Gives the module's `.global` and `.const` variables their memory. [`Vm::launch`] does it when needed.
    pub fn load(&mut self, module: &Module) -> Result<(), Error> {
        if self.modules.contains_key(&module.0.id) {
            return Ok(());
        }
        let mut addresses = Vec::new();
        for v in &module.0.vars {
            if v.space == Space::Shared {
                addresses.push(0);
                continue;
            }
            let at = self.global.alloc(v.size, v.space == Space::Const)?;
            self.global.fill(at, 0, v.size)?;
            self.global.write(at, v.init.as_deref().unwrap_or(&[]))?;
            addresses.push(at);
        }
        self.modules.insert(module.0.id, addresses);
        Ok(())
    }

    /// Address and size of a module's `.global` or `.const` variable; loads the module if it is not.
    pub fn variable(&mut self, module: &Module, name: &str) -> Result<(u64, u64), Error> {
        self.load(module)?;
        let addresses = &self.modules[&module.0.id];
        match module.0.vars.iter().position(|v| v.name == name && v.space != Space::Shared) {
            Some(i) => Ok((addresses[i], module.0.vars[i].size)),
            None => Err(Error::new(0, format!("the module has no variable {name}"))),
        }
    }

    /// Runs a kernel to its end: `grid` blocks of `block` threads, `dynamic_shared` bytes of `extern .shared` memory,
    /// `params` as [`Args`] lays them out. Gives what it cost, or the first fault found.
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &str,
        grid: impl Into<Dim>,
        block: impl Into<Dim>,
        dynamic_shared: u32,
        params: &[u8],
    ) -> Result<Counters, Box<Fault>> {
        let (Dim(grid), Dim(block)) = (grid.into(), block.into());
        let refuse = |what: String| {
            Box::new(Fault {
                kind: FaultKind::Launch,
                what,
                kernel: kernel.to_string(),
                line: 0,
                text: String::new(),
                source: None,
                block: [0; 3],
                thread: None,
                address: None,
            })
        };
        let Some(code) = module.code(kernel) else {
            return Err(refuse(format!("the module has no kernel {kernel}")));
        };
        self.load(module).map_err(|e| refuse(e.to_string()))?;
        let threads: u64 = block.iter().map(|n| *n as u64).product();
        if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
            return Err(refuse(format!("a grid of {grid:?} blocks")));
        }
        if grid.iter().map(|n| *n as u64).product::<u64>() > u32::MAX as u64 {
            return Err(refuse(format!("a grid of {grid:?} blocks: too many for this machine")));
        }
        if threads == 0 || threads > 1024 || block[2] > 64 {
            return Err(refuse(format!("a block of {block:?} threads")));
        }
        if let Some(max) = code.max_threads
            && threads > max.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64))
        {
            return Err(refuse(format!(
                "a block of {block:?} threads, but the kernel is compiled for {max:?} at most"
            )));
        }
        if code.required_threads.is_some_and(|r| r != block) {
            return Err(refuse(format!(
                "a block of {block:?} threads, but the kernel wants {:?}",
                code.required_threads
            )));
        }
        let shared = code.static_shared as u64 + dynamic_shared as u64;
        if shared > self.config.max_shared as u64 {
            return Err(refuse(format!("{shared} bytes of shared memory, {} allowed", self.config.max_shared)));
        }
        if params.len() != code.param_bytes as usize {
            return Err(refuse(format!("{} bytes of parameters, the kernel has {}", params.len(), code.param_bytes)));
        }
        self.global.new_launch();
        let config = &self.config;
        let machine = Machine {
            code,
            text: &module.0.text,
            files: &module.0.files,
            global: &self.global,
            vars: &self.modules[&module.0.id],
            grid,
            block,
            dynamic_shared,
            params,
            detect: config.detect,
            seed: config.seed,
            fast: self.fast,
            budget: config.budget,
            count_memory: config.count_memory,
            quantum: config.quantum.clamp(1, 1 << 30),
        };
        let host = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        exec::launch::run(&machine, host)
    }
}
