//! The CUDA backend: kernels compiled by build.rs, launched through the driver API.
//!
//! | file | what is in it |
//! |---|---|
//! | [`CudaBackend`] | [`crate::backend::Backend`] over a driver |
//! | `access` | the arena: buffers to addresses |
//! | [`driver`], [`cudarc_driver`], [`probe`] | what is asked of a device; libcuda; what this machine has |
//! | [`modules`], [`launch`] | the compiled kernels; a launch as data |
//! | [`attention`], [`linear`], [`rows`], [`skinny`] | the launches of each kernel file: grids, shared memory, parameters |
//! | [`measure`] | peaks of the device |
//! | `sizes` | element types, scratch and limits, for the planner |

mod access;
pub mod attention;
mod backend;
pub mod cudarc_driver;
pub mod driver;
pub mod launch;
pub mod linear;
pub mod measure;
pub mod modules;
pub mod probe;
pub mod rows;
mod sizes;
pub mod skinny;

pub use backend::CudaBackend;
pub use sizes::{CudaSizes, Nf4Path};
