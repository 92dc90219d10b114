//! The functions of libcuda that are used: found before the first call, called by name, their results as errors.
//!
//! cudarc's bindings load libcuda and look up each symbol at its first call, and panic if one is missing; formatting cudarc's
//! own error type calls libcuda as well. So [`require`] first makes sure that the library is there and has every symbol that
//! is used (stub libraries in containers lack some), and results stay plain CUresults.

use crate::{Error, Result, error::Setting};
use cudarc::driver::sys;

macro_rules! symbols {
    ($of:ident: $($name:ident),* $(,)?) => {
        pub(super) const $of: &[&str] = &[$(stringify!($name)),*];
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
        debug_assert!($crate::backend::cuda::driver::libcuda::is_required(stringify!($name)), "{}", stringify!($name));
        // SAFETY: libcuda is present and has the symbol (`CudaDriver::open` checked). Handles were made by the driver and
        // are destroyed only when `CudaDriver` is dropped; pointers are to live variables or slices of the stated size.
        // Device addresses are the backend's duty: out of its arena, checked there.
        $crate::backend::cuda::driver::libcuda::check(stringify!($name), unsafe {
            cudarc::driver::sys::$name($($argument),*)
        })
    }};
}
pub(super) use call;

/// Whether [`require`] looks for this symbol.
pub(super) fn is_required(name: &str) -> bool {
    SYMBOLS.iter().chain(GREEN_SYMBOLS).any(|s| *s == name)
}

/// The error behind a result that is not success.
pub(super) fn check(call: &'static str, result: sys::CUresult) -> Result<()> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let code = result as u32;
    let hint = hint(code).map_or(String::new(), |h| format!(": {h}"));
    Err(Error::Device { call, code, message: format!("{result:?}{hint}") })
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

/// Fails, in words, unless libcuda can be loaded and has these symbols, which `wanted` asks for.
pub(super) fn require(symbols: &[&str], wanted: &Setting) -> Result<()> {
    // SAFETY: tries to open libcuda and closes it again; no symbol is used.
    if !unsafe { sys::is_culib_present() } {
        return Err(unavailable(wanted, "there is no NVIDIA driver on this machine: libcuda.so.1 cannot be loaded"));
    }
    // SAFETY: libcuda is present, so this does not panic; opening it runs its initialisers, which is what it is for.
    let library = unsafe { sys::culib() };
    // SAFETY: the symbols are looked up, never called by this type.
    let lacks = |name: &&&str| unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err();
    match symbols.iter().find(lacks) {
        Some(name) => {
            let message = format!("libcuda on this machine lacks {name}: it is a stub, or the driver is too old");
            Err(unavailable(wanted, message))
        }
        None => Ok(()),
    }
}

/// A setting that cannot be had on this machine.
fn unavailable(wanted: &Setting, message: impl Into<String>) -> Error {
    Error::setting(wanted.clone(), message).advise([Setting::new("device", "cpu")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_says_its_name_its_code_and_what_is_behind_it() {
        assert!(check("cuInit", sys::CUresult::CUDA_SUCCESS).is_ok());
        let e = check("cuInit", sys::CUresult::CUDA_ERROR_NO_DEVICE).expect_err("it failed");
        assert!(matches!(e, Error::Device { call: "cuInit", code: 100, .. }), "{e:?}");
        let said = e.to_string();
        assert!(said.starts_with("cuInit failed: CUDA_ERROR_NO_DEVICE: the driver shows no device"), "{said}");
    }

    #[test]
    fn every_symbol_is_asked_for_once() {
        let all: Vec<_> = SYMBOLS.iter().chain(GREEN_SYMBOLS).collect();
        assert!(all.iter().all(|name| is_required(name)));
        let unlike: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(unlike.len(), all.len());
    }
}
