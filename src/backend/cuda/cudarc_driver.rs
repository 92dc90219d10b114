//! [`Driver`] over libcuda, through cudarc's raw bindings.
//!
//! The bindings load libcuda and look up each symbol at the first call, and panic if one is missing; formatting cudarc's
//! own error type calls libcuda as well. So [`CudaDriver::open`] first makes sure that the library is there and has every
//! symbol used here (stub libraries in containers lack some), and results stay plain CUresults.

use super::{
    driver::{Attributes, Driver, Event, Image, Stream, choose_image},
    launch::{Address, Launch},
    modules::{CompiledModule, MODULES},
    probe,
};
use crate::{Error, Result};
use cudarc::driver::sys;
use rayon::prelude::*;
use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    ptr,
};

/// Dynamic shared memory that a kernel may have without opting in.
const SHARED_WITHOUT_OPT_IN: u32 = 48 << 10;

/// `CU_STREAM_NON_BLOCKING`: no implicit order with other users of the context.
const NON_BLOCKING: u32 = 1;

/// CUDA version of the oldest driver that takes the kernels.
pub const OLDEST_DRIVER: i32 = 12_000;
/// `CU_EVENT_DISABLE_TIMING`.
const NO_TIMING: u32 = 2;

/// Pinned memory that uploads pass through: this many pieces of this many bytes.
const STAGES: usize = 4;
const STAGE_BYTES: usize = 4 << 20;
/// A piece of a copy into pinned memory that one thread makes.
const COPY_BYTES: usize = 256 << 10;

macro_rules! symbols {
    ($of:ident: $($name:ident),* $(,)?) => {
        const $of: &[&str] = &[$(stringify!($name)),*];
    };
}

symbols!(SYMBOLS:
    cuCtxSetCurrent,
    cuDeviceGet,
    cuDeviceGetAttribute,
    cuDeviceGetCount,
    cuDeviceGetName,
    cuDevicePrimaryCtxRelease_v2,
    cuDevicePrimaryCtxRetain,
    cuDeviceTotalMem_v2,
    cuDriverGetVersion,
    cuEventCreate,
    cuEventDestroy_v2,
    cuEventElapsedTime,
    cuEventRecord,
    cuEventSynchronize,
    cuFuncSetAttribute,
    cuInit,
    cuLaunchKernel,
    cuMemAlloc_v2,
    cuMemFreeHost,
    cuMemFree_v2,
    cuMemGetInfo_v2,
    cuMemHostAlloc,
    cuMemcpyAsync,
    cuMemsetD8Async,
    cuModuleGetFunction,
    cuModuleLoadData,
    cuModuleLoadDataEx,
    cuModuleUnload,
    cuStreamCreate,
    cuStreamDestroy_v2,
    cuStreamSynchronize,
    cuStreamWaitEvent,
);

// Green contexts, which drivers have since CUDA 12.4: looked for only where the number of multiprocessors is limited.
symbols!(GREEN_SYMBOLS:
    cuCtxFromGreenCtx,
    cuDevResourceGenerateDesc,
    cuDevSmResourceSplitByCount,
    cuDeviceGetDevResource,
    cuGreenCtxCreate,
    cuGreenCtxDestroy,
    cuGreenCtxStreamCreate,
);

/// Calls a function of libcuda and turns its CUresult into an error that names both.
macro_rules! call {
    ($name:ident($($argument:expr),* $(,)?)) => {{
        debug_assert!(SYMBOLS.iter().chain(GREEN_SYMBOLS).any(|s| *s == stringify!($name)), "{} is not checked for at the start", stringify!($name));
        // SAFETY: libcuda is present and has the symbol (`CudaDriver::open` checked). Handles were made by the driver and
        // are destroyed only when `CudaDriver` is dropped; pointers are to live variables or slices of the stated size.
        // Device addresses are the backend's duty: out of its arena, checked there.
        check(stringify!($name), unsafe { sys::$name($($argument),*) })
    }};
}

