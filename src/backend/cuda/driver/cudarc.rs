//! [`Driver`] over libcuda, through cudarc's raw bindings.

use super::{
    Attributes, Driver, Event, Image, choose_image, green,
    kernels::Kernels,
    libcuda::{SYMBOLS, call, require},
    probe,
    staging::{RING_BYTES, Staging},
};
use crate::{
    Error, Result,
    backend::cuda::{
        launch::{Address, Launch},
        modules::{CompiledModule, MODULES},
    },
    error::Setting,
};
use cudarc::driver::sys;
use std::{ffi::c_void, ptr};

/// `CU_STREAM_NON_BLOCKING`: no implicit order with other users of the context.
const NON_BLOCKING: u32 = 1;

/// CUDA version of the oldest driver that takes the kernels.
const OLDEST_DRIVER: i32 = 12_000;
/// The oldest compute capability × 10 that the kernels are for.
const OLDEST_CAPABILITY: u32 = 80;

/// A device under libcuda. Everything it made goes when it is dropped.
pub struct CudaDriver {
    device: sys::CUdevice,
    context: sys::CUcontext,
    attributes: Attributes,
    stream: sys::CUstream,
    events: Vec<sys::CUevent>,
    kernels: Kernels,
    /// Addresses of device memory.
    allocated: Vec<Address>,
    /// Addresses of pinned memory, which is freed by another call.
    pinned: Vec<Address>,
    staging: Option<Staging>,
    /// The part of the device that is used, where it is not all of it.
    green: Option<sys::CUgreenCtx>,
}

// SAFETY: libcuda's handles may be used from any thread as long as the context is current there, which every method sees
// to; `&mut self` keeps uses apart.
unsafe impl Send for CudaDriver {}

impl CudaDriver {
    /// Opens device `index`, as the driver counts those it shows.
    ///
    /// # Errors
    /// If there is no libcuda, it lacks functions (a stub), it refuses to work, or has no such device.
    pub fn open(index: u32) -> Result<Self> {
        Self::open_part(index, None)
    }

    /// Opens device `index`, of which work will run on `sm_limit` multiprocessors (rounded up to what the device can part:
    /// from 4 by twos on sm_80, by eights on sm_90). Memory, its bandwidth and L2 are not parted.
    ///
    /// # Errors
    /// As [`Self::open`]; also if the driver is too old to part a device.
    pub fn open_part(index: u32, sm_limit: Option<u32>) -> Result<Self> {
        let (device, attributes) = find(index)?;
        let mut context = ptr::null_mut();
        call!(cuDevicePrimaryCtxRetain(&mut context, device))?;
        // From here on dropping gives the context back.
        let mut driver = Self {
            device,
            context,
            attributes,
            stream: ptr::null_mut(),
            events: Vec::new(),
            kernels: Kernels::default(),
            allocated: Vec::new(),
            pinned: Vec::new(),
            staging: None,
            green: None,
        };
        driver.bind()?;
        if let Some(sms) = sm_limit {
            driver.limit(sms)?;
        }
        let stream = &mut driver.stream;
        match driver.green {
            Some(green) => call!(cuGreenCtxStreamCreate(stream, green, NON_BLOCKING, 0))?,
            None => call!(cuStreamCreate(stream, NON_BLOCKING))?,
        }
        Ok(driver)
    }

    /// Whether the device is newer than the machine code in this program, so that the driver compiles the kernels' PTX.
    pub fn compiles_kernels(&self) -> bool {
        let carried = MODULES.iter().flat_map(|m| m.cubins.iter().map(|(sm, _)| *sm));
        choose_image(self.attributes.capability, carried) == Image::Ptx
    }

    /// Switches to a green context of at least `sms` multiprocessors.
    fn limit(&mut self, sms: u32) -> Result<()> {
        if let Some(part) = green::part(self.device, sms, self.attributes.sms)? {
            (self.green, self.context, self.attributes.sms) = (Some(part.green), part.context, part.sms);
            self.bind()?;
        }
        Ok(())
    }

    fn bind(&self) -> Result<()> {
        call!(cuCtxSetCurrent(self.context))
    }

    fn raw(&self, event: Event) -> Result<sys::CUevent> {
        self.events.get(event.0 as usize).copied().ok_or_else(|| Error::internal(format!("CUDA: no {event:?}")))
    }
}

