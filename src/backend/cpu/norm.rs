//! RMSNorm (Zhang & Sennrich 2019) and its gradient with a frozen weight. The mean of squares is summed in f64.

use super::access::Access;
use crate::{Result, backend::ops, simd};
use rayon::prelude::*;

/// ρ = 1/√(mean(x²) + eps).
pub(super) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    (1.0 / (simd::sum_squares(x) / x.len() as f64 + f64::from(eps)).sqrt()) as f32
}

simd::multiversion! {
    /// `y = x·ρ∘w`.
    pub(super) fn normalise(x: &[f32], w: &[f32], rho: f32, y: &mut [f32]) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = x * rho * w;
        }
    }
}

simd::multiversion! {
    /// mean(g∘x̂) with g = dy∘w and x̂ = x·ρ, summed in f64.
    pub(super) fn projection(x: &[f32], w: &[f32], dy: &[f32], rho: f32) -> f32 {
        let mut lanes = [0.0f64; 8];
        for ((x, w), dy) in x.chunks(8).zip(w.chunks(8)).zip(dy.chunks(8)) {
            for (l, ((x, w), dy)) in lanes.iter_mut().zip(x.iter().zip(w).zip(dy)) {
                *l += f64::from(dy * w) * f64::from(*x);
            }
        }
        (lanes.into_iter().sum::<f64>() * f64::from(rho) / x.len() as f64) as f32
    }
}

/// See [`ops::RmsNorm`].
pub(super) fn forward(m: &mut Access, op: &ops::RmsNorm) -> Result<()> {
    let (x, w) = (m.read::<f32>(op.x)?, m.read::<f32>(op.w)?);
    let y = m.write::<f32>(op.y)?;
    let rows = y.par_chunks_mut(w.len()).zip(x.par_chunks(w.len()));
    rows.for_each(|(y, x)| normalise(x, w, inverse_rms(x, op.eps), y));
    Ok(())
}

/// See [`ops::RmsNormBackward`].
pub(super) fn backward(m: &mut Access, op: &ops::RmsNormBackward) -> Result<()> {
    let (x, w) = (m.read::<f32>(op.x)?, m.read::<f32>(op.w)?);
    let (width, eps) = (w.len(), op.eps);
    let (over_dy, over_add) = (op.dx == op.dy, op.add == Some(op.dx));
    let dy = if over_dy { None } else { Some(m.read::<f32>(op.dy)?) };
    let add = op.add.filter(|_| !over_add).map(|add| m.read::<f32>(add)).transpose()?;
    let dx = m.write::<f32>(op.dx)?;
    dx.par_chunks_mut(width).enumerate().for_each(|(i, dx)| {
        let at = i * width..(i + 1) * width;
        let x = &x[at.clone()];
        let rho = inverse_rms(x, eps);
        match dy {
            Some(dy) => {
                let dy = &dy[at.clone()];
                let mean = projection(x, w, dy, rho);
                if !over_add {
                    dx.fill(0.0);
                }
                accumulate(x, w, dy, rho, mean, dx);
            }
            None => {
                let mean = projection(x, w, dx, rho);
                replace(x, w, rho, mean, over_add, dx);
            }
        }
        if let Some(add) = add {
            simd::add_scaled(dx, 1.0, &add[at]);
        }
    });
    Ok(())
}

simd::multiversion! {
    /// `dx += ρ·(dy∘w − x̂·mean)`.
    fn accumulate(x: &[f32], w: &[f32], dy: &[f32], rho: f32, mean: f32, dx: &mut [f32]) {
        for (((dx, x), w), dy) in dx.iter_mut().zip(x).zip(w).zip(dy) {
            *dx += rho * (dy * w - x * rho * mean);
        }
    }
}

simd::multiversion! {
    /// `dx = ρ·(dx∘w − x̂·mean)`, plus the old dx if `keep`.
    pub(super) fn replace(x: &[f32], w: &[f32], rho: f32, mean: f32, keep: bool, dx: &mut [f32]) {
        for ((dx, x), w) in dx.iter_mut().zip(x).zip(w) {
            *dx = rho * (*dx * w - x * rho * mean) + if keep { *dx } else { 0.0 };
        }
    }
}