fn check(call: &str, result: sys::CUresult) -> Result<()> {
    if result == sys::CUresult::CUDA_SUCCESS { Ok(()) } else { Err(failure(call, result)) }
}

fn failure(call: &str, result: sys::CUresult) -> Error {
    let hint = hint(result as u32).map_or(String::new(), |h| format!(": {h}"));
    Error::failed(format!("CUDA: {call}: {result:?} ({}){hint}", result as u32))
}

/// What is behind a result that has its cause outside of this program.
pub fn hint(code: u32) -> Option<&'static str> {
    match code {
        34 => Some("a stub of libcuda was found before NVIDIA's driver: look at LD_LIBRARY_PATH"),
        46 => Some("the GPU is in exclusive mode and another process has it"),
        100 => Some("the driver shows no device: CUDA_VISIBLE_DEVICES may be empty, or name a slice that is gone"),
        214 => Some("an error in the GPU's memory: the device must be reset"),
        802 => Some("the system is not ready: nvidia-fabricmanager may not be running"),
        803 => {
            Some("the loaded kernel module and the driver's library differ in version: the machine must be restarted")
        }
        804 => Some("a compatibility library of CUDA does not go with this driver: look at LD_LIBRARY_PATH"),
        _ => None,
    }
}

/// Results of loading machine code that the driver's own compiler may get over.
const NOT_THIS_IMAGE: [sys::CUresult; 3] = [
    sys::CUresult::CUDA_ERROR_INVALID_IMAGE,
    sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
    sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
];

struct Module {
    handle: sys::CUmodule,
    functions: HashMap<&'static str, Function>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it may have so far.
    shared: u32,
}

/// A device under libcuda. Everything it made goes when it is dropped.
pub struct CudaDriver {
    device: sys::CUdevice,
    context: sys::CUcontext,
    attributes: Attributes,
    streams: Vec<sys::CUstream>,
    events: Vec<sys::CUevent>,
    modules: HashMap<&'static str, Module>,
    /// Addresses of device memory.
    allocated: Vec<Address>,
    /// Addresses of pinned memory, which is freed by another call.
    pinned: Vec<Address>,
    staging: Option<Staging>,
    /// The part of the device that is used, where it is not all of it.
    green: Option<sys::CUgreenCtx>,
}

/// Pinned memory that uploads pass through, so that the caller's bytes may change and the host runs ahead: a ring of
/// pieces, each with the event after which it is free again.
struct Staging {
    base: Address,
    events: [sys::CUevent; STAGES],
    /// The piece in use and how much of it is taken.
    stage: usize,
    used: usize,
    stream: Stream,
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

    /// Opens device `index`, of which work will run on `sm_limit` multiprocessors (rounded up to what the device can
    /// part: from 4 by twos on sm_80, by eights on sm_90): a green context, to study a slice on a larger card. Memory, its bandwidth and L2
    /// are not parted.
    ///
    /// # Errors
    /// As [`Self::open`]; also if the driver is too old to part a device.
    pub fn open_part(index: u32, sm_limit: Option<u32>) -> Result<Self> {
        require_library(SYMBOLS)?;
        if sm_limit.is_some() {
            require_library(GREEN_SYMBOLS).map_err(|e| e.context("--sm-limit"))?;
        }
        let (mut count, mut version) = (0, 0);
        call!(cuDriverGetVersion(&mut version))?;
        if version < OLDEST_DRIVER {
            return Err(Error::failed(format!(
                "the NVIDIA driver is for CUDA {}.{}; irori needs r525 (CUDA 12.0) or newer",
                version / 1000,
                version % 1000 / 10
            )));
        }
        call!(cuInit(0))?;
        call!(cuDeviceGetCount(&mut count))?;
        if i64::from(index) >= i64::from(count) {
            return Err(Error::usage(format!("the driver shows {count} CUDA devices, there is no number {index}")));
        }
        let (mut device, mut context) = (0, ptr::null_mut());
        call!(cuDeviceGet(&mut device, index as i32))?;
        let attributes = attributes(device)?;
        if attributes.capability < 80 {
            return Err(Error::failed(format!(
                "{} has compute capability {}.{}; irori's kernels need 8.0 or newer (A100, RTX 30 and later)",
                attributes.name,
                attributes.capability / 10,
                attributes.capability % 10
            )));
        }
        call!(cuDevicePrimaryCtxRetain(&mut context, device))?;
        // From here on dropping gives the context back.
        let mut driver = Self {
            device,
            context,
            attributes,
            streams: Vec::new(),
            events: Vec::new(),
            modules: HashMap::new(),
            allocated: Vec::new(),
            pinned: Vec::new(),
            staging: None,
            green: None,
        };
        if let Some(sms) = sm_limit {
            driver.limit(sms).map_err(|e| e.context(format!("--sm-limit {sms}")))?;
        }
        let main = driver.stream()?;
        debug_assert_eq!(main, Stream::MAIN);
        Ok(driver)
    }

