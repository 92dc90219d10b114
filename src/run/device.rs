//! The device that a run computes on, opened.

use super::Listener;
use crate::{
    Error, Result,
    backend::{
        Backend,
        cpu::CpuBackend,
        cuda::{
            self, CudaBackend, CudaProperties,
            driver::{
                CudaDriver,
                probe::{Probe, probe},
            },
        },
    },
    error::{ResultExt, Setting},
    plan::{
        Speed,
        device::{self, CUDA_RESERVE, Memory, arena_limit},
        host::{self, Available},
        settings::{CachePolicy, Device, Machine, Nf4Choice},
    },
    settings::Bytes,
};

/// Speed that the planner assumes of a CPU when it orders its choices. They depend on the ratio only.
const CPU_SPEED: Speed = Speed { flops: 5e10, bandwidth: 1e10, bus: 1e10 };

/// A device that is ready for work, and what the planner must know of it.
pub struct OpenDevice {
    /// The backend; its arena is not taken yet.
    pub backend: Box<dyn Backend>,
    /// How fast it is: measured or, on a GPU that was opened by [`open_unmeasured`], taken from data sheets.
    pub speed: Speed,
    /// Bytes that the arena may take.
    pub limit: Option<u64>,
    /// Bytes that it could take if no limit had been set.
    room: Option<u64>,
    /// What sets the limit, where it is the host's memory.
    by: Option<String>,
    /// Whether quantised weights are kept.
    pub cache: CachePolicy,
}

impl OpenDevice {
    fn new(backend: Box<dyn Backend>, speed: Speed, memory: Memory, machine: &Machine) -> Self {
        let limit = arena_limit(memory, machine.memory_limit.map(|bytes| bytes.0));
        Self { backend, speed, limit, room: arena_limit(memory, None), by: None, cache: machine.packed_cache }
    }

    /// One that computes in the host's memory, of which `host` is available.
    fn on_host(backend: Box<dyn Backend>, host: Option<Available>, machine: &Machine) -> Self {
        let device = Self::new(backend, CPU_SPEED, Memory::Host(host.as_ref().map(|a| a.bytes)), machine);
        let host = host.filter(|_| machine.memory_limit.is_none());
        Self { by: host.map(|a| format!("nine tenths of what is left by {}", a.by)), ..device }
    }

    /// [`advise_limit`] for this device, with what sets its limit.
    pub(super) fn advise(&self, e: Error) -> Error {
        match advise_limit(e, self.backend.properties().own_memory(), self.room) {
            Error::DoesNotFit { what, need, have, by: None, advice } => {
                Error::DoesNotFit { what, need, have, by: self.by.clone(), advice }
            }
            e => e,
        }
    }
}

/// The error of a run that does not fit, with the limit that would be enough where no other setting is, if there is `room`
/// for it on the device.
pub(super) fn advise_limit(e: Error, gpu: bool, room: Option<u64>) -> Error {
    match &e {
        Error::DoesNotFit { need, advice, .. } if advice.is_empty() && room.is_none_or(|room| *need <= room) => {
            let enough = Bytes::at_least(need + if gpu { CUDA_RESERVE } else { 0 });
            e.advise([Setting::new("memory-limit", enough)])
        }
        _ => e,
    }
}

/// Opens the device that `machine` asks for and, if it is a GPU, measures it.
///
/// # Errors
/// If the device asked for is not there or does not work, or a setting is not for it.
pub fn open(machine: &Machine, listener: &mut dyn Listener) -> Result<OpenDevice> {
    open_with(machine, listener, &|backend| {
        let peaks = backend.measure()?;
        Ok(Speed { flops: peaks.flops, bandwidth: peaks.bandwidth, bus: peaks.bus })
    })
}

/// Opens it without the second that measuring takes: for work whose plan does not turn on speed.
///
/// # Errors
/// As [`open`].
pub fn open_unmeasured(machine: &Machine, listener: &mut dyn Listener) -> Result<OpenDevice> {
    open_with(machine, listener, &|backend| Ok(device::speed_of_an_a100(backend.attributes().sms)))
}

type SpeedOf<'a> = &'a dyn Fn(&mut CudaBackend) -> Result<Speed>;

fn open_with(machine: &Machine, listener: &mut dyn Listener, speed: SpeedOf) -> Result<OpenDevice> {
    machine.validate()?;
    match machine.device {
        Device::Auto => {
            // One that is there but does not work (busy, full, an old driver) is said, and the CPU does.
            for n in usable() {
                match open_cuda(machine, n, listener, speed) {
                    Ok(device) => return Ok(device),
                    Err(e) => listener.note(&format!("cuda:{n} is not used: {e}")),
                }
            }
            open_cpu(machine)
        }
        Device::Cpu => open_cpu(machine),
        Device::Cuda(n) => open_cuda(machine, n, listener, speed)
            .with_context(|| format!("{} cannot be used", Setting::new("device", machine.device))),
    }
}

