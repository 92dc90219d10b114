//! `irori doctor`: what this machine is, and whether irori computes right on it.

use super::errors::in_one_line;
use crate::{
    Error, Result,
    backend::{
        cpu,
        cpu::CpuBackend,
        cuda::{
            CudaBackend, CudaProperties,
            driver::{
                CudaDriver, hint,
                probe::{self, Probe, probe},
            },
            measure::Peaks,
            modules,
        },
    },
    model::selftest,
    plan::host,
};
use std::fmt::Write as _;

/// Arguments of `irori doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Findings {
    version: &'static str,
    threads: usize,
    instruction_sets: Vec<&'static str>,
    available_memory_bytes: Option<u64>,
    /// What allows no more: the machine, or a control group.
    available_memory_by: Option<String>,
    matrix_product_gflops: f64,
    cuda: Probe,
    cuda_kernel_files: usize,
    gpus: Vec<Gpu>,
    self_test: String,
    verdict: String,
}

/// What a GPU does; the probe says what it is.
#[derive(serde::Serialize)]
struct Gpu {
    free_memory_bytes: u64,
    /// A slice of a GPU: it has fewer multiprocessors and less memory than the card, and bandwidth in proportion.
    mig: bool,
    peaks: Option<Peaks>,
    self_test: String,
    healthy: bool,
    /// Whether it is new enough for the kernels.
    supported: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let cuda = probe();
    let memory = host::available();
    let self_test = CpuBackend::new(None).and_then(|cpu| selftest::run(Box::new(cpu)));
    let gpus = match &cuda {
        Probe::Driver { devices, .. } if !modules::MODULES.is_empty() => {
            devices.iter().enumerate().map(|(i, d)| examine(i as u32, d)).collect()
        }
        _ => Vec::new(),
    };
    let findings = Findings {
        version: env!("CARGO_PKG_VERSION"),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        instruction_sets: instruction_sets(),
        available_memory_bytes: memory.as_ref().map(|a| a.bytes),
        available_memory_by: memory.map(|a| a.by.to_string()),
        matrix_product_gflops: cpu::measure_gflops(),
        cuda_kernel_files: modules::MODULES.len(),
        verdict: verdict(&cuda, &gpus, self_test.is_ok()),
        gpus,
        self_test: self_test.as_ref().map_or_else(in_one_line, |()| "passed".into()),
        cuda,
    };
    let text = if args.json {
        serde_json::to_string_pretty(&findings).map_err(|e| Error::failed(e.to_string()))? + "\n"
    } else {
        describe(&findings)
    };
    super::print(&text)?;
    self_test?;
    // One that is too old for the kernels does not count as broken.
    match findings.gpus.iter().find(|g| !g.healthy && g.supported) {
        Some(gpu) => Err(Error::failed(format!("a GPU does not work: {}", gpu.self_test))),
        None => Ok(()),
    }
}

/// Opens a GPU, measures it and lets it compute.
fn examine(index: u32, device: &probe::Device) -> Gpu {
    let mut gpu = Gpu {
        free_memory_bytes: 0,
        mig: device.name.contains("MIG"),
        peaks: None,
        self_test: String::new(),
        healthy: false,
        supported: device.capability >= 80,
    };
    let mut run = || -> Result<()> {
        let mut backend = CudaBackend::new(Box::new(CudaDriver::open(index)?), CudaProperties::FUSED)?;
        gpu.free_memory_bytes = backend.free_memory()?;
        gpu.peaks = Some(backend.measure()?);
        selftest::run(Box::new(backend))
    };
    let result = run();
    gpu.healthy = result.is_ok();
    gpu.self_test = result.map_or_else(|e| in_one_line(&e), |()| "passed".into());
    gpu
}

fn instruction_sets() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let known = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("AVX-512F", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let known: [(&'static str, bool); 0] = [];
    known.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

fn verdict(cuda: &Probe, gpus: &[Gpu], healthy: bool) -> String {
    if !healthy {
        return "irori computes wrong results on this machine: do not train here, and please report it".into();
    }
    let on_cpu = |why: String| format!("irori runs on the CPU here: {why}");
    match cuda {
        Probe::NoDriver => on_cpu("libcuda, NVIDIA's driver, is not on this machine".into()),
        Probe::DriverFailed { call, code } => {
            let hint = hint(*code).map_or(String::new(), |h| format!(": {h}"));
            on_cpu(format!("the NVIDIA driver is installed, but {call} failed with code {code}{hint}"))
        }
        Probe::Driver { devices, .. } if devices.is_empty() => on_cpu(
            "the NVIDIA driver shows no device (CUDA_VISIBLE_DEVICES may be empty, or name a slice that is gone)"
                .into(),
        ),
        Probe::Driver { .. } if gpus.is_empty() => {
            on_cpu("there is a GPU, but this program was built without nvcc and has no kernels for it".into())
        }
        Probe::Driver { devices, .. } => match gpus.iter().position(|g| g.healthy) {
            Some(n) => format!(
                "irori trains on cuda:{n} here ({}{}); `irori plan` says what fits",
                devices[n].name,
                if gpus[n].mig { ", a MIG slice" } else { "" }
            ),
            None => on_cpu(format!("no GPU works: {}", gpus[0].self_test)),
        },
    }
}

fn describe(f: &Findings) -> String {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let sets = if f.instruction_sets.is_empty() { "baseline".into() } else { f.instruction_sets.join(", ") };
    let mut t = format!("irori {}\n", f.version);
    let _ = writeln!(t, "  processor       {} threads, {sets}", f.threads);
    let _ = writeln!(t, "  matrix product  {:.0} GFLOP/s in f32", f.matrix_product_gflops);
    if let (Some(bytes), Some(by)) = (f.available_memory_bytes, &f.available_memory_by) {
        let _ = writeln!(t, "  memory          {:.1} GiB available, left by {by}", gib(bytes));
    }
    match &f.cuda {
        Probe::NoDriver => t.push_str("  CUDA            no driver\n"),
        Probe::DriverFailed { call, code } => {
            let _ = writeln!(t, "  CUDA            {call} failed: CUresult {code}");
        }
        Probe::Driver { version, devices } => {
            let _ = writeln!(t, "  CUDA            driver for {}.{}", version / 1000, version % 1000 / 10);
            for (i, d) in devices.iter().enumerate() {
                let _ = writeln!(
                    t,
                    "  cuda:{i}          {}, sm_{}, {} SMs, {:.1} GiB",
                    d.name,
                    d.capability,
                    d.sms,
                    gib(d.memory)
                );
                let Some(gpu) = f.gpus.get(i) else { continue };
                let _ = writeln!(t, "                  {:.1} GiB free", gib(gpu.free_memory_bytes));
                if let Some(p) = gpu.peaks {
                    let _ = writeln!(
                        t,
                        "                  {:.1} TFLOP/s bf16 mma.sync, {:.0} GB/s memory, {:.1} GB/s from the host",
                        p.flops * 1e-12,
                        p.bandwidth * 1e-9,
                        p.bus * 1e-9
                    );
                }
                let _ = writeln!(t, "                  self-test {}", gpu.self_test);
            }
        }
    }
    let _ = writeln!(t, "  CUDA kernels    {} files compiled in", f.cuda_kernel_files);
    let _ = writeln!(t, "  self-test       {}", f.self_test);
    let _ = writeln!(t, "{}", f.verdict);
    t
}
