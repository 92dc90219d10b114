//! `irori doctor`: what this machine is, and whether irori computes right on it.

use super::common::DeviceArgs;
use crate::{
    Error, Result,
    backend::{
        cpu,
        cuda::{
            modules,
            probe::{Probe, probe},
        },
    },
    model::selftest,
    plan::device,
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
    matrix_product_gflops: f64,
    cuda: Probe,
    cuda_kernel_files: usize,
    self_test: String,
    verdict: String,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let cuda = probe();
    let self_test = DeviceArgs::default().backend().and_then(selftest::run);
    let findings = Findings {
        version: env!("CARGO_PKG_VERSION"),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        instruction_sets: instruction_sets(),
        available_memory_bytes: device::available_memory(),
        matrix_product_gflops: cpu::measure_gflops(),
        cuda_kernel_files: modules::MODULES.len(),
        verdict: verdict(&cuda, self_test.is_ok()),
        self_test: self_test.as_ref().map_or_else(Error::to_string, |()| "passed".into()),
        cuda,
    };
    let text = if args.json {
        serde_json::to_string_pretty(&findings).map_err(|e| Error::failed(e.to_string()))? + "\n"
    } else {
        describe(&findings)
    };
    super::print(&text)?;
    self_test
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

fn verdict(cuda: &Probe, healthy: bool) -> String {
    if !healthy {
        return "irori computes wrong results on this machine: do not train here, and please report it".into();
    }
    match cuda {
        Probe::NoDriver => "irori runs on the CPU here: libcuda, NVIDIA's driver, is not on this machine".into(),
        Probe::DriverFailed { call, code } => {
            format!("irori runs on the CPU here: the NVIDIA driver is installed, but {call} failed with code {code}")
        }
        Probe::Driver { devices, .. } if devices.is_empty() => {
            "irori runs on the CPU here: the NVIDIA driver shows no device (check CUDA_VISIBLE_DEVICES)".into()
        }
        Probe::Driver { .. } => {
            "irori runs on the CPU here: there is a GPU, and training on it is not built into this version yet".into()
        }
    }
}

fn describe(f: &Findings) -> String {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let sets = if f.instruction_sets.is_empty() { "baseline".into() } else { f.instruction_sets.join(", ") };
    let mut t = format!("irori {}\n", f.version);
    let _ = writeln!(t, "  processor       {} threads, {sets}", f.threads);
    let _ = writeln!(t, "  matrix product  {:.0} GFLOP/s in f32", f.matrix_product_gflops);
    if let Some(bytes) = f.available_memory_bytes {
        let _ = writeln!(t, "  memory          {:.1} GiB available", gib(bytes));
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
            }
        }
    }
    let _ = writeln!(t, "  CUDA kernels    {} files compiled in", f.cuda_kernel_files);
    let _ = writeln!(t, "  self-test       {}", f.self_test);
    let _ = writeln!(t, "{}", f.verdict);
    t
}
