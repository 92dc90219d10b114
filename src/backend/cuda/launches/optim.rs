//! Launches of `kernels/optim.cu`.

use super::{Context, Launches, bf16};
use crate::backend::{
    DType,
    cuda::launch::{Args, Launch, blocks},
    ops::{AdamWUpdate, GlobalNorm},
};

/// Gradients whose squares one block adds up.
const NORM_SPAN: usize = 1024;
const THREADS: u32 = 256;

/// See [`GlobalNorm`]: partial sums of squares into scratch, then their sum and its root.
pub fn global_norm(op: &GlobalNorm, at: &Context) -> Launches {
    let (count, n) = (op.grad.len(), blocks(op.grad.len(), NORM_SPAN));
    let partial = at.scratch(global_norm_scratch(op))?;
    let squares = Args::new().with(at.of(op.grad)).with(count as u64).with(partial);
    let finish = Args::new().with(partial).with(n).with(at.of(op.norm));
    Ok(vec![
        Launch::new("optim", "squared_norm", [n, 1, 1], THREADS, squares),
        Launch::new("optim", "finish_norm", [1, 1, 1], 1024, finish),
    ])
}

/// Bytes for the partial sums, F32, one for each [`NORM_SPAN`] gradients.
pub fn global_norm_scratch(op: &GlobalNorm) -> usize {
    op.grad.len().div_ceil(NORM_SPAN) * DType::F32.size()
}

/// See [`AdamWUpdate`].
pub fn adamw(op: &AdamWUpdate, at: &Context) -> Launches {
    bf16("working", op.working)?;
    let count = op.grad.len();
    let args = Args::new().with(op.adamw.factors()).with(at.of(op.norm)).with(at.of(op.grad)).with(count as u64);
    let args = args.with(at.of(op.m)).with(at.of(op.v)).with(at.of(op.master)).with(at.of(op.working));
    Ok(vec![Launch::new("optim", "adamw", [blocks(count, THREADS as usize), 1, 1], THREADS, args)])
}
