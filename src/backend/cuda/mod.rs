//! The CUDA backend: kernels compiled by build.rs, launched through the driver API.
//!
//! Present so far: the sizes that the planner works with.

mod sizes;

pub use sizes::CudaSizes;
