//! Launches of `kernels/norm.cu`.

use super::{Context, Launches, vectors};
use crate::backend::{
    cuda::launch::{Args, Launch, int},
    ops,
};

/// Widest row that RMSNorm keeps in registers.
pub const MAX_HIDDEN: usize = 8192;
const THREADS: u32 = 256;

/// See [`ops::RmsNorm`].
pub fn forward(op: &ops::RmsNorm, at: &Context) -> Launches {
    let (rows, hidden) = shape(op.x.len(), op.w.len())?;
    let args = Args::new().with(at.of(op.x)).with(at.of(op.w)).with(op.eps).with(hidden).with(at.of(op.y));
    Ok(vec![Launch::new("norm", "rmsnorm", [rows, 1, 1], THREADS, args)])
}

/// See [`ops::RmsNormBackward`].
pub fn backward(op: &ops::RmsNormBackward, at: &Context) -> Launches {
    let (rows, hidden) = shape(op.x.len(), op.w.len())?;
    let args = Args::new().with(at.of(op.x)).with(at.of(op.w)).with(op.eps).with(hidden);
    let args = args.with(at.of(op.dy)).with(at.of_some(op.add)).with(at.of(op.dx));
    Ok(vec![Launch::new("norm", "rmsnorm_backward", [rows, 1, 1], THREADS, args)])
}

/// Rows and their width.
fn shape(len: usize, hidden: usize) -> Result<(u32, u32), String> {
    vectors("H", hidden)?;
    if hidden > MAX_HIDDEN {
        return Err(format!("rows of {hidden} elements, at most {MAX_HIDDEN} on CUDA"));
    }
    Ok((int(len / hidden), int(hidden)))
}
