//! Launches of `kernels/rope.cu`.

use super::{Context, Launches, attention::HeadsArgs};
use crate::backend::{
    Rows,
    cuda::launch::{Args, Launch, blocks, int},
    ops::{HeadNormRope, HeadNormRopeBackward, Rotary},
};

/// Heads of a row that one block takes, a warp each.
const HEADS_PER_BLOCK: usize = 4;

/// See [`HeadNormRope`].
pub fn forward(op: &HeadNormRope, at: &Context) -> Launches {
    let args = rotary(Args::new().with(at.of(op.qkv)), &op.rows, &op.rotary, at)?;
    Ok(vec![launch("headnorm_rope", &op.rows, &op.rotary, args.with(at.of(op.qk)))])
}

/// See [`HeadNormRopeBackward`].
pub fn backward(op: &HeadNormRopeBackward, at: &Context) -> Launches {
    let args = rotary(Args::new().with(at.of(op.qkv)).with(at.of(op.dqk)), &op.rows, &op.rotary, at)?;
    Ok(vec![launch("headnorm_rope_backward", &op.rows, &op.rotary, args.with(at.of(op.dqkv)))])
}

/// Appends what both directions read beside activations.
fn rotary(args: Args, rows: &Rows, p: &Rotary, at: &Context) -> Result<Args, String> {
    let HeadsArgs { q, kv } = p.heads.try_into()?;
    let args = args.with(at.of(rows.positions)).with(at.of(p.q_norm)).with(at.of(p.k_norm));
    Ok(args.with(p.eps).with(at.of(p.table)).with(q).with(kv))
}

fn launch(kernel: &'static str, rows: &Rows, p: &Rotary, args: Args) -> Launch {
    let grid = [int(rows.count), blocks(p.heads.q + p.heads.kv, HEADS_PER_BLOCK), 1];
    Launch::new("rope", kernel, grid, 128, args)
}
