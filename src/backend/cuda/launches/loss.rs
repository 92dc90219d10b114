//! Launches of `kernels/loss.cu`.

use super::{Context, Launches, vectors};
use crate::backend::{
    Buffer, DType,
    cuda::launch::{Args, Launch, int},
    ops::{Argmax, CrossEntropy, LogSoftmaxAt},
};

const THREADS: u32 = 1024;

/// See [`CrossEntropy`]: each row's loss into scratch, then their sum onto `loss`.
pub fn cross_entropy(op: &CrossEntropy, at: &Context) -> Launches {
    let rows = rows(op.logits, op.vocab)?;
    let nll = at.scratch(cross_entropy_scratch(op))?;
    let args = Args::new().with(at.of(op.logits)).with(int(op.vocab)).with(at.of(op.targets));
    let args = args.with(op.grad_scale).with(nll);
    let sum = Args::new().with(nll).with(rows).with(at.of(op.loss));
    Ok(vec![by_row("cross_entropy", rows, args), by_row("add_loss", 1, sum)])
}

/// Bytes for the losses of the rows, `F32 [R]`.
pub fn cross_entropy_scratch(op: &CrossEntropy) -> usize {
    op.rows() * DType::F32.size()
}

/// See [`LogSoftmaxAt`].
pub fn log_softmax_at(op: &LogSoftmaxAt, at: &Context) -> Launches {
    let args = Args::new().with(at.of(op.logits)).with(int(op.vocab));
    let args = args.with(at.of(op.ids)).with(int(op.c)).with(at.of(op.out));
    Ok(vec![by_row("log_softmax_at", rows(op.logits, op.vocab)?, args)])
}

/// See [`Argmax`].
pub fn argmax(op: &Argmax, at: &Context) -> Launches {
    let args = Args::new().with(at.of(op.logits)).with(int(op.vocab)).with(at.of(op.out));
    Ok(vec![by_row("argmax", rows(op.logits, op.vocab)?, args)])
}

fn rows(logits: Buffer, vocab: usize) -> Result<u32, String> {
    vectors("V", vocab)?;
    Ok(int(logits.len() / vocab))
}

fn by_row(kernel: &'static str, rows: u32, args: Args) -> Launch {
    Launch::new("loss", kernel, [rows, 1, 1], THREADS, args)
}
