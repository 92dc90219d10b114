//! A PTX virtual machine: runs compiled CUDA kernels without a GPU, under stricter eyes than hardware has.
//!
//! It takes the PTX text that nvcc (12 or 13, for sm_80 and newer) emits, decodes it once into flat instructions, and
//! runs them in warps of 32 lanes in lock step. It is a test instrument: results follow the ISA's rounding, schedules
//! are random but seeded, and mistakes that hardware forgives or hides are faults with kernel, line, block, thread and
//! address ([`FaultKind`]). It also counts what a launch costs ([`Counters`]), so that a kernel's memory traffic and
//! bank conflicts can be asserted in tests.
//!
//! What it is not: a model of time. There are no latencies, caches or occupancy; only counts.
//!
//! # How it differs from hardware
//! - `.approx` functions (`ex2`, `rsqrt`, `sin`, …) are computed in f64 and rounded once: more exact than a GPU's.
//! - `mma` sums a whole instruction's products and C in f64 and rounds once (`exec/mma.rs` says how hardware differs).
//! - Diverged lanes meet again at the branch's immediate post-dominator; lanes of one warp that wait for each other in
//!   a spin loop hang and are reported ([`FaultKind::NoProgress`]). Blocks that wait for other blocks may hang too.
//! - `cp.async` data arrive at the latest possible moment, the wait.
//! - Every thread of the block must reach `bar.sync` without a count: an earlier `return` of some is a fault.
//! - Fresh global and shared memory is all ones (NaN), and reading it is a fault.
//! - `printf` is silent; device functions that nvcc did not inline are refused.
//!
//! # Example
//! See [`Vm`].

mod count;
mod decode;
mod detect;
mod error;
mod exec;
mod float;
mod memory;
mod parse;
mod regs;
mod vm;

pub use count::{Class, Counters};
pub use detect::Detect;
pub use error::{Error, Fault, FaultKind, SourceLine};
pub use vm::{Args, Config, Dim, KernelInfo, Module, Vm};
