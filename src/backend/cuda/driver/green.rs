//! A part of a device's multiprocessors, to study a slice on a larger card: a green context.

use super::libcuda::{GREEN_SYMBOLS, call, require};
use crate::{Error, Result, error::Setting};
use cudarc::driver::sys;
use std::ptr;

/// A green context and what it has.
pub(super) struct Part {
    pub green: sys::CUgreenCtx,
    pub context: sys::CUcontext,
    /// Multiprocessors.
    pub sms: u32,
}

/// At least `sms` of the device's `all` multiprocessors; `None` for all of them. The device's context is current.
pub(super) fn part(device: sys::CUdevice, sms: u32, all: u32) -> Result<Option<Part>> {
    let setting = Setting::new("sm-limit", sms);
    require(GREEN_SYMBOLS, &setting)?;
    if sms == 0 || sms > all {
        return Err(Error::setting(setting, format!("the device has {all} multiprocessors")));
    }
    if sms == all {
        return Ok(None);
    }
    create(device, sms).map(Some).map_err(|e| e.context(setting.to_string()))
}

fn create(device: sys::CUdevice, sms: u32) -> Result<Part> {
    let of_device = sys::CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
    // SAFETY: plain data, for which all zero bytes are a valid value (type 0 is CU_DEV_RESOURCE_TYPE_INVALID).
    let (mut whole, mut part): (sys::CUdevResource, sys::CUdevResource) = unsafe { std::mem::zeroed() };
    call!(cuDeviceGetDevResource(device, &mut whole, of_device))?;
    let mut groups = 1;
    call!(cuDevSmResourceSplitByCount(&mut part, &mut groups, &whole, ptr::null_mut(), 0, sms))?;
    let (mut description, mut green, mut context) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    call!(cuDevResourceGenerateDesc(&mut description, &mut part, 1))?;
    let default_stream = sys::CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM as u32;
    call!(cuGreenCtxCreate(&mut green, description, device, default_stream))?;
    if let Err(e) = call!(cuCtxFromGreenCtx(&mut context, green)) {
        let _ = call!(cuGreenCtxDestroy(green));
        return Err(e);
    }
    // SAFETY: a resource of type SM, which the split gave, has this member.
    let sms = unsafe { part.__bindgen_anon_1.sm.smCount };
    Ok(Part { green, context, sms })
}
