//! [`Driver`] over the PTX virtual machine: the very launch code and kernels, without a GPU. Everything is done when a
//! call returns, so events are only counted; what each kernel cost is kept.

use crate::harness::{self, SLICE};
use irori::{
    Error, Result,
    backend::cuda::{
        context::Chip,
        driver::{Attributes, Driver, Event},
        launch::{Address, Launch},
        modules::CompiledModule,
    },
};
use ptxvm::{Config, Counters, Module, Vm};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

pub struct VmDriver {
    vm: Vm,
    attributes: Attributes,
    modules: HashMap<&'static str, Module>,
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
        let Chip { sms, shared_per_block, shared_per_sm } = SLICE;
        let vm = Vm::new(Config { seed, max_shared: shared_per_block, ..Config::default() });
        let name = "PTX virtual machine".to_string();
        let attributes = Attributes { name, capability: 80, sms, shared_per_block, shared_per_sm, memory };
        Self { vm, attributes, modules: HashMap::new(), events: Vec::new(), launches: 0, ledger: Arc::default() }
    }

    /// What is asked of the device from now on and was asked before; stays readable when the driver is given away.
    pub fn ledger(&self) -> Arc<Mutex<Ledger>> {
        self.ledger.clone()
    }

    fn book(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(|e| e.into_inner())
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

    fn write(&mut self, dst: Address, data: &[u8]) -> Result<()> {
        self.vm.write(dst, data).map_err(refused)
    }

    fn read(&mut self, src: Address, out: &mut [u8]) -> Result<()> {
        self.book().waits += 1;
        if !self.vm.written(src, out.len() as u64).map_err(refused)? {
            return Err(Error::failed(format!("{} bytes at {src:#x} are read that nobody wrote", out.len())));
        }
        self.vm.read(src, out).map_err(refused)
    }

    fn copy(&mut self, src: Address, dst: Address, bytes: usize) -> Result<()> {
        self.vm.copy(dst, src, bytes as u64).map_err(refused)
    }

    fn zero(&mut self, dst: Address, bytes: usize) -> Result<()> {
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

    fn launch(&mut self, l: &Launch) -> Result<()> {
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

    fn event(&mut self) -> Result<Event> {
        self.events.push(None);
        Ok(Event(self.events.len() as u32 - 1))
    }

    fn record(&mut self, event: Event) -> Result<()> {
        self.recorded(event)?;
        self.events[event.0 as usize] = Some(self.launches);
        Ok(())
    }

    fn elapsed_ms(&mut self, from: Event, to: Event) -> Result<f32> {
        match (self.recorded(from)?, self.recorded(to)?) {
            // A microsecond a launch.
            (Some(from), Some(to)) => Ok((to - from) as f32 * 1e-3),
            _ => Err(Error::failed("virtual machine: an event was not recorded")),
        }
    }

    fn synchronize(&mut self) -> Result<()> {
        self.book().waits += 1;
        Ok(())
    }
}

mod tests {
    use super::*;
    use irori::backend::cuda::{launch::Args, modules::MODULES};

    /// One way through everything that the trait offers, as the backend uses it.
    #[test]
    fn a_kernel_runs_through_the_trait() {
        if !harness::there_are_kernels() {
            return;
        }
        let memory = MODULES.iter().find(|m| m.name == "memory").unwrap();
        let mut vm = VmDriver::new(1 << 20, 0);
        let driver: &mut dyn Driver = &mut vm;
        assert!(driver.alloc(2 << 20).unwrap_err().to_string().contains("1048576 bytes are free"));
        let (src, dst, other) =
            (driver.alloc(4000).unwrap(), driver.alloc(2000).unwrap(), driver.alloc_pinned(2000).unwrap());
        let convert = |count: u64| {
            let args = Args::new().with(src).with(count).with(dst);
            Launch::new("memory", "convert", [count.div_ceil(256) as u32, 1, 1], 256, args)
        };
        let e = driver.launch(&convert(1000)).unwrap_err();
        assert!(e.to_string().contains("memory is not loaded"), "{e}");
        driver.load(memory).unwrap();
        driver.load(memory).unwrap();
        let fault = driver.launch(&convert(1000)).unwrap_err();
        assert!(fault.to_string().contains("Uninitialised"), "{fault}");
        driver.write(src, bytemuck::cast_slice(&[1.5f32; 1000])).unwrap();
        let (start, end) = (driver.event().unwrap(), driver.event().unwrap());
        assert!(driver.elapsed_ms(start, end).is_err());
        driver.record(start).unwrap();
        driver.launch(&convert(1000)).unwrap();
        driver.launch(&convert(0)).unwrap();
        driver.record(end).unwrap();
        let mut out = vec![0; 2000];
        assert!(driver.read(other, &mut out).is_err());
        driver.zero(other, 2000).unwrap();
        driver.copy(dst, other, 1000).unwrap();
        driver.read(other, &mut out).unwrap();
        driver.synchronize().unwrap();
        let values = bytemuck::pod_collect_to_vec::<u8, u16>(&out);
        assert!(values[..500].iter().all(|&x| x == 0x3fc0) && values[500..].iter().all(|&x| x == 0));
        assert_eq!(driver.elapsed_ms(start, end).unwrap(), 1e-3);
        driver.free(src).unwrap();
        assert!(driver.free(src).is_err());
        assert_eq!(driver.attributes().capability, 80);
        assert!(driver.record(Event(9)).is_err());
        assert_eq!(vm.book().costs["convert"].0, 1);
    }
}
