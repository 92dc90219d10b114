//! Arguments and set-up that several commands share.

use crate::{
    Error, Result,
    backend::{
        Backend, DType, Sizes,
        cpu::CpuBackend,
        cuda::{
            self, CudaBackend, CudaSizes,
            driver::{
                CudaDriver,
                probe::{Probe, probe},
            },
        },
    },
    model::{
        Engine, LoraConfig,
        engine::{HeadStore, Residency},
        source::{
            Opened,
            packed::{self, Kept},
        },
    },
    plan::{self, Plan, Request, Speed, Unpack, device},
};

/// Parses a size such as `20GiB`, `9.5GiB`, `800MB` or a plain number of bytes (for clap's `value_parser`).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: f64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("unknown unit `{other}`: use B, KiB, MiB, GiB, KB, MB or GB")),
    };
    let value: f64 = digits.trim().parse().map_err(|_| format!("`{text}` is not a size; write 20GiB or 9.5GiB"))?;
    let bytes = value * unit;
    if bytes.is_finite() && (1.0..9e18).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err(format!("{text} is out of range"))
    }
}

/// Prints a line on standard error, where progress and warnings go.
pub fn note(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A destination that must not exist yet unless it is an empty directory: nothing the user made is overwritten.
pub fn ensure_new_dir(path: &std::path::Path) -> Result<()> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::usage(format!(
                "{} is not empty: choose a new directory, or remove it first",
                path.display()
            ))),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => crate::files::create_dirs(path),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// A GPU if there is one that irori can use, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// GPU number N.
    Cuda(u32),
}

/// Parses `auto`, `cpu`, `cuda` or `cuda:N` (for clap's `value_parser`).
pub fn parse_device(text: &str) -> Result<Device, String> {
    match text {
        "auto" => Ok(Device::Auto),
        "cpu" => Ok(Device::Cpu),
        "cuda" => Ok(Device::Cuda(0)),
        _ => text
            .strip_prefix("cuda:")
            .and_then(|n| n.parse().ok())
            .map(Device::Cuda)
            .ok_or_else(|| format!("`{text}` is not a device; use auto, cpu, cuda or cuda:N")),
    }
}

/// Whether the quantised linears are kept in a file beside the model, for the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum PackedCache {
    /// For models large enough that it saves time
    #[default]
    Auto,
    /// Neither read nor written
    Never,
    /// For every model
    Always,
}

/// Parameters from which on a packed cache saves time.
const CACHE_FROM: usize = 400_000_000;

/// What the model is run on; the same flags for every command that runs one.
#[derive(Debug, Clone, clap::Args)]
pub struct DeviceArgs {
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, value_parser = parse_device, default_value = "auto")]
    pub device: Device,
    /// Memory the run may take, such as 20GiB [default: what is free]
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_limit: Option<u64>,
    /// Run on N multiprocessors of a GPU at most, to study a slice on a larger card
    #[arg(long, value_name = "N")]
    pub sm_limit: Option<u32>,
    /// Keep the quantised weights beside the model, for the next start
    #[arg(long, value_enum, default_value_t = PackedCache::Auto)]
    pub packed_cache: PackedCache,
    /// CPU threads [default: all]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

impl Default for DeviceArgs {
    fn default() -> Self {
        Self {
            device: Device::Auto,
            memory_limit: None,
            sm_limit: None,
            packed_cache: PackedCache::Auto,
            threads: None,
        }
    }
}

/// A device that is ready for work, and what the planner must know of it.
pub struct OpenDevice {
    /// The backend; its arena is not taken yet.
    pub backend: Box<dyn Backend>,
    /// How fast it is: measured or, on a GPU that was opened by [`DeviceArgs::open_unmeasured`], reckoned.
    pub speed: Speed,
    /// Bytes that the arena may take.
    pub limit: Option<u64>,
    /// Whether quantised weights are kept.
    pub packed_cache: PackedCache,
}

/// Left free on a GPU beside the arena: what the driver takes for itself as a run goes on.
const CUDA_MARGIN: u64 = 128 << 20;

