//! Head norm and rotary position embedding (Su et al. 2021) of q and k, and the gradient. Element i of a head turns with
//! element i + D/2.

use super::{access::Access, norm};
use crate::{
    Result,
    backend::{
        Buffer,
        ops::{self, Rotary, Rows},
    },
};
use rayon::prelude::*;

/// What both directions read.
struct Inputs<'a> {
    qkv: &'a [f32],
    q_norm: &'a [f32],
    k_norm: &'a [f32],
    rope: &'a [f32],
    positions: &'a [u32],
}

impl<'a> Inputs<'a> {
    fn open(m: &Access<'a>, qkv: Buffer, rows: &Rows, p: &Rotary) -> Result<Self> {
        let dim = p.heads.dim;
        let positions = &m.read::<u32>(rows.positions)?[..rows.count];
        let rope = m.read::<f32>(p.table)?;
        if let Some(at) = positions.iter().find(|&&at| (at as usize + 1) * dim > rope.len()) {
            return Err(m.error(format!("position {at} is beyond the {} of the rotary table", rope.len() / dim)));
        }
        Ok(Self { qkv: m.read(qkv)?, q_norm: m.read(p.q_norm)?, k_norm: m.read(p.k_norm)?, rope, positions })
    }

    /// cos and sin of row `t`.
    fn angles(&self, t: usize, dim: usize) -> (&[f32], &[f32]) {
        self.rope[self.positions[t] as usize * dim..][..dim].split_at(dim / 2)
    }
}

/// See [`ops::HeadNormRope`].
pub(super) fn forward(m: &mut Access, op: &ops::HeadNormRope) -> Result<()> {
    let p = &op.rotary;
    let inputs = Inputs::open(m, op.qkv, &op.rows, p)?;
    let (heads, dim) = (p.heads, p.heads.dim);
    let qk = m.write::<f32>(op.qk)?;
    qk.par_chunks_mut(heads.qk_width()).enumerate().for_each(|(t, out)| {
        let (cos, sin) = inputs.angles(t, dim);
        let row = &inputs.qkv[t * heads.qkv_width()..];
        for (head, (y, x)) in out.chunks_exact_mut(dim).zip(row.chunks_exact(dim)).enumerate() {
            let w = if head < heads.q { inputs.q_norm } else { inputs.k_norm };
            norm::normalise(x, w, norm::inverse_rms(x, p.eps), y);
            let (low, high) = y.split_at_mut(dim / 2);
            rotate(low, high, cos, sin, 1.0);
        }
    });
    Ok(())
}

crate::simd::multiversion! {
    /// Turns the pairs (low, high) by the angle, or back if `direction` is −1.
    fn rotate(low: &mut [f32], high: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
        for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            let s = s * direction;
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}

/// See [`ops::HeadNormRopeBackward`].
pub(super) fn backward(m: &mut Access, op: &ops::HeadNormRopeBackward) -> Result<()> {
    let p = &op.rotary;
    let inputs = Inputs::open(m, op.qkv, &op.rows, p)?;
    let (heads, dim) = (p.heads, p.heads.dim);
    let dqk = m.read::<f32>(op.dqk)?;
    let dqkv = m.write::<f32>(op.dqkv)?;
    dqkv.par_chunks_mut(heads.qkv_width()).enumerate().for_each(|(t, out)| {
        let (cos, sin) = inputs.angles(t, dim);
        let row = &inputs.qkv[t * heads.qkv_width()..];
        let gradient = &dqk[t * heads.qk_width()..(t + 1) * heads.qk_width()];
        let places = out.chunks_exact_mut(dim).zip(row.chunks_exact(dim)).zip(gradient.chunks_exact(dim));
        for (head, ((dx, x), dy)) in places.enumerate() {
            let w = if head < heads.q { inputs.q_norm } else { inputs.k_norm };
            dx.copy_from_slice(dy);
            let (low, high) = dx.split_at_mut(dim / 2);
            rotate(low, high, cos, sin, -1.0);
            let rho = norm::inverse_rms(x, p.eps);
            let mean = norm::projection(x, w, dx, rho);
            norm::replace(x, w, rho, mean, false, dx);
        }
    });
    Ok(())
}
