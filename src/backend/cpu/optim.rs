//! The gradient's norm and AdamW.

use super::access::Access;
use crate::{
    Result,
    backend::{AdamW, Buffer, adamw::Factors},
    simd,
};
use rayon::prelude::*;

/// Elements whose squares are summed by one task.
const CHUNK: usize = 1 << 14;
/// Elements that one task updates.
const UPDATE: usize = 1 << 12;

/// Scratch of [`global_norm`] in elements of f32.
pub(super) fn norm_scratch(len: usize) -> usize {
    len.div_ceil(CHUNK)
}

/// See [`crate::backend::Backend::global_norm`]: chunks in f64, kept as pairs of f32, added in order.
pub(super) fn global_norm(m: &mut Access, grad: Buffer, norm: Buffer) -> Result<()> {
    let len = grad.len();
    let grad = m.read::<f32>("grad", grad, len)?;
    let out = m.write::<f32>("norm", norm, 1)?;
    let sums = m.scratch::<u8>(8 * norm_scratch(len))?;
    sums.par_chunks_exact_mut(8).zip(grad.par_chunks(CHUNK)).for_each(|(sum, g)| {
        sum.copy_from_slice(&simd::sum_squares(g).to_ne_bytes());
    });
    let total: f64 = sums.as_chunks::<8>().0.iter().map(|&b| f64::from_ne_bytes(b)).sum();
    out[0] = total.sqrt() as f32;
    Ok(())
}

/// See [`crate::backend::Backend::adamw`].
pub(super) fn adamw(
    m: &mut Access,
    p: &AdamW,
    norm: Buffer,
    grad: Buffer,
    [first, second]: [Buffer; 2],
    master: Buffer,
    working: Buffer,
) -> Result<()> {
    let len = master.len();
    let norm = m.read::<f32>("norm", norm, 1)?[0];
    if !norm.is_finite() {
        return Ok(());
    }
    let factors = p.factors();
    let clip = p.max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
    let grad = m.read::<f32>("grad", grad, len)?;
    let first = m.write::<f32>("m", first, len)?;
    let second = m.write::<f32>("v", second, len)?;
    let own = working != master;
    let master = m.write::<f32>("master", master, len)?;
    let states = first.par_chunks_mut(UPDATE).zip(second.par_chunks_mut(UPDATE));
    master.par_chunks_mut(UPDATE).zip(grad.par_chunks(UPDATE)).zip(states).for_each(|((w, g), (m, v))| {
        update(&factors, clip, w, g, m, v);
    });
    if own {
        m.write::<f32>("working", working, len)?.copy_from_slice(master);
    }
    Ok(())
}

simd::multiversion! {
    /// `torch.optim.AdamW`, single-tensor form, operation by operation.
    fn update(f: &Factors, clip: f32, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
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
