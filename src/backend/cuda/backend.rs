//! [`Backend`] over a [`Driver`]: an operation is checked, turned into launches, and queued.
//!
//! # Design
//! - One arena is taken at the plan's size. Nothing is allocated and nothing waits but [`Backend::read`] (and taking times):
//!   the host runs ahead of the device for a whole step.
//! - No CUDA graphs: a micro-batch is some 2,400 launches, which take the host a small part of the time that the device takes
//!   for them.
//! - Uploads go through the driver's pinned staging memory, in the queue's order.

use super::{
    command::Command,
    context::{Arena, Chip, Context},
    driver::{Attributes, Driver},
    launches,
    measure::{self, Peaks},
    modules::MODULES,
    properties::CudaProperties,
    times::Times,
};
use crate::{
    Error, Result,
    backend::{
        Backend, Buffer, DType, Op, OperationTime, Properties, Space,
        check::{self, Extent},
    },
    error::Setting,
};

/// The CUDA backend.
pub struct CudaBackend {
    driver: Box<dyn Driver>,
    chip: Chip,
    properties: CudaProperties,
    arena: Arena,
    extent: Extent,
    scratch: Buffer,
    times: Option<Times>,
}

impl CudaBackend {
    /// A backend over a device; loads the kernels.
    ///
    /// # Errors
    /// If the program was built without kernels, or the device does not take them.
    pub fn new(mut driver: Box<dyn Driver>, properties: CudaProperties) -> Result<Self> {
        if MODULES.is_empty() {
            let message = "this irori was built without CUDA kernels: no nvcc was found then";
            return Err(Error::setting(Setting::new("device", "cuda"), message).advise([Setting::new("device", "cpu")]));
        }
        for module in MODULES {
            driver.load(module)?;
        }
        let a = driver.attributes();
        let chip = Chip { sms: a.sms, shared_per_block: a.shared_per_block, shared_per_sm: a.shared_per_sm };
        let (arena, extent, scratch) = (Arena::default(), Extent::default(), Buffer::empty(DType::U8));
        Ok(Self { driver, chip, properties, arena, extent, scratch, times: None })
    }

    /// What is fixed about the device.
    pub fn attributes(&self) -> &Attributes {
        self.driver.attributes()
    }

    /// Bytes of device memory that are free now.
    ///
    /// # Errors
    /// If the device does not say.
    pub fn free_memory(&self) -> Result<u64> {
        self.driver.free_memory()
    }

    /// What the device can do at most, measured; before the arena is taken.
    ///
    /// # Errors
    /// If the device fails.
    pub fn measure(&mut self) -> Result<Peaks> {
        measure::peaks(self.driver.as_mut(), measure::ROUNDS)
    }

    /// Fails if `b` does not lie in the arena.
    fn holds(&self, name: &'static str, b: Buffer) -> Result<()> {
        self.extent.holds("the buffer", b).map_err(|message| check::error(name, message))
    }
}

/// Puts a command into the device's queue.
fn queue(driver: &mut dyn Driver, command: &Command) -> Result<()> {
    match *command {
        Command::Launch(ref launch) => driver.launch(launch),
        Command::Zero { dst, bytes } => driver.zero(dst, bytes),
        Command::Copy { src, dst, bytes } => driver.copy(src, dst, bytes),
        Command::Upload { dst, ref data } => data.with(|bytes| driver.write(dst, bytes)),
    }
}

impl Backend for CudaBackend {
    fn properties(&self) -> &dyn Properties {
        &self.properties
    }

    fn describe(&self) -> String {
        let a = self.driver.attributes();
        format!("{}, sm_{}, {} SMs, {:.1} GiB", a.name, a.capability, a.sms, a.memory as f64 / (1u64 << 30) as f64)
    }

    fn allocate(&mut self, bytes: usize, host_bytes: usize, scratch: Buffer) -> Result<()> {
        if self.extent.device > 0 {
            return Err(Error::internal("the arena has been taken already"));
        }
        if scratch.range().end > bytes || scratch.space() != Space::Device {
            let end = scratch.range().end;
            return Err(Error::internal(format!("scratch ends at byte {end} of an arena of {bytes}")));
        }
        let device = self.driver.alloc(bytes)?;
        let host = if host_bytes > 0 { self.driver.alloc_pinned(host_bytes)? } else { 0 };
        (self.arena, self.scratch) = (Arena { device, host }, scratch);
        self.extent = Extent { device: bytes, host: host_bytes, scratch: scratch.range() };
        Ok(())
    }

    fn write(&mut self, dst: Buffer, data: &[u8]) -> Result<()> {
        self.holds("write", dst)?;
        if data.len() > dst.bytes() {
            return Err(check::error("write", format!("{} bytes into a buffer of {}", data.len(), dst.bytes())));
        }
        self.driver.write(self.arena.address(dst), data)
    }

    fn read(&mut self, src: Buffer) -> Result<Vec<u8>> {
        self.holds("read", src)?;
        let mut out = vec![0; src.bytes()];
        self.driver.read(self.arena.address(src), &mut out)?;
        Ok(out)
    }

    fn run(&mut self, op: &Op) -> Result<()> {
        let checked = check::check(op, DType::Bf16, &self.extent)?;
        let Self { driver, chip, arena, scratch, times, properties, .. } = self;
        let driver = driver.as_mut();
        let at = Context { chip: *chip, address: &|b| arena.address(b), scratch: *scratch, nf4: properties.nf4 };
        let commands = launches::of(&checked, &at)?;
        let from = Times::begin(times, driver)?;
        commands.iter().try_for_each(|c| queue(driver, c)).map_err(|e| e.context(op.name()))?;
        Times::end(times, driver, op.name(), from)
    }

    fn measure_times(&mut self, on: bool) {
        self.times = on.then(Times::default);
    }

    fn take_times(&mut self) -> Result<Vec<OperationTime>> {
        match &mut self.times {
            Some(times) => times.take(self.driver.as_mut()),
            None => Ok(Vec::new()),
        }
    }
}
