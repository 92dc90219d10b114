//! SwiGLU and its gradient.

use super::access::Access;
use crate::{Result, backend::ops, simd};
use rayon::prelude::*;

/// See [`ops::SwiGlu`].
pub(super) fn forward(m: &mut Access, op: &ops::SwiGlu) -> Result<()> {
    let gu = m.read::<f32>(op.gu)?;
    let s = m.write::<f32>(op.s)?;
    s.par_chunks_mut(op.width).zip(gu.par_chunks(2 * op.width)).for_each(|(s, gu)| {
        let (g, u) = gu.split_at(op.width);
        gate(g, u, s);
    });
    Ok(())
}

simd::multiversion! {
    /// `s = g·σ(g)·u`.
    fn gate(g: &[f32], u: &[f32], s: &mut [f32]) {
        for ((s, g), u) in s.iter_mut().zip(g).zip(u) {
            *s = g / (1.0 + simd::exp(-g)) * u;
        }
    }
}

/// See [`ops::SwiGluBackward`].
pub(super) fn backward(m: &mut Access, op: &ops::SwiGluBackward) -> Result<()> {
    let ds = m.read::<f32>(op.ds)?;
    let gu = m.write::<f32>(op.gu)?;
    gu.par_chunks_mut(2 * op.width).zip(ds.par_chunks(op.width)).for_each(|(gu, ds)| {
        let (g, u) = gu.split_at_mut(op.width);
        gate_backward(g, u, ds);
    });
    Ok(())
}

simd::multiversion! {
    /// `dg = ds·u·σ·(1 + g·(1 − σ))` over g, `du = ds·g·σ` over u.
    fn gate_backward(g: &mut [f32], u: &mut [f32], ds: &[f32]) {
        for ((g, u), ds) in g.iter_mut().zip(u).zip(ds) {
            let sigmoid = 1.0 / (1.0 + simd::exp(-*g));
            let du = ds * *g * sigmoid;
            *g = ds * *u * sigmoid * (1.0 + *g * (1.0 - sigmoid));
            *u = du;
        }
    }
}
