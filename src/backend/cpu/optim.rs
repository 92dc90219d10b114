//! The gradient's norm and AdamW.

use super::access::Access;
use crate::{
    Result,
    backend::ops::{self, AdamWFactors},
    simd,
};
use rayon::prelude::*;

/// Elements whose squares are summed by one task.
const CHUNK: usize = 1 << 14;
/// Elements that one task updates.
const UPDATE: usize = 1 << 12;

/// Bytes of scratch of [`global_norm`].
pub(super) fn norm_scratch(op: &ops::GlobalNorm) -> usize {
    8 * op.grad.len().div_ceil(CHUNK)
}

/// See [`ops::GlobalNorm`]: chunks in f64, added in order.
pub(super) fn global_norm(m: &mut Access, op: &ops::GlobalNorm) -> Result<()> {
    let grad = m.read::<f32>(op.grad)?;
    let out = m.write::<f32>(op.norm)?;
    let sums = m.scratch::<u8>(norm_scratch(op))?;
    sums.par_chunks_exact_mut(8).zip(grad.par_chunks(CHUNK)).for_each(|(sum, g)| {
        sum.copy_from_slice(&simd::sum_squares(g).to_ne_bytes());
    });
    let total: f64 = sums.as_chunks::<8>().0.iter().map(|&b| f64::from_ne_bytes(b)).sum();
    out[0] = total.sqrt() as f32;
    Ok(())
}

/// See [`ops::AdamWUpdate`].
pub(super) fn adamw(m: &mut Access, op: &ops::AdamWUpdate) -> Result<()> {
    let norm = m.read::<f32>(op.norm)?[0];
    if !norm.is_finite() {
        return Ok(());
    }
    let factors = op.adamw.factors();
    let clip = op.adamw.max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
    let grad = m.read::<f32>(op.grad)?;
    let (first, second) = (m.write::<f32>(op.m)?, m.write::<f32>(op.v)?);
    let master = m.write::<f32>(op.master)?;
    let states = first.par_chunks_mut(UPDATE).zip(second.par_chunks_mut(UPDATE));
    master.par_chunks_mut(UPDATE).zip(grad.par_chunks(UPDATE)).zip(states).for_each(|((w, g), (m, v))| {
        update(&factors, clip, w, g, m, v);
    });
    if op.working != op.master {
        m.write::<f32>(op.working)?.copy_from_slice(master);
    }
    Ok(())
}

simd::multiversion! {
    /// `torch.optim.AdamW`, single-tensor form, operation by operation.
    fn update(f: &AdamWFactors, clip: f32, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let f = *f;
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * clip;
            *w *= f.keep;
            *m += f.one_minus_beta1 * (g - *m);
            *v = *v * f.beta2 + f.one_minus_beta2 * g * g;
            let denominator = v.sqrt() / f.correction2 + f.eps;
            *w -= f.step_size * *m / denominator;
        }
    }
}
