//! Launches of `kernels/swiglu.cu`.

use super::{Context, Launches, vectors};
use crate::backend::{
    Buffer,
    cuda::launch::{Args, Launch, blocks, int},
    ops,
};

/// Elements of a row that one thread takes.
const PER_THREAD: usize = 8;
const THREADS: u32 = 256;

/// See [`ops::SwiGlu`].
pub fn forward(op: &ops::SwiGlu, at: &Context) -> Launches {
    launch("swiglu", op.gu, op.s, op.width, at)
}

/// See [`ops::SwiGluBackward`].
pub fn backward(op: &ops::SwiGluBackward, at: &Context) -> Launches {
    launch("swiglu_backward", op.gu, op.ds, op.width, at)
}

/// Both directions take g and u, and one matrix of half their width: s or its gradient.
fn launch(kernel: &'static str, gu: Buffer, half: Buffer, width: usize, at: &Context) -> Launches {
    vectors("F", width)?;
    let args = Args::new().with(at.of(gu)).with(int(width)).with(at.of(half)).with(int(half.len() / width));
    let grid = [blocks(half.len() / PER_THREAD, THREADS as usize), 1, 1];
    Ok(vec![Launch::new("swiglu", kernel, grid, THREADS, args)])
}
