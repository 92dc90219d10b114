//! The compiled kernels on the PTX virtual machine, against the cpu backend's operations. One file per kernel file.
//!
//! In a build without nvcc there is nothing to run: the tests say so and pass.

#[allow(dead_code)]
mod harness;
mod resources;
