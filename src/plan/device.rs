//! Memory and speed of the devices that a plan is made for: GPUs known by name, and what a run may take of one.

use super::Speed;

/// A GPU that the planner knows by name: published figures, not measurements.
#[derive(Debug, Clone, Copy)]
pub struct GpuProfile {
    /// Name on the command line.
    pub name: &'static str,
    /// Streaming multiprocessors.
    pub sms: usize,
    /// Memory that a process can have, bytes.
    pub memory: u64,
    /// Dense bf16 peak (with mma.sync on Hopper), memory bandwidth, and that of the PCIe link (16 lanes).
    pub speed: Speed,
}

impl GpuProfile {
    /// The speed of so many of its multiprocessors, or of all: the memory and the bus stay what they are.
    pub fn speed_of(&self, sms: Option<u32>) -> Speed {
        let part = sms.map_or(1.0, |sms| (f64::from(sms) / self.sms as f64).min(1.0));
        Speed { flops: self.speed.flops * part, ..self.speed }
    }
}

const GIB: u64 = 1 << 30;

/// A whole A100 of 108 multiprocessors, by its data sheet.
const A100: Speed = Speed { flops: 312e12, bandwidth: 2.0e12, bus: 31.5e9 };

/// Known GPUs. bf16 peaks: NVIDIA's data sheets, scaled by SM count for slices; on Hopper about 62 % of it, which is
/// what mma.sync reaches.
pub const GPUS: &[GpuProfile] = &[
    GpuProfile {
        name: "a100-2g.20gb",
        sms: 28,
        memory: 39 * GIB / 2,
        speed: Speed { flops: 80.9e12, bandwidth: 500e9, bus: 31.5e9 },
    },
    GpuProfile {
        name: "a100-3g.20gb",
        sms: 42,
        memory: 39 * GIB / 2,
        speed: Speed { flops: 121.3e12, bandwidth: 780e9, bus: 31.5e9 },
    },
    GpuProfile { name: "a100-80gb", sms: 108, memory: 79 * GIB, speed: A100 },
    GpuProfile {
        name: "h100",
        sms: 132,
        memory: 78 * GIB,
        speed: Speed { flops: 613e12, bandwidth: 3.35e12, bus: 63e9 },
    },
    GpuProfile {
        name: "h200",
        sms: 132,
        memory: 139 * GIB,
        speed: Speed { flops: 613e12, bandwidth: 4.8e12, bus: 63e9 },
    },
    GpuProfile {
        name: "rtx3080-10gb",
        sms: 68,
        memory: 19 * GIB / 2,
        speed: Speed { flops: 59.5e12, bandwidth: 760e9, bus: 31.5e9 },
    },
];

/// The profile called `name`.
pub fn profile(name: &str) -> Option<&'static GpuProfile> {
    GPUS.iter().find(|p| p.name == name)
}

/// The speed of so many multiprocessors of an A100, by its data sheet.
pub fn speed_of_an_a100(sms: u32) -> Speed {
    let part = f64::from(sms) / 108.0;
    Speed { flops: A100.flops * part, bandwidth: A100.bandwidth * part, ..A100 }
}

/// Bytes that a process takes of a GPU before its arena: the driver's context and the kernels' code. An estimate.
pub const CUDA_CONTEXT: u64 = 450 << 20;

/// Bytes left free on a GPU beside the arena: what the driver takes for itself as a run goes on.
pub const CUDA_MARGIN: u64 = 128 << 20;

/// All that a run takes of a GPU beside its arena.
pub const CUDA_RESERVE: u64 = CUDA_CONTEXT + CUDA_MARGIN;

/// Where the memory of a run comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// A GPU that is open: bytes that are free beside this process's context.
    OpenGpu(u64),
    /// A GPU that need not be here: bytes that a process can have of it, context and all.
    KnownGpu(u64),
    /// The host's, where that can be read: bytes available to a process.
    Host(Option<u64>),
}

/// Bytes that the arena of a run may take; `None` where nothing says so. The one answer for the plan and for the run:
/// what there is, less what the driver takes beside the arena, or a tenth on the host; and no more than `limit`, which is
/// for all that the process takes on the device. A `limit` says how much memory a GPU that need not be here is to have.
pub fn arena_limit(memory: Memory, limit: Option<u64>) -> Option<u64> {
    let on_gpu = |bytes: u64| bytes.saturating_sub(CUDA_RESERVE);
    match memory {
        Memory::KnownGpu(bytes) => Some(on_gpu(limit.unwrap_or(bytes))),
        Memory::OpenGpu(free) => {
            let free = free.saturating_sub(CUDA_MARGIN);
            Some(limit.map_or(free, |limit| on_gpu(limit).min(free)))
        }
        Memory::Host(available) => limit.or_else(|| available.map(|bytes| bytes / 10 * 9)),
    }
}

/// Peak resident memory of this process in bytes (`VmHWM`), where the system tells.
pub fn peak_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_gpu_computes_slower_and_reads_as_fast() {
        let gpu = profile("a100-80gb").unwrap();
        let half = gpu.speed_of(Some(54));
        assert_eq!((half.flops, half.bandwidth), (gpu.speed.flops / 2.0, gpu.speed.bandwidth));
        assert_eq!((gpu.speed_of(None), gpu.speed_of(Some(1000))), (gpu.speed, gpu.speed));
    }

    /// A slice that is here has as much room as the same slice by its name; a limit counts what the driver takes.
    #[test]
    fn the_plan_and_the_run_have_the_same_room() {
        let slice = 39 * GIB / 2;
        let by_name = arena_limit(Memory::KnownGpu(slice), None);
        assert_eq!(by_name, arena_limit(Memory::OpenGpu(slice - CUDA_CONTEXT), None));
        assert_eq!(by_name, arena_limit(Memory::OpenGpu(79 * GIB), Some(slice)));
        assert_eq!(by_name, Some(slice - CUDA_RESERVE));
        let asked_too_much = arena_limit(Memory::OpenGpu(slice - CUDA_CONTEXT), Some(30 * GIB));
        assert_eq!(asked_too_much, by_name);
        assert_eq!(arena_limit(Memory::KnownGpu(slice), Some(30 * GIB)), Some(30 * GIB - CUDA_RESERVE));
        assert_eq!(arena_limit(Memory::OpenGpu(GIB), Some(1)), Some(0));
        assert_eq!(arena_limit(Memory::Host(Some(100)), None), Some(90));
        assert_eq!(arena_limit(Memory::Host(Some(100)), Some(200)), Some(200));
        assert_eq!(arena_limit(Memory::Host(None), None), None);
    }
}