fn open_cpu(machine: &Machine) -> Result<OpenDevice> {
    let for_a_gpu = "is for a GPU, and this run computes on the CPU";
    if let Some(n) = machine.sm_limit {
        return Err(Error::setting(Setting::new("sm-limit", n), for_a_gpu));
    }
    if machine.nf4_path != Nf4Choice::Auto {
        return Err(Error::setting(Setting::new("nf4-path", machine.nf4_path.name()), for_a_gpu));
    }
    let backend = Box::new(CpuBackend::new(machine.threads)?);
    Ok(OpenDevice::on_host(backend, host::available(), machine))
}

fn open_cuda(machine: &Machine, n: u32, listener: &mut dyn Listener, speed: SpeedOf) -> Result<OpenDevice> {
    let driver = CudaDriver::open_part(n, machine.sm_limit)?;
    if driver.compiles_kernels() {
        listener.note("the driver compiles the kernels for this GPU; it keeps them for the next time");
    }
    let mut backend = CudaBackend::new(Box::new(driver), CudaProperties { nf4: machine.nf4_path.path() })?;
    let speed = speed(&mut backend)?;
    let memory = Memory::OpenGpu(backend.free_memory()?);
    Ok(OpenDevice::new(Box::new(backend), speed, memory, machine))
}

/// Numbers of the GPUs that the kernels are for.
fn usable() -> Vec<u32> {
    let devices = match probe() {
        Probe::Driver { devices, .. } if !cuda::modules::MODULES.is_empty() => devices,
        _ => Vec::new(),
    };
    (0..).zip(devices).filter(|(_, d)| d.capability >= 80).map(|(n, _)| n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::host::Bound, run::tests::Silent};

    fn cpu(machine: Machine) -> Result<OpenDevice> {
        open(&Machine { device: Device::Cpu, threads: Some(2), ..machine }, &mut Silent)
    }

    #[test]
    fn what_is_for_a_gpu_is_refused_on_the_cpu() {
        for (machine, name) in [
            (Machine { sm_limit: Some(14), ..Machine::default() }, "`sm-limit = 14`"),
            (Machine { nf4_path: Nf4Choice::Scratch, ..Machine::default() }, "`nf4-path = scratch`"),
            (Machine { nf4_path: Nf4Choice::Fused, ..Machine::default() }, "`nf4-path = fused`"),
        ] {
            let e = cpu(machine).err().expect(name);
            assert!(e.exit_code() == 2 && e.to_string().starts_with(name), "{e}");
        }
        assert!(cpu(Machine::default()).is_ok());
    }

    /// Who is refused for memory learns whose it is: the machine's, or a container's.
    #[test]
    fn a_refusal_says_what_sets_the_limit() {
        let group = Bound::Group { path: "/sys/fs/cgroup/job".into(), file: "memory.max", limit: 4 << 30 };
        let refusal = |by, machine: Machine| {
            let backend = Box::new(CpuBackend::new(Some(1)).expect("opens"));
            let device = OpenDevice::on_host(backend, Some(Available { bytes: 1 << 30, by }), &machine);
            let have = device.limit.expect("a limit");
            device
                .advise(Error::DoesNotFit { what: "this run", need: 1 << 40, have, by: None, advice: vec![] })
                .to_string()
        };
        let of_group = refusal(group.clone(), Machine::default());
        assert_eq!(
            of_group,
            "this run needs at least 1024.00 GiB and 0.90 GiB are available, nine tenths of what is left by the control \
             group /sys/fs/cgroup/job (its memory.max is 4.00 GiB)"
        );
        assert!(refusal(Bound::Machine, Machine::default()).contains("left by this machine"));
        // The user's own limit is nobody else's.
        let given = Machine { memory_limit: Some(Bytes(1 << 20)), ..Machine::default() };
        assert!(refusal(group, given).ends_with("are available"));
    }

    #[test]
    fn a_higher_limit_is_advised_only_where_it_would_help() {
        let small = Machine { memory_limit: Some(Bytes(1 << 20)), ..Machine::default() };
        let device = cpu(small).expect("opens");
        assert_eq!(device.limit, Some(1 << 20));
        let refusal =
            |need, advice: Vec<Setting>| Error::DoesNotFit { what: "this run", need, have: 1 << 20, by: None, advice };
        let advice = |e: Error| match e {
            Error::DoesNotFit { advice, .. } => advice,
            e => panic!("{e}"),
        };
        assert_eq!(advice(device.advise(refusal(3 << 20, vec![]))), [Setting::new("memory-limit", "3MiB")]);
        let other = vec![Setting::new("lora-r", 8)];
        assert_eq!(advice(device.advise(refusal(3 << 20, other.clone()))), other);
        if device.room.is_some() {
            assert_eq!(advice(device.advise(refusal(1 << 60, vec![]))), []);
        }
    }
}
