//! Devices that a plan can be made for without having them.

use super::Speed;

/// A device the planner knows by name: published figures, not measurements.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Name on the command line.
    pub name: &'static str,
    /// Streaming multiprocessors.
    pub sms: usize,
    /// Memory that a process can have, bytes.
    pub memory: u64,
    /// Dense bf16 peak (with mma.sync on Hopper), memory bandwidth, and that of the PCIe link (16 lanes).
    pub speed: Speed,
}

const GIB: u64 = 1 << 30;

/// A whole A100 of 108 multiprocessors, by its data sheet.
const A100: Speed = Speed { flops: 312e12, bandwidth: 2.0e12, bus: 31.5e9 };

/// Known devices. bf16 peaks: NVIDIA's data sheets, scaled by SM count for slices; on Hopper about 62 % of it, which is
/// what mma.sync reaches.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "a100-2g.20gb",
        sms: 28,
        memory: 39 * GIB / 2,
        speed: Speed { flops: 80.9e12, bandwidth: 500e9, bus: 31.5e9 },
    },
    Profile {
        name: "a100-3g.20gb",
        sms: 42,
        memory: 39 * GIB / 2,
        speed: Speed { flops: 121.3e12, bandwidth: 780e9, bus: 31.5e9 },
    },
    Profile { name: "a100-80gb", sms: 108, memory: 79 * GIB, speed: A100 },
    Profile { name: "h100", sms: 132, memory: 78 * GIB, speed: Speed { flops: 613e12, bandwidth: 3.35e12, bus: 63e9 } },
    Profile { name: "h200", sms: 132, memory: 139 * GIB, speed: Speed { flops: 613e12, bandwidth: 4.8e12, bus: 63e9 } },
    Profile {
        name: "rtx3080-10gb",
        sms: 68,
        memory: 19 * GIB / 2,
        speed: Speed { flops: 59.5e12, bandwidth: 760e9, bus: 31.5e9 },
    },
];

/// The profile called `name`.
pub fn profile(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|p| p.name == name)
}

/// The speed of so many multiprocessors of an A100, by its data sheet.
pub fn speed_of_an_a100(sms: u32) -> Speed {
    let part = f64::from(sms) / 108.0;
    Speed { flops: A100.flops * part, bandwidth: A100.bandwidth * part, ..A100 }
}

/// Reserved outside the arena on CUDA: driver context and modules. An estimate until a device says otherwise.
pub const CUDA_CONTEXT: u64 = 450 << 20;

/// Bytes of memory that this machine has free for a process: what the kernel calls available, and no more than a
/// control group allows. `None` where neither can be read.
pub fn available_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    });
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max").map(|max| {
        let used = number("/sys/fs/cgroup/memory.current").unwrap_or(0);
        max.saturating_sub(used)
    });
    match (meminfo, group) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Peak resident memory of this process in bytes (`VmHWM`), where the system tells.
pub fn peak_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