    /// Whether the device is newer than the machine code in this program, so that the driver compiles the kernels' PTX.
    pub fn compiles_kernels(&self) -> bool {
        let carried = MODULES.iter().flat_map(|m| m.cubins.iter().map(|(sm, _)| *sm));
        choose_image(self.attributes.capability, carried) == Image::Ptx
    }

    /// Goes on in a green context of at least `sms` multiprocessors.
    fn limit(&mut self, sms: u32) -> Result<()> {
        let all = self.attributes.sms;
        if sms == 0 || sms > all {
            return Err(Error::usage(format!("the device has {all} multiprocessors")));
        }
        if sms == all {
            return Ok(());
        }
        self.bind()?;
        let of_device = sys::CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
        // SAFETY: plain data, for which all zero bytes are a valid value (type 0 is CU_DEV_RESOURCE_TYPE_INVALID).
        let (mut whole, mut part): (sys::CUdevResource, sys::CUdevResource) = unsafe { std::mem::zeroed() };
        call!(cuDeviceGetDevResource(self.device, &mut whole, of_device))?;
        let mut groups = 1;
        call!(cuDevSmResourceSplitByCount(&mut part, &mut groups, &whole, ptr::null_mut(), 0, sms))?;
        let (mut description, mut green, mut context) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        call!(cuDevResourceGenerateDesc(&mut description, &mut part, 1))?;
        let default_stream = sys::CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM as u32;
        call!(cuGreenCtxCreate(&mut green, description, self.device, default_stream))?;
        self.green = Some(green);
        call!(cuCtxFromGreenCtx(&mut context, green))?;
        self.context = context;
        // SAFETY: a resource of type SM, which the split gave, has this member.
        self.attributes.sms = unsafe { part.__bindgen_anon_1.sm.smCount };
        Ok(())
    }

    /// Room for `len` ≤ [`STAGE_BYTES`] bytes in pinned memory, free again after `event`, which the caller records.
    fn stage(&mut self, len: usize, stream: Stream) -> Result<(Address, sys::CUevent)> {
        if self.staging.is_none() {
            let base = self.alloc_pinned(STAGES * STAGE_BYTES)?;
            let mut events = [ptr::null_mut(); STAGES];
            for event in &mut events {
                call!(cuEventCreate(event, NO_TIMING))?;
                // So that an error on the way loses none.
                self.events.push(*event);
            }
            self.staging = Some(Staging { base, events, stage: 0, used: 0, stream });
        }
        let s = self.staging.as_mut().expect("made above");
        // An event tells of one stream's work, so another stream begins another piece.
        if s.used + len > STAGE_BYTES || s.stream != stream {
            (s.stage, s.used, s.stream) = ((s.stage + 1) % STAGES, 0, stream);
            call!(cuEventSynchronize(s.events[s.stage]))?;
        }
        let at = s.base + (s.stage * STAGE_BYTES + s.used) as u64;
        s.used += len.next_multiple_of(64);
        Ok((at, s.events[s.stage]))
    }