impl DeviceArgs {
    /// Opens the device and, if it is a GPU, measures it.
    ///
    /// # Errors
    /// If the device asked for is not there or does not work, or the number of threads is absurd.
    pub fn open(&self) -> Result<OpenDevice> {
        self.open_with(|backend| {
            let peaks = backend.measure()?;
            Ok(Speed { flops: peaks.flops, bandwidth: peaks.bandwidth, bus: peaks.bus })
        })
    }

    /// Opens the device without the second that measuring takes: for work whose plan does not turn on speed.
    ///
    /// # Errors
    /// As [`DeviceArgs::open`].
    pub fn open_unmeasured(&self) -> Result<OpenDevice> {
        self.open_with(|backend| Ok(device::speed_of_an_a100(backend.attributes().sms)))
    }

    fn open_with(&self, speed: impl Fn(&mut CudaBackend) -> Result<Speed>) -> Result<OpenDevice> {
        if self.threads.is_some_and(|n| n == 0 || n > 1024) {
            return Err(Error::usage("--threads must be from 1 to 1024"));
        }
        match self.device {
            Device::Auto => {
                // One that is there but does not work (busy, full, an old driver) is said, and the CPU does.
                for n in usable() {
                    match self.open_cuda(n, &speed) {
                        Ok(device) => return Ok(device),
                        Err(e) => note(&format!("cuda:{n} is not used: {e}")),
                    }
                }
                self.open_cpu()
            }
            Device::Cpu => self.open_cpu(),
            Device::Cuda(n) => self.open_cuda(n, &speed).map_err(|e| e.context(format!("--device cuda:{n}"))),
        }
    }

    fn open_cpu(&self) -> Result<OpenDevice> {
        if self.sm_limit.is_some() {
            return Err(Error::usage("--sm-limit is for a GPU, and this run computes on the CPU"));
        }
        Ok(OpenDevice {
            backend: Box::new(CpuBackend::new(self.threads)?),
            speed: CPU_SPEED,
            limit: self.memory_limit.or_else(|| device::available_memory().map(|b| b / 10 * 9)),
            packed_cache: self.packed_cache,
        })
    }

    fn open_cuda(&self, n: u32, speed: impl Fn(&mut CudaBackend) -> Result<Speed>) -> Result<OpenDevice> {
        let driver = CudaDriver::open_part(n, self.sm_limit)?;
        if driver.compiles_kernels() {
            note("the driver compiles the kernels for this GPU; it keeps them for the next time");
        }
        let mut backend = CudaBackend::new(Box::new(driver), CudaSizes::FUSED)?;
        let speed = speed(&mut backend)?;
        // The limit is for all that the process takes on the device; the driver's own part is in use already.
        let asked = self.memory_limit.map(|limit| limit.saturating_sub(device::CUDA_CONTEXT));
        let free = backend.free_memory()?.saturating_sub(CUDA_MARGIN);
        let limit = Some(asked.map_or(free, |asked| asked.min(free)));
        Ok(OpenDevice { backend: Box::new(backend), speed, limit, packed_cache: self.packed_cache })
    }
}

/// Numbers of the GPUs that the kernels are for.
fn usable() -> Vec<u32> {
    let devices = match probe() {
        Probe::Driver { devices, .. } if !cuda::modules::MODULES.is_empty() => devices,
        _ => Vec::new(),
    };
    (0..).zip(devices).filter(|(_, d)| d.capability >= 80).map(|(n, _)| n).collect()
}

/// Work that an engine is needed for.
#[derive(Debug, Clone)]
pub struct Job {
    /// The adapter's shape, if there is one.
    pub lora: Option<LoraConfig>,
    /// Whether it is trained.
    pub training: bool,
    /// Most rows of a micro-batch.
    pub rows: usize,
    /// Longest document.
    pub max_len: usize,
    /// False with --no-4bit.
    pub four_bit: bool,
    /// Type that quantised weights are rounded to: Bf16 or F32.
    pub compute: DType,
    /// How the head is held.
    pub head: HeadStore,
    /// Sequences generated at once; 0 without generation.
    pub kv_slots: usize,
    /// Most positions of a generated sequence.
    pub kv_capacity: usize,
    /// Whether NF4 weights may be held unpacked.
    pub unpack: Unpack,
}

