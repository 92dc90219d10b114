//! [`Driver`] over the PTX virtual machine: the very launch code and kernels, without a GPU. Everything is done when a
//! call returns, so streams and events are only counted; what each kernel cost is kept.

use crate::harness;
use irori::{
    Error, Result,
    backend::cuda::{
        driver::{Attributes, Driver, Event, Stream},
        launch::{Address, Launch},
        modules::CompiledModule,
    },
};
use ptxvm::{Config, Counters, Module, Vm};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

/// The smallest device that irori is meant for: an A100's 2g slice.
const SMS: u32 = 28;
const SHARED_PER_BLOCK: u32 = 163 << 10;
const SHARED_PER_SM: u32 = 164 << 10;

pub struct VmDriver {
    vm: Vm,
    attributes: Attributes,
    modules: HashMap<&'static str, Module>,
    streams: u32,
    /// How many launches there had been when each event was recorded; the clock of this device.
    events: Vec<Option<u64>>,
    launches: u64,
    ledger: Arc<Mutex<Ledger>>,
}

/// What was asked of the device.
#[derive(Default)]
pub struct Ledger {
    /// Launches and their cost in all, by kernel.
    pub costs: BTreeMap<&'static str, (u64, Counters)>,
    /// Allocations of either kind, in bytes.
    pub allocations: Vec<usize>,
    /// Calls that wait for the device.
    pub waits: usize,
}

impl VmDriver {
    /// A device with `memory` bytes, under schedule `seed`.
    pub fn new(memory: u64, seed: u64) -> Self {
        let vm = Vm::new(Config { seed, max_shared: SHARED_PER_BLOCK, ..Config::default() });
        let name = "PTX virtual machine".to_string();
        let attributes = Attributes {
            name,
            capability: 80,
            sms: SMS,
            shared_per_block: SHARED_PER_BLOCK,
            shared_per_sm: SHARED_PER_SM,
            memory,
        };
        Self {
            vm,
            attributes,
            modules: HashMap::new(),
            streams: 1,
            events: Vec::new(),
            launches: 0,
            ledger: Arc::default(),
        }
    }

    /// What is asked of the device from now on and was asked before; stays readable when the driver is given away.
    pub fn ledger(&self) -> Arc<Mutex<Ledger>> {
        self.ledger.clone()
    }

    fn book(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn known(&self, stream: Stream) -> Result<()> {
        if stream.0 < self.streams { Ok(()) } else { Err(Error::failed(format!("virtual machine: no {stream:?}"))) }
    }

    fn recorded(&self, event: Event) -> Result<Option<u64>> {
        let recorded = self.events.get(event.0 as usize).copied();
        recorded.ok_or_else(|| Error::failed(format!("virtual machine: no {event:?}")))
    }
}

fn refused(e: ptxvm::Error) -> Error {
    Error::failed(format!("virtual machine: {e}"))
}

impl Driver for VmDriver {
    fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    fn free_memory(&self) -> Result<u64> {
        Ok(self.attributes.memory)
    }

    fn alloc(&mut self, bytes: usize) -> Result<Address> {
        let memory = self.attributes.memory;
        if bytes as u64 > memory {
            return Err(Error::failed(format!("cannot take {bytes} bytes of device memory, {memory} bytes are free")));
        }
        self.book().allocations.push(bytes);
        self.vm.alloc(bytes.max(1) as u64).map_err(refused)
    }

    fn alloc_pinned(&mut self, bytes: usize) -> Result<Address> {
        self.book().allocations.push(bytes);
        self.vm.alloc(bytes.max(1) as u64).map_err(refused)
    }

    fn free(&mut self, address: Address) -> Result<()> {
        self.vm.free(address).map_err(refused)
    }

    fn write(&mut self, dst: Address, data: &[u8], stream: Stream) -> Result<()> {
        self.known(stream)?;
        self.vm.write(dst, data).map_err(refused)
    }

    fn read(&mut self, src: Address, out: &mut [u8], stream: Stream) -> Result<()> {
        self.known(stream)?;
        self.book().waits += 1;
        if !self.vm.written(src, out.len() as u64).map_err(refused)? {
            return Err(Error::failed(format!("{} bytes at {src:#x} are read that nobody wrote", out.len())));
        }
        self.vm.read(src, out).map_err(refused)
    }

    fn copy(&mut self, src: Address, dst: Address, bytes: usize, stream: Stream) -> Result<()> {
        self.known(stream)?;
        self.vm.copy(dst, src, bytes as u64).map_err(refused)
    }

    fn zero(&mut self, dst: Address, bytes: usize, stream: Stream) -> Result<()> {
        self.known(stream)?;
        self.vm.fill(dst, 0, bytes as u64).map_err(refused)
    }

