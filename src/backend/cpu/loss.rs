//! Softmax over the vocabulary: log-probabilities, the largest logit, cross-entropy with its gradient in place.
//!
//! The sum of a row's exponentials is f64; rows are added to the loss in their order.

use super::access::Access;
use crate::{Result, backend::Buffer, simd};
use rayon::prelude::*;

/// Fails if an id is not a column.
fn check_ids(m: &Access, name: &str, ids: &[u32], vocab: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocab) {
        Some(id) => Err(m.error(format!("{name} {id} is outside a vocabulary of {vocab}"))),
        None => Ok(()),
    }
}

/// See [`crate::backend::Backend::log_softmax_at`].
pub(super) fn log_softmax_at(
    m: &mut Access,
    logits: Buffer,
    vocab: usize,
    ids: Buffer,
    c: usize,
    out: Buffer,
) -> Result<()> {
    let rows = super::rows_of(m, "logits", logits, vocab)?;
    let logits = m.read::<f32>("logits", logits, rows * vocab)?;
    let ids = m.read::<u32>("ids", ids, rows * c)?;
    check_ids(m, "id", ids, vocab)?;
    let out = m.write::<f32>("out", out, rows * c)?;
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

/// See [`crate::backend::Backend::argmax`]. NaN is never the largest; a row of nothing else gives column 0.
pub(super) fn argmax(m: &mut Access, logits: Buffer, vocab: usize, out: Buffer) -> Result<()> {
    let rows = super::rows_of(m, "logits", logits, vocab)?;
    let logits = m.read::<f32>("logits", logits, rows * vocab)?;
    let out = m.write::<u32>("out", out, rows)?;
    out.par_iter_mut().zip(logits.par_chunks(vocab)).for_each(|(out, x)| {
        let largest = simd::max(x);
        *out = x.iter().position(|&v| v == largest).unwrap_or(0) as u32;
    });
    Ok(())
}

/// See [`crate::backend::Backend::cross_entropy`].
pub(super) fn cross_entropy(
    m: &mut Access,
    logits: Buffer,
    vocab: usize,
    targets: Buffer,
    grad_scale: f32,
    loss: Buffer,
) -> Result<()> {
    let rows = super::rows_of(m, "logits", logits, vocab)?;
    let targets = m.read::<u32>("targets", targets, rows)?;
    check_ids(m, "target", targets, vocab)?;
    let logits = m.write::<f32>("logits", logits, rows * vocab)?;
    let loss = m.write::<f32>("loss", loss, 1)?;
    let row_losses = m.scratch::<f32>(rows)?;
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