    fn bind(&self) -> Result<()> {
        call!(cuCtxSetCurrent(self.context))
    }

    fn raw_stream(&self, stream: Stream) -> Result<sys::CUstream> {
        self.streams.get(stream.0 as usize).copied().ok_or_else(|| Error::failed(format!("CUDA: no {stream:?}")))
    }

    fn raw_event(&self, event: Event) -> Result<sys::CUevent> {
        self.events.get(event.0 as usize).copied().ok_or_else(|| Error::failed(format!("CUDA: no {event:?}")))
    }

    fn function(&mut self, launch: &Launch) -> Result<Function> {
        let unknown = || Error::failed(format!("CUDA: kernel file {} is not loaded", launch.file));
        let module = self.modules.get_mut(launch.file).ok_or_else(unknown)?;
        if !module.functions.contains_key(launch.kernel) {
            let name = CString::new(launch.kernel).map_err(|_| Error::failed("CUDA: a kernel's name has a NUL"))?;
            let mut handle = ptr::null_mut();
            call!(cuModuleGetFunction(&mut handle, module.handle, name.as_ptr()))
                .map_err(|e| e.context(format!("cannot find kernel {}", launch.kernel)))?;
            module.functions.insert(launch.kernel, Function { handle, shared: SHARED_WITHOUT_OPT_IN });
        }
        let function = module.functions.get_mut(launch.kernel).expect("it was inserted above");
        if launch.shared > function.shared {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            call!(cuFuncSetAttribute(function.handle, attribute, launch.shared as i32))?;
            // All of the multiprocessor's memory that can be: two blocks of such a kernel are to fit.
            let carveout = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            call!(cuFuncSetAttribute(function.handle, carveout, 100))?;
            function.shared = launch.shared;
        }
        Ok(*function)
    }
}

/// Fails, in words, unless libcuda can be loaded and has these symbols.
fn require_library(symbols: &[&str]) -> Result<()> {
    // SAFETY: tries to open libcuda and closes it again; no symbol is used.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::failed(
            "no NVIDIA driver on this machine (libcuda.so.1 cannot be loaded); use --device cpu, or install the driver",
        ));
    }
    // SAFETY: libcuda is present, so this does not panic; opening it runs its initialisers, which is what it is for.
    let library = unsafe { sys::culib() };
    // SAFETY: the symbols are looked up, never called by this type.
    let lacks = |name: &&&str| unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err();
    match symbols.iter().find(lacks) {
        Some(name) => Err(Error::failed(format!(
            "libcuda on this machine lacks {name}: a stub library, or a driver older than r525; use --device cpu"
        ))),
        None => Ok(()),
    }
}

