//! The kernels that build.rs compiled into this program.

/// A kernel file: machine code by compute capability, and PTX.
#[derive(Debug)]
pub struct CompiledModule {
    /// Name of the file without its ending.
    pub name: &'static str,
    /// PTX for compute_80, version 8.0 at most: runs on chips newer than the machine code, and on the virtual machine.
    pub ptx: &'static str,
    /// (compute capability × 10, cubin).
    pub cubins: &'static [(u32, &'static [u8])],
}

/// Machine code at a multiple of 64 bytes, as it would lie in a file: the driver does not say that less will do.
#[cfg(irori_cuda)]
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// What ptxas said of each kernel: registers, shared memory, spills.
pub const RESOURCES: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.txt"));