    fn load(&mut self, module: &'static CompiledModule) -> Result<()> {
        if !self.modules.contains_key(module.name) {
            let decoded = harness::module(module.name)
                .ok_or_else(|| Error::failed(format!("kernels/{}.cu is not in this build", module.name)))?;
            self.modules.insert(module.name, decoded);
        }
        Ok(())
    }

    fn launch(&mut self, l: &Launch, stream: Stream) -> Result<()> {
        self.known(stream)?;
        if l.is_empty() {
            return Ok(());
        }
        let unknown = || Error::failed(format!("kernel file {} is not loaded", l.file));
        let module = self.modules.get(l.file).ok_or_else(unknown)?;
        let counters = self
            .vm
            .launch(module, l.kernel, l.grid, l.threads, l.shared, l.args.bytes())
            .map_err(|fault| Error::failed(fault.to_string()))?;
        self.launches += 1;
        let mut book = self.book();
        let (count, cost) = book.costs.entry(l.kernel).or_default();
        *count += 1;
        cost.add(&counters);
        Ok(())
    }

    fn stream(&mut self) -> Result<Stream> {
        self.streams += 1;
        Ok(Stream(self.streams - 1))
    }

    fn event(&mut self) -> Result<Event> {
        self.events.push(None);
        Ok(Event(self.events.len() as u32 - 1))
    }

    fn record(&mut self, event: Event, stream: Stream) -> Result<()> {
        self.known(stream)?;
        self.recorded(event)?;
        self.events[event.0 as usize] = Some(self.launches);
        Ok(())
    }

    fn wait(&mut self, stream: Stream, event: Event) -> Result<()> {
        self.known(stream)?;
        self.recorded(event).map(drop)
    }

    fn elapsed_ms(&mut self, from: Event, to: Event) -> Result<f32> {
        match (self.recorded(from)?, self.recorded(to)?) {
            // A microsecond a launch.
            (Some(from), Some(to)) => Ok((to - from) as f32 * 1e-3),
            _ => Err(Error::failed("virtual machine: an event was not recorded")),
        }
    }

    fn synchronize(&mut self, stream: Stream) -> Result<()> {
        self.book().waits += 1;
        self.known(stream)
    }
}

mod tests {
    use super::*;
    use irori::backend::cuda::{modules::MODULES, rows};

    /// One way through everything that the trait offers, as the backend uses it.
    #[test]
    fn a_kernel_runs_through_the_trait() {
        let Some(optim) = MODULES.iter().find(|m| m.name == "optim") else {
            eprintln!("SKIP: this build has no kernels (no nvcc was found)");
            return;
        };
        let mut vm = VmDriver::new(1 << 20, 0);
        let driver: &mut dyn Driver = &mut vm;
        assert!(driver.alloc(2 << 20).unwrap_err().to_string().contains("1048576 bytes are free"));
        let (src, dst, other) =
            (driver.alloc(4000).unwrap(), driver.alloc(2000).unwrap(), driver.alloc_pinned(2000).unwrap());
        let launch = rows::convert(1000, src, dst);
        let e = driver.launch(&launch, Stream::MAIN).unwrap_err();
        assert!(e.to_string().contains("optim is not loaded"), "{e}");
        driver.load(optim).unwrap();
        driver.load(optim).unwrap();
        let fault = driver.launch(&launch, Stream::MAIN).unwrap_err();
        assert!(fault.to_string().contains("Uninitialised"), "{fault}");
        driver.write(src, bytemuck::cast_slice(&[1.5f32; 1000]), Stream::MAIN).unwrap();
        let (side, start, end) = (driver.stream().unwrap(), driver.event().unwrap(), driver.event().unwrap());
        assert!(driver.elapsed_ms(start, end).is_err());
        driver.record(start, Stream::MAIN).unwrap();
        driver.launch(&launch, Stream::MAIN).unwrap();
        driver.launch(&rows::convert(0, src, dst), Stream::MAIN).unwrap();
        driver.record(end, Stream::MAIN).unwrap();
        driver.wait(side, end).unwrap();
        let mut out = vec![0; 2000];
        assert!(driver.read(other, &mut out, side).is_err());
        driver.zero(other, 2000, side).unwrap();
        driver.copy(dst, other, 1000, side).unwrap();
        driver.read(other, &mut out, side).unwrap();
        driver.synchronize(side).unwrap();
        let values = bytemuck::pod_collect_to_vec::<u8, u16>(&out);
        assert!(values[..500].iter().all(|&x| x == 0x3fc0) && values[500..].iter().all(|&x| x == 0));
        assert_eq!(driver.elapsed_ms(start, end).unwrap(), 1e-3);
        driver.free(src).unwrap();
        assert!(driver.free(src).is_err());
        assert_eq!(driver.attributes().capability, 80);
        assert!(driver.record(end, Stream(9)).is_err());
        assert_eq!(vm.book().costs["convert"].0, 1);
    }
}
