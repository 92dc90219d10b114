//! Softmax over the vocabulary: log-probabilities, the largest logit, cross-entropy with its gradient in place.
//!
//! The sum of a row's exponentials is f64; rows are added to the loss in their order.

use super::access::Access;
use crate::{Result, backend::ops, simd};
use rayon::prelude::*;

/// Fails if an id is not a column.
fn check_ids(m: &Access, name: &str, ids: &[u32], vocab: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocab) {
        Some(id) => Err(m.error(format!("{name} {id} is outside a vocabulary of {vocab}"))),
        None => Ok(()),
    }
}

/// See [`ops::LogSoftmaxAt`].
pub(super) fn log_softmax_at(m: &mut Access, op: &ops::LogSoftmaxAt) -> Result<()> {
    let (vocab, c) = (op.vocab, op.c);
    let (logits, ids) = (m.read::<f32>(op.logits)?, m.read::<u32>(op.ids)?);
    check_ids(m, "id", ids, vocab)?;
    let out = m.write::<f32>(op.out)?;
    if c == 0 {
        return Ok(());
    }
    out.par_chunks_mut(c).zip(ids.par_chunks(c)).zip(logits.par_chunks(vocab)).for_each(|((out, ids), x)| {
        let largest = simd::max(x);
        let log_sum = simd::sum_exp_shifted(x, largest).ln();
        for (o, &id) in out.iter_mut().zip(ids) {
            *o = (f64::from(x[id as usize]) - f64::from(largest) - log_sum) as f32;
        }
    });
    Ok(())
}

/// See [`ops::Argmax`]. NaN is never the largest; a row of nothing else gives column 0.
pub(super) fn argmax(m: &mut Access, op: &ops::Argmax) -> Result<()> {
    let logits = m.read::<f32>(op.logits)?;
    let out = m.write::<u32>(op.out)?;
    out.par_iter_mut().zip(logits.par_chunks(op.vocab)).for_each(|(out, x)| {
        let largest = simd::max(x);
        *out = x.iter().position(|&v| v == largest).unwrap_or(0) as u32;
    });
    Ok(())
}

/// Bytes of scratch of [`cross_entropy`].
pub(super) fn cross_entropy_scratch(op: &ops::CrossEntropy) -> usize {
    op.rows() * size_of::<f32>()
}

/// See [`ops::CrossEntropy`].
pub(super) fn cross_entropy(m: &mut Access, op: &ops::CrossEntropy) -> Result<()> {
    let (vocab, grad_scale) = (op.vocab, op.grad_scale);
    let targets = m.read::<u32>(op.targets)?;
    check_ids(m, "target", targets, vocab)?;
    let logits = m.write::<f32>(op.logits)?;
    let loss = m.write::<f32>(op.loss)?;
    let row_losses = m.scratch::<f32>(op.rows())?;
    let work = row_losses.par_iter_mut().zip(logits.par_chunks_mut(vocab)).zip(targets);
    work.for_each(|((row_loss, x), &target)| {
        let target = target as usize;
        let (largest, at_target) = (simd::max(x), x[target]);
        let sum = simd::exp_shifted(x, largest);
        *row_loss = (sum.ln() + f64::from(largest) - f64::from(at_target)) as f32;
        simd::scale(x, (f64::from(grad_scale) / sum) as f32);
        x[target] -= grad_scale;
    });
    loss[0] = (f64::from(loss[0]) + row_losses.iter().map(|&l| f64::from(l)).sum::<f64>()) as f32;
    Ok(())
}
