//! Kernel files on a device: loaded as machine code or compiled from PTX, and the functions in them.

use super::{
    Image, choose_image,
    libcuda::{call, check},
    probe,
};
use crate::{
    Error, Result,
    backend::cuda::{launch::Launch, modules::CompiledModule},
};
use cudarc::driver::sys;
use std::{
    collections::HashMap,
    ffi::{CString, c_char, c_void},
    ptr,
};

/// Dynamic shared memory that a kernel may have without opting in.
const SHARED_WITHOUT_OPT_IN: u32 = 48 << 10;

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

/// The kernel files that have been loaded. Every method needs the device's context to be current.
#[derive(Default)]
pub(super) struct Kernels {
    modules: HashMap<&'static str, Module>,
}

impl Kernels {
    /// Loads a file for a device of this capability; again does nothing.
    pub fn load(&mut self, module: &'static CompiledModule, capability: u32) -> Result<()> {
        if !self.modules.contains_key(module.name) {
            let handle = image(module, capability)?;
            self.modules.insert(module.name, Module { handle, functions: HashMap::new() });
        }
        Ok(())
    }

    /// The function of a launch, which may have as much shared memory as the launch says.
    pub fn function(&mut self, launch: &Launch) -> Result<sys::CUfunction> {
        let unknown = || Error::internal(format!("kernels/{}.cu has not been loaded", launch.file));
        let module = self.modules.get_mut(launch.file).ok_or_else(unknown)?;
        if !module.functions.contains_key(launch.kernel) {
            let function = Function { handle: find(module.handle, launch)?, shared: SHARED_WITHOUT_OPT_IN };
            module.functions.insert(launch.kernel, function);
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
        Ok(function.handle)
    }

    /// Unloads all.
    pub fn unload(&mut self) {
        for (_, module) in self.modules.drain() {
            let _ = call!(cuModuleUnload(module.handle));
        }
    }
}

fn find(module: sys::CUmodule, launch: &Launch) -> Result<sys::CUfunction> {
    let name = CString::new(launch.kernel).map_err(|_| Error::internal("a kernel's name has a NUL"))?;
    let mut handle = ptr::null_mut();
    call!(cuModuleGetFunction(&mut handle, module, name.as_ptr()))
        .map_err(|e| e.context(format!("cannot find {} in kernels/{}.cu", launch.kernel, launch.file)))?;
    Ok(handle)
}

/// Machine code for the device if there is some that the driver takes, else the PTX.
fn image(module: &'static CompiledModule, capability: u32) -> Result<sys::CUmodule> {
    match choose_image(capability, module.cubins.iter().map(|(sm, _)| *sm)) {
        Image::Machine(sm) => {
            let (_, code) = module.cubins.iter().find(|(s, _)| *s == sm).expect("it was chosen from these");
            let mut handle = ptr::null_mut();
            // SAFETY: as in `call!`; the image is whole, and lives as long as the program.
            let result = unsafe { sys::cuModuleLoadData(&mut handle, code.as_ptr().cast()) };
            if NOT_THIS_IMAGE.contains(&result) {
                return compile(module.ptx);
            }
            check("cuModuleLoadData", result).map(|()| handle)
        }
        Image::Ptx => compile(module.ptx),
        Image::TooOld => Err(Error::internal(format!("a device of sm_{capability} was opened, which is too old"))),
    }
}

/// PTX compiled by the driver, which keeps the result for the next time; an error comes with the compiler's words.
fn compile(ptx: &str) -> Result<sys::CUmodule> {
    let text = CString::new(ptx).map_err(|_| Error::internal("a PTX text has a NUL"))?;
    let mut handle = ptr::null_mut();
    let mut log = [0 as c_char; 4096];
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
