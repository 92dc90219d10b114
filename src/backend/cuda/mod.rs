//! The CUDA backend: kernels compiled by build.rs, launched through the driver API.
//!
//! Present so far: the sizes that the planner works with, and the table of compiled kernels, which is empty.

pub mod attention;
pub mod launch;
pub mod modules;
pub mod probe;
pub mod rows;
mod sizes;

pub use sizes::CudaSizes;