impl Job {
    /// Inference over documents of up to `max_len` tokens, `rows` at a time, in NF4 with bf16 weights.
    pub fn inference(rows: usize, max_len: usize) -> Self {
        Self {
            lora: None,
            training: false,
            rows: rows.max(max_len),
            max_len,
            four_bit: true,
            compute: DType::Bf16,
            head: HeadStore::Dense,
            kv_slots: 0,
            kv_capacity: 0,
            unpack: Unpack::Never,
        }
    }

    /// What the planner is asked, for a backend of these sizes.
    pub fn request(&self, opened: &Opened, sizes: &dyn Sizes) -> Request {
        let gpu = sizes.own_memory();
        // Generation reads every weight for a few rows: packed ones are the quicker, however much room there is.
        let unpack = if gpu && self.kv_slots == 0 { Unpack::WhereItFits } else { self.unpack };
        Request {
            model: opened.source.config().clone(),
            lora: self.lora.clone(),
            training: self.training,
            rows: self.rows,
            max_len: self.max_len,
            logit_rows: if gpu { CUDA_LOGIT_ROWS } else { CPU_LOGIT_ROWS },
            four_bit: self.four_bit,
            compute: self.compute,
            dense: if gpu { DType::Bf16 } else { opened.source.dense_dtype() },
            head: self.head,
            kv_slots: self.kv_slots,
            kv_capacity: self.kv_capacity,
            unpack,
        }
    }
}

/// Rows of a logits chunk on the CPU: enough to share one pass over the head, few enough to stay small.
const CPU_LOGIT_ROWS: usize = 128;
/// Rows of a logits chunk on a GPU: the head's product fills the chip.
pub const CUDA_LOGIT_ROWS: usize = 512;

/// Speed that the planner assumes of a CPU when it orders its choices. They depend on the ratio only.
pub const CPU_SPEED: Speed = Speed { flops: 5e10, bandwidth: 1e10, bus: 1e10 };

/// Plans a job on a device.
///
/// # Errors
/// If it does not fit; the message names the nearest setting that does.
pub fn plan(opened: &Opened, job: &Job, device: &OpenDevice) -> Result<Plan> {
    let sizes = device.backend.sizes();
    plan::plan(&job.request(opened, sizes), sizes, &device.speed, device.limit)
}

/// Plans a job and loads the model for it. Where nothing is trained, speed decides next to nothing and is not measured.
///
/// # Errors
/// As [`plan()`] and [`load`].
pub fn engine(opened: &Opened, job: &Job, device: &DeviceArgs) -> Result<Engine> {
    let device = if job.training { device.open()? } else { device.open_unmeasured()? };
    let plan = plan(opened, job, &device)?;
    load(opened, plan, device)
}

/// Loads a model under a plan, with a progress bar on a terminal.
///
/// # Errors
/// If the memory cannot be had, or a weight is missing or malformed.
pub fn load(opened: &Opened, plan: Plan, device: OpenDevice) -> Result<Engine> {
    let bar = indicatif::ProgressBar::new(0).with_style(
        indicatif::ProgressStyle::with_template("loading {bar:30} {percent:>3}%  {elapsed}")
            .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()),
    );
    let mut progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let wanted = match device.packed_cache {
        PackedCache::Auto => plan.spec.model.parameters() >= CACHE_FROM,
        PackedCache::Never => false,
        PackedCache::Always => true,
    };
    let from_dense = !opened.source.is_quantized() && !plan.spec.residency.contains(&Residency::Dense);
    let dir = opened.dir.as_deref().filter(|_| wanted && from_dense);
    let Some(dir) = dir else {
        let engine = Engine::new(device.backend, plan.spec, opened.source.as_ref(), &mut progress);
        bar.finish_and_clear();
        return engine;
    };
    let mut cache = packed::Cache::open(opened.source.as_ref(), dir)?;
    let (source, sink) = cache.parts();
    let engine = Engine::keeping(device.backend, plan.spec, source, sink, &mut progress);
    bar.finish_and_clear();
    match cache.finish() {
        Kept::Read => {}
        Kept::Written(path, bytes) => note(&format!(
            "the packed weights are kept in {} ({:.1} MB) for the next start; --packed-cache never leaves that out",
            path.display(),
            bytes as f64 / 1e6
        )),
        Kept::Not(_) if engine.is_err() => {}
        Kept::Not(e) => note(&format!("the packed weights could not be kept beside the model: {e}")),
    }
    engine
}
