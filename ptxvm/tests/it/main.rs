//! Tests of the PTX virtual machine: known answers per instruction family, a planted bug per detector, real kernels.

mod common;
mod gemm;