/// Device `index`, if libcuda works and the kernels are for such a device.
fn find(index: u32) -> Result<(sys::CUdevice, Attributes)> {
    let setting = Setting::new("device", format!("cuda:{index}"));
    let refuse = |message: String| Error::setting(setting.clone(), message).advise([Setting::new("device", "cpu")]);
    require(SYMBOLS, &setting)?;
    let (mut count, mut version, mut device) = (0, 0, 0);
    call!(cuDriverGetVersion(&mut version))?;
    if version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(refuse(format!(
            "the NVIDIA driver is for CUDA {major}.{minor}; irori needs r525 (CUDA 12.0) or newer"
        )));
    }
    call!(cuInit(0))?;
    call!(cuDeviceGetCount(&mut count))?;
    if i64::from(index) >= i64::from(count) {
        return Err(refuse(format!("the driver shows {count} CUDA devices, there is no number {index}")));
    }
    call!(cuDeviceGet(&mut device, index as i32))?;
    let attributes = attributes(device)?;
    if attributes.capability < OLDEST_CAPABILITY {
        let (name, major, minor) = (&attributes.name, attributes.capability / 10, attributes.capability % 10);
        return Err(refuse(format!(
            "{name} has compute capability {major}.{minor}; irori's kernels need 8.0 or newer (A100, RTX 30 and later)"
        )));
    }
    Ok((device, attributes))
}

fn attributes(device: sys::CUdevice) -> Result<Attributes> {
    use sys::CUdevice_attribute as A;
    let mut name = [0 as std::ffi::c_char; 256];
    let mut memory = 0usize;
    call!(cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device))?;
    call!(cuDeviceTotalMem_v2(&mut memory, device))?;
    let attribute = |a: A| -> Result<u32> {
        let mut value = 0;
        call!(cuDeviceGetAttribute(&mut value, a, device))?;
        Ok(value.unsigned_abs())
    };
    Ok(Attributes {
        name: probe::text(&name),
        capability: attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? * 10
            + attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        sms: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_per_sm: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
        shared_per_block: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        memory: memory as u64,
    })
}

impl Driver for CudaDriver {
    fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    fn free_memory(&self) -> Result<u64> {
        self.bind()?;
        let (mut free, mut total) = (0usize, 0usize);
        call!(cuMemGetInfo_v2(&mut free, &mut total))?;
        Ok(free as u64)
    }

    fn alloc(&mut self, bytes: usize) -> Result<Address> {
        self.bind()?;
        let mut address = 0;
        call!(cuMemAlloc_v2(&mut address, bytes.max(1))).map_err(|e| {
            let free = self.free_memory().map_or_else(|_| String::new(), |free| format!(", {free} bytes are free"));
            e.context(format!("cannot take {bytes} bytes of device memory{free}"))
        })?;
        self.allocated.push(address);
        Ok(address)
    }

    fn alloc_pinned(&mut self, bytes: usize) -> Result<Address> {
        self.bind()?;
        let mut pointer: *mut c_void = ptr::null_mut();
        // With unified addressing, which every 64-bit system has, the pointer is the device's address too.
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        call!(cuMemHostAlloc(&mut pointer, bytes.max(1), flags))
            .map_err(|e| e.context(format!("cannot take {bytes} bytes of pinned host memory")))?;
        self.pinned.push(pointer as Address);
        Ok(pointer as Address)
    }

    fn free(&mut self, address: Address) -> Result<()> {
        self.bind()?;
        match self.pinned.iter().position(|&p| p == address) {
            Some(i) => {
                self.pinned.swap_remove(i);
                call!(cuMemFreeHost(address as *mut c_void))
            }
            None => {
                self.allocated.retain(|&a| a != address);
                call!(cuMemFree_v2(address))
            }
        }
    }

    fn write(&mut self, dst: Address, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.bind()?;
        if self.staging.is_none() {
            let base = self.alloc_pinned(RING_BYTES)?;
            self.staging = Some(Staging::new(base)?);
        }
        let staging = self.staging.as_mut().expect("made above");
        staging.send(dst, data, self.stream)
    }

