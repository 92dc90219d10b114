//! The CUDA backend: kernels compiled by build.rs, launched through the driver API.
//!
//! Present so far: the sizes that the planner works with, and the table of compiled kernels, which is empty.

pub mod linear;
pub mod modules;
pub mod probe;
mod sizes;
pub mod skinny;

pub use sizes::CudaSizes;
