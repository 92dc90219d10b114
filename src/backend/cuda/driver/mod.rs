//! What the CUDA backend asks of a device. [`CudaDriver`] implements it over libcuda; in tests the PTX virtual machine does.
//!
//! # Design
//! - Memory is plain addresses: the backend takes one arena and computes addresses in it. Pinned host memory has a device
//!   address too, so kernels and copies take either.
//! - Work is queued and runs in order. [`Driver::read`] and [`Driver::synchronize`] wait, nothing else does.
//! - Kernels are named by file and kernel ([`Launch`]); files are loaded once, beforehand.
//! - Errors name the call and its CUresult ([`crate::Error::Device`]). An error that a kernel causes may surface at any later
//!   call.
//!
//! | file | what is in it |
//! |---|---|
//! | `cudarc` | [`CudaDriver`] |
//! | `libcuda` | the functions of libcuda that are called, and what their results mean |
//! | `kernels`, `staging`, `green` | its kernel files, its uploads, a part of a device |
//! | [`probe`] | what this machine has |

mod cudarc;
mod green;
mod kernels;
mod libcuda;
pub mod probe;
mod staging;

use super::{
    launch::{Address, Launch},
    modules::CompiledModule,
};
use crate::Result;
pub use cudarc::CudaDriver;
pub use libcuda::hint;

/// A point in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Event(pub u32);

/// What is fixed about a device.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Attributes {
    /// Name as the driver says it.
    pub name: String,
    /// Compute capability × 10.
    pub capability: u32,
    /// Streaming multiprocessors (of the slice, on MIG).
    pub sms: u32,
    /// Shared memory that a block may have, in bytes, after opting in.
    pub shared_per_block: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_per_sm: u32,
    /// Memory in bytes.
    pub memory: u64,
}

/// A device.
pub trait Driver: Send {
    /// What is fixed about the device.
    fn attributes(&self) -> &Attributes;

    /// Bytes of memory that are free now, over all processes.
    ///
    /// # Errors
    /// If the device does not say.
    fn free_memory(&self) -> Result<u64>;

    /// Takes `bytes` of device memory, aligned to 256 at least. Its content is undefined.
    ///
    /// # Errors
    /// If there is not so much in one piece; the text says how much is free.
    fn alloc(&mut self, bytes: usize) -> Result<Address>;

    /// Takes `bytes` of pinned host memory that the device reads and writes by the address given.
    ///
    /// # Errors
    /// If the system does not grant it.
    fn alloc_pinned(&mut self, bytes: usize) -> Result<Address>;

    /// Gives back memory of either kind, by its first address. No work that uses it may be queued.
    ///
    /// # Errors
    /// If the address was not given by this driver.
    fn free(&mut self, address: Address) -> Result<()>;

    /// Copies host bytes to the device, in the order of the queue; `data` may change once this returns.
    ///
    /// # Errors
    /// If the driver refuses.
    fn write(&mut self, dst: Address, data: &[u8]) -> Result<()>;

    /// Copies device bytes to the host, after everything queued, and waits for them.
    ///
    /// # Errors
    /// If the driver refuses, or a kernel failed.
    fn read(&mut self, src: Address, out: &mut [u8]) -> Result<()>;

    /// Copies bytes within the device.
    ///
    /// # Errors
    /// If the driver refuses.
    fn copy(&mut self, src: Address, dst: Address, bytes: usize) -> Result<()>;

    /// Sets bytes to zero.
    ///
    /// # Errors
    /// If the driver refuses.
    fn zero(&mut self, dst: Address, bytes: usize) -> Result<()>;

    /// Loads a kernel file: machine code for this device if there is some, else its PTX. Loading it again does nothing.
    ///
    /// # Errors
    /// If the driver does not take it.
    fn load(&mut self, module: &'static CompiledModule) -> Result<()>;

    /// Queues a launch; an empty grid is nothing to do.
    ///
    /// # Errors
    /// If the file is not loaded, has no such kernel, or the launch asks for more than the device has.
    fn launch(&mut self, launch: &Launch) -> Result<()>;

    /// One more event, not recorded yet.
    ///
    /// # Errors
    /// If the driver refuses.
    fn event(&mut self) -> Result<Event>;

    /// Sets the event to the end of what is queued.
    ///
    /// # Errors
    /// If the driver refuses.
    fn record(&mut self, event: Event) -> Result<()>;

    /// Milliseconds between two recorded events; waits for the later one.
    ///
    /// # Errors
    /// If one was not recorded.
    fn elapsed_ms(&mut self, from: Event, to: Event) -> Result<f32>;

    /// Waits for everything queued.
    ///
    /// # Errors
    /// If a kernel failed.
    fn synchronize(&mut self) -> Result<()>;
}

/// What of a kernel file a device runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// Machine code for this compute capability × 10.
    Machine(u32),
    /// PTX, which the driver compiles.
    Ptx,
    /// The device is older than everything the program carries.
    TooOld,
}

/// Machine code runs on devices of the same major capability and an equal or higher minor one; PTX for compute_80 on
/// everything newer.
pub fn choose_image(capability: u32, available: impl IntoIterator<Item = u32>) -> Image {
    let fits = |sm: &u32| sm / 10 == capability / 10 && *sm <= capability;
    match available.into_iter().filter(fits).max() {
        Some(sm) => Image::Machine(sm),
        None if capability >= 80 => Image::Ptx,
        None => Image::TooOld,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_machine_code_is_chosen() {
        let image = |capability| choose_image(capability, [80, 86, 89, 90]);
        assert_eq!(image(80), Image::Machine(80));
        assert_eq!(image(87), Image::Machine(86));
        assert_eq!(image(89), Image::Machine(89));
        assert_eq!(image(90), Image::Machine(90));
        assert_eq!(image(100), Image::Ptx);
        assert_eq!(image(120), Image::Ptx);
        assert_eq!(image(75), Image::TooOld);
        assert_eq!(choose_image(90, []), Image::Ptx);
    }

    /// The trait is used as an object.
    #[test]
    fn drivers_are_objects() {
        fn _takes(_: Box<dyn Driver>) {}
    }
}
