//! SwiGLU (Shazeer 2020), and rows moved by index: embedding, gather, scatter.

use super::access::{Access, Element};
use crate::{
    Result,
    backend::{Buffer, DType, Rows},
    simd,
};
use half::bf16;
use rayon::prelude::*;

/// See [`crate::backend::Backend::swiglu`].
pub(super) fn swiglu(m: &mut Access, gu: Buffer, f: usize, s: Buffer) -> Result<()> {
    let rows = super::rows_of(m, "s", s, f)?;
    let gu = m.read::<f32>("gu", gu, rows * 2 * f)?;
    let s = m.write::<f32>("s", s, rows * f)?;
    s.par_chunks_mut(f).zip(gu.par_chunks(2 * f)).for_each(|(s, gu)| {
        let (g, u) = gu.split_at(f);
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

/// See [`crate::backend::Backend::swiglu_backward`].
pub(super) fn swiglu_backward(m: &mut Access, gu: Buffer, f: usize, ds: Buffer) -> Result<()> {
    let rows = super::rows_of(m, "ds", ds, f)?;
    let ds = m.read::<f32>("ds", ds, rows * f)?;
    let gu = m.write::<f32>("gu", gu, rows * 2 * f)?;
    gu.par_chunks_mut(2 * f).zip(ds.par_chunks(f)).for_each(|(gu, ds)| {
        let (g, u) = gu.split_at_mut(f);
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

/// Fails if an index is not a row.
fn check_index(m: &Access, name: &str, index: &[u32], rows: usize) -> Result<()> {
    match index.iter().find(|&&i| i as usize >= rows) {
        Some(i) => Err(m.error(format!("{name} {i} is outside {rows} rows"))),
        None => Ok(()),
    }
}

/// See [`crate::backend::Backend::embed`].
pub(super) fn embed(m: &mut Access, table: Buffer, rows: &Rows, out: Buffer) -> Result<()> {
    if rows.count == 0 {
        return Ok(());
    }
    let width = out.len() / rows.count;
    let tokens = m.read_first::<u32>("tokens", rows.tokens, rows.count)?;
    let out = m.write::<f32>("out", out, rows.count * width)?;
    let vocab = super::rows_of(m, "table", table, width)?;
    check_index(m, "token", tokens, vocab)?;
    if table.dtype() == DType::Bf16 {
        look_up(m.read::<bf16>("table", table, vocab * width)?, tokens, width, out, bf16::to_f32);
    } else {
        look_up(m.read::<f32>("table", table, vocab * width)?, tokens, width, out, |x| x);
    }
    Ok(())
}

fn look_up<T: Element>(table: &[T], tokens: &[u32], width: usize, out: &mut [f32], f: impl Fn(T) -> f32 + Sync) {
    out.par_chunks_mut(width).zip(tokens).for_each(|(out, &token)| {
        for (o, x) in out.iter_mut().zip(&table[token as usize * width..]) {
            *o = f(*x);
        }
    });
}

/// See [`crate::backend::Backend::gather_rows`].
pub(super) fn gather_rows(m: &mut Access, x: Buffer, index: Buffer, width: usize, out: Buffer) -> Result<()> {
    let rows = super::rows_of(m, "x", x, width)?;
    let x = m.read::<f32>("x", x, rows * width)?;
    let index = m.read::<u32>("index", index, index.len())?;
    check_index(m, "index", index, rows)?;
    let out = m.write::<f32>("out", out, index.len() * width)?;
    look_up(x, index, width, out, |x| x);
    Ok(())
}

/// See [`crate::backend::Backend::scatter_rows`].
pub(super) fn scatter_rows(m: &mut Access, src: Buffer, index: Buffer, width: usize, x: Buffer) -> Result<()> {
    let rows = super::rows_of(m, "x", x, width)?;
    let index = m.read::<u32>("index", index, index.len())?;
    check_index(m, "index", index, rows)?;
    let src = m.read::<f32>("src", src, index.len() * width)?;
    let x = m.write::<f32>("x", x, rows * width)?;
    for (src, &i) in src.chunks_exact(width).zip(index) {
        x[i as usize * width..][..width].copy_from_slice(src);
    }
    Ok(())
}
