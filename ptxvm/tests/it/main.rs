//! Tests of the PTX virtual machine: known answers per instruction family, a planted bug per detector, real kernels.

mod common;
mod detectors;
mod floats;
mod gemm;
mod integers;
mod mma;
mod parsing;
mod rows;
mod warps;
