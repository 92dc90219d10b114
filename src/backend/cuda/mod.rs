//! The CUDA backend: kernels compiled by build.rs, launched through the driver API.
//!
//! | file | what is in it |
//! |---|---|
//! | [`CudaBackend`] | [`crate::backend::Backend`] over a driver |
//! | [`launches`] | each operation as launches: kernels, grids, shared memory, parameters, scratch |
//! | [`launch`], [`command`] | a launch as data; what a queue takes besides |
//! | [`context`] | the chip, and buffers to addresses |
//! | [`driver`] | what is asked of a device; libcuda; what this machine has |
//! | [`modules`] | the compiled kernels |
//! | [`measure`], `times` | peaks of the device; time of each operation |
//! | `properties` | element types, scratch and limits, for the planner |

mod backend;
pub mod command;
pub mod context;
pub mod driver;
pub mod launch;
pub mod launches;
pub mod measure;
pub mod modules;
mod properties;
mod times;

pub use backend::CudaBackend;
pub use context::Nf4Path;
pub use properties::CudaProperties;
