//! What of CUDA this machine has, found without assuming that any of it is there.

use cudarc::driver::sys;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Probe {
    /// No libcuda: a machine without an NVIDIA driver.
    NoDriver,
    /// libcuda is there and refuses to work.
    DriverFailed {
        /// The call that failed.
        call: &'static str,
        /// Its CUresult.
        code: u32,
    },
    /// A working driver.
    Driver {
        /// CUDA version that the driver supports, 12080 for 12.8.
        version: i32,
        /// Devices it shows.
        devices: Vec<Device>,
    },
}

/// A device, or a MIG slice of one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Device {
    /// Name as the driver says it.
    pub name: String,
    /// Compute capability × 10.
    pub capability: i32,
    /// Streaming multiprocessors.
    pub sms: i32,
    /// Bytes of memory.
    pub memory: u64,
}

/// Asks the driver. Never panics: symbols are only touched once libcuda is known to be present.
pub fn probe() -> Probe {
    // SAFETY: tries to open libcuda and closes it again; no symbol is used.
    if !unsafe { sys::is_culib_present() } {
        return Probe::NoDriver;
    }
    match driver() {
        Ok((version, devices)) => Probe::Driver { version, devices },
        Err((call, result)) => Probe::DriverFailed { call, code: result as u32 },
    }
}

type Failure = (&'static str, sys::CUresult);

fn checked(call: &'static str, result: sys::CUresult) -> Result<(), Failure> {
    if result == sys::CUresult::CUDA_SUCCESS { Ok(()) } else { Err((call, result)) }
}

fn driver() -> Result<(i32, Vec<Device>), Failure> {
    let mut version = 0;
    let mut count = 0;
    // SAFETY: libcuda is present; the pointers are to live integers of the types that the driver API states.
    unsafe {
        checked("cuDriverGetVersion", sys::cuDriverGetVersion(&mut version))?;
        match sys::cuInit(0) {
            // No device is not a failure of the driver.
            sys::CUresult::CUDA_ERROR_NO_DEVICE => return Ok((version, Vec::new())),
            result => checked("cuInit", result)?,
        }
        checked("cuDeviceGetCount", sys::cuDeviceGetCount(&mut count))?;
    }
    let devices = (0..count).map(device).collect::<Result<_, _>>()?;
    Ok((version, devices))
}

fn device(index: i32) -> Result<Device, Failure> {
    use sys::CUdevice_attribute as A;
    let mut handle = 0;
    let mut name = [0 as std::ffi::c_char; 256];
    let mut memory = 0usize;
    // SAFETY: after cuInit; `name` has the length that is passed, the other pointers are to live integers.
    unsafe {
        checked("cuDeviceGet", sys::cuDeviceGet(&mut handle, index))?;
        checked("cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, handle))?;
        checked("cuDeviceTotalMem", sys::cuDeviceTotalMem_v2(&mut memory, handle))?;
    }
    let attribute = |a: A| -> Result<i32, Failure> {
        let mut value = 0;
        // SAFETY: as above, with a device handle that cuDeviceGet gave.
        checked("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, a, handle) })?;
        Ok(value)
    };
    Ok(Device {
        name: text(&name),
        capability: attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? * 10
            + attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        sms: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory: memory as u64,
    })
}

/// Text that the driver ended with a NUL.
pub(super) fn text(from: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = from.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
