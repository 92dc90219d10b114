//! The compiled kernels on the PTX virtual machine, against the cpu backend's operations. One file per kernel file.
//!
//! In a build without nvcc there is nothing to run: the tests say so and pass.

// A fused layer of one part is a list of one range.
#![allow(clippy::single_range_in_vec_init)]

mod attention;
mod costs;
mod decode;
mod gemv;
#[allow(dead_code)]
mod harness;
mod launches;
mod linear;
mod linear_nf4;
mod lora;
mod loss;
mod measure;
mod nf4;
mod norm;
mod optim;
mod peaks;
mod resources;
mod rope;
mod rounded;
mod rows;
mod step;
mod swiglu;
mod synthetic;
#[allow(dead_code)]
mod vm_driver;
