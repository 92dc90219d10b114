//! Rows moved by index: embedding, gather, scatter.

use super::access::{Access, Element};
use crate::{
    Result,
    backend::{DType, ops},
};
use half::bf16;
use rayon::prelude::*;

/// Fails if an index is not a row.
fn check_index(m: &Access, name: &str, index: &[u32], rows: usize) -> Result<()> {
    match index.iter().find(|&&i| i as usize >= rows) {
        Some(i) => Err(m.error(format!("{name} {i} is outside {rows} rows"))),
        None => Ok(()),
    }
}

/// See [`ops::Embed`].
pub(super) fn embed(m: &mut Access, op: &ops::Embed) -> Result<()> {
    let width = op.width();
    if width == 0 {
        return Ok(());
    }
    let tokens = &m.read::<u32>(op.rows.tokens)?[..op.rows.count];
    let out = m.write::<f32>(op.out)?;
    check_index(m, "token", tokens, op.table.len() / width)?;
    if op.table.dtype() == DType::Bf16 {
        look_up(m.read::<bf16>(op.table)?, tokens, width, out, bf16::to_f32);
    } else {
        look_up(m.read::<f32>(op.table)?, tokens, width, out, |x| x);
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

/// See [`ops::GatherRows`].
pub(super) fn gather(m: &mut Access, op: &ops::GatherRows) -> Result<()> {
    let (x, index) = (m.read::<f32>(op.x)?, m.read::<u32>(op.index)?);
    check_index(m, "index", index, x.len() / op.width)?;
    look_up(x, index, op.width, m.write(op.out)?, |x| x);
    Ok(())
}

/// See [`ops::ScatterRows`].
pub(super) fn scatter(m: &mut Access, op: &ops::ScatterRows) -> Result<()> {
    let index = m.read::<u32>(op.index)?;
    check_index(m, "index", index, op.x.len() / op.width)?;
    let src = m.read::<f32>(op.src)?;
    let x = m.write::<f32>(op.x)?;
    for (src, &i) in src.chunks_exact(op.width).zip(index) {
        x[i as usize * op.width..][..op.width].copy_from_slice(src);
    }
    Ok(())
}
