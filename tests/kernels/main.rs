//! The compiled kernels on the PTX virtual machine, against the cpu backend's operations. One file per kernel file.
//!
//! In a build without nvcc there is nothing to run: the tests say so and pass.

// A fused layer of one part is a list of one range.
#![allow(clippy::single_range_in_vec_init)]

mod attention;
mod cache;
mod costs;
mod harness;
mod linear;
mod linear_gemv;
mod linear_nf4;
mod lora;
mod loss;
mod measure;
mod memory;
mod nf4;
mod norm;
mod optim;
mod resources;
mod rope;
mod rounded;
mod rows;
mod step;
mod stream;
mod swiglu;
mod vm_driver;
mod work;
