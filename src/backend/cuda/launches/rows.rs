//! Launches of `kernels/rows.cu`.

use super::{Context, Launches, bf16, vectors};
use crate::backend::{
    Buffer,
    cuda::launch::{Args, Launch, int},
    ops::{Embed, GatherRows, ScatterRows},
};

/// See [`Embed`]: a gather out of the table, which may lie in host memory.
pub fn embed(op: &Embed, at: &Context) -> Launches {
    bf16("table", op.table)?;
    launch("gather_rows", op.rows.count, op.width(), [op.table, op.rows.tokens, op.out], at)
}

/// See [`GatherRows`].
pub fn gather(op: &GatherRows, at: &Context) -> Launches {
    launch("gather_rows", op.index.len(), op.width, [op.x, op.index, op.out], at)
}

/// See [`ScatterRows`].
pub fn scatter(op: &ScatterRows, at: &Context) -> Launches {
    launch("scatter_rows", op.index.len(), op.width, [op.src, op.index, op.x], at)
}

/// A block moves one row. Both kernels take (where from, index, width, where to).
fn launch(kernel: &'static str, count: usize, width: usize, buffers: [Buffer; 3], at: &Context) -> Launches {
    vectors("a row", width)?;
    let [from, index, to] = buffers.map(|b| at.of(b));
    let args = Args::new().with(from).with(index).with(int(width)).with(to);
    Ok(vec![Launch::new("rows", kernel, [int(count), 1, 1], 128, args)])
}
