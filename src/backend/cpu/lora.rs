//! The skinny products of the adapters.
//!
//! With dropout, z is masked a chunk of rows at a time into scratch; the mask is made again wherever it is needed.

use super::{
    access::Access,
    dropout::{self, Place},
    matmul::{Mat, MatMut, Threads, multiply},
};
use crate::{
    Result,
    backend::{Buffer, LoraPart, Rows},
    rng::Dropout,
};
use rayon::prelude::*;

/// Rows of z that are masked at a time.
pub(super) const CHUNK: usize = 256;

/// Where the rows of a micro-batch stand in the random numbers of one module.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    module: u32,
    samples: &'a [u32],
    positions: &'a [u32],
}

impl<'a> Places<'a> {
    /// Of the module numbered `module`.
    pub fn open(m: &mut Access<'a>, rows: &Rows, module: u32) -> Result<Self> {
        let samples = m.read_first("samples", rows.samples, rows.count)?;
        let positions = m.read_first("positions", rows.positions, rows.count)?;
        Ok(Self { module, samples, positions })
    }

    /// Of row `row`.
    pub fn of(&self, row: usize) -> Place {
        Place { module: self.module, sample: self.samples[row], position: self.positions[row] }
    }
}

/// Width of a part's columns, checked against the layer's.
pub(super) fn width(m: &Access, part: &LoraPart, n: usize) -> Result<usize> {
    if part.out.start > part.out.end || part.out.end > n {
        return Err(m.error(format!("an adapter on columns {:?} of {n}", part.out)));
    }
    Ok(part.out.len())
}

/// Rows `start..start + len` of drop(z), in scratch.
fn masked<'s>(
    z: &[f32],
    k: usize,
    start: usize,
    len: usize,
    places: &Places,
    drop: &Dropout,
    out: &'s mut [f32],
) -> &'s [f32] {
    let out = &mut out[..len * k];
    out.par_chunks_mut(k).zip(z[start * k..].par_chunks(k)).enumerate().for_each(|(i, (out, z))| {
        dropout::masked(drop, places.of(start + i), z, out);
    });
    out
}

/// See [`crate::backend::Backend::lora_down`].
pub(super) fn down(
    m: &mut Access,
    z: Buffer,
    k: usize,
    rows: &Rows,
    parts: &[LoraPart],
    drop: Option<Dropout>,
) -> Result<()> {
    super::check_width(m, "z", k)?;
    let count = rows.count;
    let z = m.read::<f32>("z", z, count * k)?;
    let scratch = if drop.is_some() { m.scratch::<f32>(CHUNK.min(count) * k)? } else { &mut [] };
    for part in parts {
        let r = part.r;
        let a = Mat::new(m.read("A", part.a, r * k)?, r, k, k).t();
        let u = m.write_first::<f32>("u", part.u, count * r)?;
        let Some(drop) = drop else {
            multiply(MatMut::new(u, count, r, r), false, 1.0, Mat::new(z, count, k, k), a, Threads::All);
            continue;
        };
        let places = Places::open(m, rows, part.module)?;
        for start in (0..count).step_by(CHUNK) {
            let len = CHUNK.min(count - start);
            let z = masked(z, k, start, len, &places, &drop, scratch);
            multiply(MatMut::new(&mut u[start * r..], len, r, r), false, 1.0, Mat::new(z, len, k, k), a, Threads::All);
        }
    }
    Ok(())
}

/// See [`crate::backend::Backend::lora_backward`].
pub(super) fn backward(
    m: &mut Access,
    z: Buffer,
    k: usize,
    dy: Buffer,
    n: usize,
    rows: &Rows,
    parts: &[LoraPart],
    drop: Option<Dropout>,
) -> Result<()> {
    super::check_width(m, "z", k)?;
    let count = rows.count;
    let z = m.read::<f32>("z", z, count * k)?;
    let dy = m.read::<f32>("dy", dy, count * n)?;
    let scratch = if drop.is_some() { m.scratch::<f32>(CHUNK.min(count) * k)? } else { &mut [] };
    for part in parts {
        let (r, width) = (part.r, width(m, part, n)?);
        let dy = Mat::new(&dy[part.out.start.min(count * n)..], count, width, n);
        let b = Mat::new(m.read("B", part.b, width * r)?, width, r, r);
        let u = Mat::new(m.read_first("u", part.u, count * r)?, count, r, r);
        let v = m.write_first::<f32>("v", part.v, count * r)?;
        let da = m.write::<f32>("dA", part.da, r * k)?;
        let db = m.write::<f32>("dB", part.db, width * r)?;
        multiply(MatMut::new(v, count, r, r), false, part.scale, dy, b, Threads::All);
        multiply(MatMut::new(db, width, r, r), true, part.scale, dy.t(), u, Threads::All);
        let v = &*v;
        let Some(drop) = drop else {
            let v = Mat::new(v, count, r, r).t();
            multiply(MatMut::new(da, r, k, k), true, 1.0, v, Mat::new(z, count, k, k), Threads::All);
            continue;
        };
        let places = Places::open(m, rows, part.module)?;
        for start in (0..count).step_by(CHUNK) {
            let len = CHUNK.min(count - start);
            let z = masked(z, k, start, len, &places, &drop, scratch);
            let v = Mat::new(&v[start * r..], len, r, r).t();
            multiply(MatMut::new(da, r, k, k), true, 1.0, v, Mat::new(z, len, k, k), Threads::All);
        }
    }
    Ok(())
}