/// PTX compiled by the driver, which keeps the result for the next time; an error comes with the compiler's words.
fn compile(ptx: &str) -> Result<sys::CUmodule> {
    let text = CString::new(ptx).map_err(|_| Error::failed("CUDA: a PTX text has a NUL"))?;
    let mut handle = ptr::null_mut();
    let mut log = [0 as std::ffi::c_char; 4096];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), log.len() as *mut c_void];
    call!(cuModuleLoadDataEx(
        &mut handle,
        text.as_ptr().cast(),
        options.len() as u32,
        options.as_mut_ptr(),
        values.as_mut_ptr()
    ))
    .map_err(|e| e.context(format!("the driver's compiler says: {}", probe::text(&log).trim())))?;
    Ok(handle)
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
        call!(cuMemHostAlloc(
            &mut pointer,
            bytes.max(1),
            sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP
        ))
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

    fn write(&mut self, dst: Address, data: &[u8], stream: Stream) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let raw = self.raw_stream(stream)?;
        for (i, piece) in data.chunks(STAGE_BYTES).enumerate() {
            let (pinned, event) = self.stage(piece.len(), stream)?;
            // SAFETY: `stage` gave this room in pinned memory, which the host may write; nothing else uses it until it is
            // given again, which is after `event`.
            let room = unsafe { std::slice::from_raw_parts_mut(pinned as *mut u8, piece.len()) };
            if piece.len() > COPY_BYTES {
                room.par_chunks_mut(COPY_BYTES)
                    .zip(piece.par_chunks(COPY_BYTES))
                    .for_each(|(to, from)| to.copy_from_slice(from));
            } else {
                room.copy_from_slice(piece);
            }
            call!(cuMemcpyAsync(dst + (i * STAGE_BYTES) as u64, pinned, piece.len(), raw))?;
            call!(cuEventRecord(event, raw))?;
        }
        Ok(())
    }

    fn read(&mut self, src: Address, out: &mut [u8], stream: Stream) -> Result<()> {
        if out.is_empty() {
            return self.synchronize(stream);
        }
        self.bind()?;
        let stream = self.raw_stream(stream)?;
        let queued = call!(cuMemcpyAsync(out.as_mut_ptr() as Address, src, out.len(), stream));
        // Waits even if the copy was refused: nothing may write to `out` after the return.
        queued.and(call!(cuStreamSynchronize(stream)))
    }

    fn copy(&mut self, src: Address, dst: Address, bytes: usize, stream: Stream) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        call!(cuMemcpyAsync(dst, src, bytes, self.raw_stream(stream)?))
    }

    fn zero(&mut self, dst: Address, bytes: usize, stream: Stream) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        call!(cuMemsetD8Async(dst, 0, bytes, self.raw_stream(stream)?))
    }

    fn load(&mut self, module: &'static CompiledModule) -> Result<()> {
        if self.modules.contains_key(module.name) {
            return Ok(());
        }
        self.bind()?;
        let mut handle = ptr::null_mut();
        let said = |e: Error| e.context(format!("cannot load kernels/{}.cu on {}", module.name, self.attributes.name));
        match choose_image(self.attributes.capability, module.cubins.iter().map(|(sm, _)| *sm)) {
            Image::Machine(sm) => {
                let (_, code) = module.cubins.iter().find(|(s, _)| *s == sm).expect("it was chosen from these");
                // SAFETY: as in `call!`; the image is whole, and lives as long as the program.
                let result = unsafe { sys::cuModuleLoadData(&mut handle, code.as_ptr().cast()) };
                if NOT_THIS_IMAGE.contains(&result) {
                    handle = compile(module.ptx).map_err(said)?;
                } else {
                    check("cuModuleLoadData", result).map_err(said)?;
                }
            }
            Image::Ptx => handle = compile(module.ptx).map_err(said)?,
            Image::TooOld => return Err(said(Error::failed("the device is too old"))),
        }
        self.modules.insert(module.name, Module { handle, functions: HashMap::new() });
        Ok(())
    }

    fn launch(&mut self, launch: &Launch, stream: Stream) -> Result<()> {
        if launch.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let stream = self.raw_stream(stream)?;
        let function = self.function(launch)?;
        let arguments = launch.args.bytes();
        let mut size = arguments.len();
        let mut extra = [
            sys::CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT as usize as *mut c_void,
            arguments.as_ptr().cast_mut().cast(),
            sys::CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT as usize as *mut c_void,
            ptr::from_mut(&mut size).cast(),
            sys::CU_LAUNCH_PARAM_END_AS_INT as usize as *mut c_void,
        ];
        let [x, y, z] = launch.grid;
        let (threads, shared) = (launch.threads, launch.shared);
        call!(cuLaunchKernel(
            function.handle,
            x,
            y,
            z,
            threads,
            1,
            1,
            shared,
            stream,
            ptr::null_mut(),
            extra.as_mut_ptr()
        ))
        .map_err(|e| {
            let what = format!("{} of {x}×{y}×{z} blocks of {threads} threads, {shared} bytes", launch.kernel);
            e.context(format!("cannot launch {what} of shared memory"))
        })
    }

    fn stream(&mut self) -> Result<Stream> {
        self.bind()?;
        let mut stream = ptr::null_mut();
        match self.green {
            Some(green) => call!(cuGreenCtxStreamCreate(&mut stream, green, NON_BLOCKING, 0))?,
            None => call!(cuStreamCreate(&mut stream, NON_BLOCKING))?,
        }
        self.streams.push(stream);
        Ok(Stream(self.streams.len() as u32 - 1))
    }

    fn event(&mut self) -> Result<Event> {
        self.bind()?;
        let mut event = ptr::null_mut();
        call!(cuEventCreate(&mut event, 0))?;
        self.events.push(event);
        Ok(Event(self.events.len() as u32 - 1))
    }

    fn record(&mut self, event: Event, stream: Stream) -> Result<()> {
        self.bind()?;
        call!(cuEventRecord(self.raw_event(event)?, self.raw_stream(stream)?))
    }

    fn wait(&mut self, stream: Stream, event: Event) -> Result<()> {
        self.bind()?;
        call!(cuStreamWaitEvent(self.raw_stream(stream)?, self.raw_event(event)?, 0))
    }

    fn elapsed_ms(&mut self, from: Event, to: Event) -> Result<f32> {
        self.bind()?;
        let (from, to) = (self.raw_event(from)?, self.raw_event(to)?);
        let mut ms = 0.0;
        call!(cuEventSynchronize(to))?;
        call!(cuEventElapsedTime(&mut ms, from, to))?;
        Ok(ms)
    }

    fn synchronize(&mut self, stream: Stream) -> Result<()> {
        self.bind()?;
        call!(cuStreamSynchronize(self.raw_stream(stream)?))
    }
}