    fn read(&mut self, src: Address, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            return self.synchronize();
        }
        self.bind()?;
        let queued = call!(cuMemcpyAsync(out.as_mut_ptr() as Address, src, out.len(), self.stream));
        // Waits even if the copy was refused: nothing may write to `out` after the return.
        queued.and(call!(cuStreamSynchronize(self.stream)))
    }

    fn copy(&mut self, src: Address, dst: Address, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        call!(cuMemcpyAsync(dst, src, bytes, self.stream))
    }

    fn zero(&mut self, dst: Address, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        call!(cuMemsetD8Async(dst, 0, bytes, self.stream))
    }

    fn load(&mut self, module: &'static CompiledModule) -> Result<()> {
        self.bind()?;
        let Attributes { capability, name, .. } = &self.attributes;
        let loaded = self.kernels.load(module, *capability);
        loaded.map_err(|e| e.context(format!("cannot load kernels/{}.cu on {name}", module.name)))
    }

    fn launch(&mut self, launch: &Launch) -> Result<()> {
        if launch.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let function = self.kernels.function(launch)?;
        let arguments = launch.args.bytes();
        let mut size = arguments.len();
        let mut extra = [
            sys::CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT as usize as *mut c_void,
            arguments.as_ptr().cast_mut().cast(),
            sys::CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT as usize as *mut c_void,
            ptr::from_mut(&mut size).cast(),
            sys::CU_LAUNCH_PARAM_END_AS_INT as usize as *mut c_void,
        ];
        let ([x, y, z], threads, shared) = (launch.grid, launch.threads, launch.shared);
        let (none, extra) = (ptr::null_mut(), extra.as_mut_ptr());
        call!(cuLaunchKernel(function, x, y, z, threads, 1, 1, shared, self.stream, none, extra)).map_err(|e| {
            let what = format!("{} of {x}×{y}×{z} blocks of {threads} threads, {shared} bytes", launch.kernel);
            e.context(format!("cannot launch {what} of shared memory"))
        })
    }

    fn event(&mut self) -> Result<Event> {
        self.bind()?;
        let mut event = ptr::null_mut();
        call!(cuEventCreate(&mut event, 0))?;
        self.events.push(event);
        Ok(Event(self.events.len() as u32 - 1))
    }

    fn record(&mut self, event: Event) -> Result<()> {
        self.bind()?;
        call!(cuEventRecord(self.raw(event)?, self.stream))
    }

    fn elapsed_ms(&mut self, from: Event, to: Event) -> Result<f32> {
        self.bind()?;
        let (from, to) = (self.raw(from)?, self.raw(to)?);
        let mut ms = 0.0;
        call!(cuEventSynchronize(to))?;
        call!(cuEventElapsedTime(&mut ms, from, to))?;
        Ok(ms)
    }

    fn synchronize(&mut self) -> Result<()> {
        self.bind()?;
        call!(cuStreamSynchronize(self.stream))
    }
}

impl Drop for CudaDriver {
    fn drop(&mut self) {
        // A failure here (the process is ending, or the device is lost) cannot be reported from drop.
        let _ = self.bind();
        if !self.stream.is_null() {
            let _ = call!(cuStreamSynchronize(self.stream));
            let _ = call!(cuStreamDestroy_v2(self.stream));
        }
        if let Some(staging) = &mut self.staging {
            staging.destroy();
        }
        for &event in &self.events {
            let _ = call!(cuEventDestroy_v2(event));
        }
        self.kernels.unload();
        for &address in &self.allocated {
            let _ = call!(cuMemFree_v2(address));
        }
        for &address in &self.pinned {
            let _ = call!(cuMemFreeHost(address as *mut c_void));
        }
        if let Some(green) = self.green {
            let _ = call!(cuCtxSetCurrent(ptr::null_mut()));
            let _ = call!(cuGreenCtxDestroy(green));
        }
        let _ = call!(cuDevicePrimaryCtxRelease_v2(self.device));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::{
        driver::probe::{Probe, probe},
        launch::Args,
    };

    /// On a machine without a driver: an error in words, no panic. With one: memory, copies, a kernel, events.
    #[test]
    fn a_device_works_or_says_why_not() {
        let found = probe();
        let mut driver = match CudaDriver::open(0) {
            Ok(driver) => driver,
            Err(e) => {
                let usable =
                    matches!(&found, Probe::Driver { devices, .. } if devices.iter().any(|d| d.capability >= 80));
                assert!(!usable, "a device is there: {e}");
                assert!(e.to_string().contains("driver") || e.to_string().contains("CUDA"), "{e}");
                eprintln!("SKIP: {e}");
                return;
            }
        };
        assert!(driver.free_memory().unwrap() <= driver.attributes().memory);
        let Some(memory) = MODULES.iter().find(|m| m.name == "memory") else { return };
        driver.load(memory).unwrap();
        let (src, dst) = (driver.alloc(4000).unwrap(), driver.alloc_pinned(2000).unwrap());
        driver.write(src, bytemuck::cast_slice(&[1.5f32; 1000])).unwrap();
        let (from, to) = (driver.event().unwrap(), driver.event().unwrap());
        driver.record(from).unwrap();
        let args = Args::new().with(src).with(1000u64).with(dst);
        driver.launch(&Launch::new("memory", "convert", [4, 1, 1], 256, args)).unwrap();
        driver.record(to).unwrap();
        let mut out = vec![0; 2000];
        driver.read(dst, &mut out).unwrap();
        assert!(bytemuck::cast_slice::<u8, half::bf16>(&out).iter().all(|x| x.to_f32() == 1.5));
        assert!(driver.elapsed_ms(from, to).unwrap() >= 0.0);
        driver.free(src).unwrap();
        driver.free(dst).unwrap();
    }

    /// The setting is the one that was given, and there is another way.
    #[test]
    fn a_device_that_is_not_there_is_an_error_of_the_setting() {
        let Err(Error::Setting { setting, advice, .. }) = CudaDriver::open(9999) else {
            panic!("there is no such device")
        };
        assert_eq!(setting, Setting::new("device", "cuda:9999"));
        assert_eq!(advice, [Setting::new("device", "cpu")]);
    }
}