impl Drop for CudaDriver {
    fn drop(&mut self) {
        // A failure here (the process is ending, or the device is lost) has nobody left to tell.
        let _ = self.bind();
        for &stream in &self.streams {
            let _ = call!(cuStreamSynchronize(stream));
            let _ = call!(cuStreamDestroy_v2(stream));
        }
        for &event in &self.events {
            let _ = call!(cuEventDestroy_v2(event));
        }
        for module in self.modules.values() {
            let _ = call!(cuModuleUnload(module.handle));
        }
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
        modules::MODULES,
        probe::{Probe, probe},
        rows,
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
        let Some(optim) = MODULES.iter().find(|m| m.name == "optim") else { return };
        driver.load(optim).unwrap();
        let (src, dst) = (driver.alloc(4000).unwrap(), driver.alloc_pinned(2000).unwrap());
        driver.write(src, bytemuck::cast_slice(&[1.5f32; 1000]), Stream::MAIN).unwrap();
        let (from, to) = (driver.event().unwrap(), driver.event().unwrap());
        driver.record(from, Stream::MAIN).unwrap();
        driver.launch(&rows::convert(1000, src, dst), Stream::MAIN).unwrap();
        driver.record(to, Stream::MAIN).unwrap();
        let mut out = vec![0; 2000];
        driver.read(dst, &mut out, Stream::MAIN).unwrap();
        assert!(bytemuck::cast_slice::<u8, half::bf16>(&out).iter().all(|x| x.to_f32() == 1.5));
        assert!(driver.elapsed_ms(from, to).unwrap() >= 0.0);
        driver.free(src).unwrap();
        driver.free(dst).unwrap();
    }

    #[test]
    fn an_unknown_device_is_a_usage_error() {
        if let Err(e) = CudaDriver::open(9999) {
            assert!(!e.to_string().is_empty());
        }
    }
}
