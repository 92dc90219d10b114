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
    backend::ops::{self, Mask},
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
    pub fn open(m: &Access<'a>, mask: &Mask, module: u32) -> Result<Self> {
        Ok(Self { module, samples: m.read(mask.samples)?, positions: m.read(mask.positions)? })
    }

    /// Of row `row`.
    pub fn of(&self, row: usize) -> Place {
        Place { module: self.module, sample: self.samples[row], position: self.positions[row] }
    }
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

/// Elements of scratch for `rows` rows of `k` masked elements.
pub(super) fn mask_elements(mask: Option<Mask>, rows: usize, k: usize) -> usize {
    mask.map_or(0, |_| CHUNK.min(rows) * k)
}

/// See [`ops::LoraDown`].
pub(super) fn down(m: &mut Access, op: &ops::LoraDown) -> Result<()> {
    let (k, count) = (op.k, op.rows());
    let z = m.read::<f32>(op.z)?;
    let scratch = m.scratch::<f32>(mask_elements(op.mask, count, k))?;
    for part in &op.parts {
        let r = part.r;
        let a = Mat::new(m.read(part.a)?, r, k, k).t();
        let u = m.write::<f32>(part.u)?;
        let Some(mask) = &op.mask else {
            multiply(MatMut::new(u, count, r, r), false, 1.0, Mat::new(z, count, k, k), a, Threads::All);
            continue;
        };
        let places = Places::open(m, mask, part.module)?;
        for start in (0..count).step_by(CHUNK) {
            let len = CHUNK.min(count - start);
            let z = masked(z, k, start, len, &places, &mask.dropout, scratch);
            multiply(MatMut::new(&mut u[start * r..], len, r, r), false, 1.0, Mat::new(z, len, k, k), a, Threads::All);
        }
    }
    Ok(())
}

/// See [`ops::LoraBackward`].
pub(super) fn backward(m: &mut Access, op: &ops::LoraBackward) -> Result<()> {
    let (k, n, count) = (op.k, op.n, op.rows());
    let (z, dy) = (m.read::<f32>(op.z)?, m.read::<f32>(op.dy)?);
    let scratch = m.scratch::<f32>(mask_elements(op.mask, count, k))?;
    for part in &op.parts {
        let (r, width) = (part.r, part.out.len());
        let dy = Mat::new(&dy[part.out.start.min(count * n)..], count, width, n);
        let b = Mat::new(m.read(part.b)?, width, r, r);
        let u = Mat::new(m.read(part.u)?, count, r, r);
        let v = m.write::<f32>(part.v)?;
        let da = m.write::<f32>(part.da)?;
        let db = m.write::<f32>(part.db)?;
        multiply(MatMut::new(v, count, r, r), false, part.scale, dy, b, Threads::All);
        multiply(MatMut::new(db, width, r, r), true, part.scale, dy.t(), u, Threads::All);
        let v = &*v;
        let Some(mask) = &op.mask else {
            let v = Mat::new(v, count, r, r).t();
            multiply(MatMut::new(da, r, k, k), true, 1.0, v, Mat::new(z, count, k, k), Threads::All);
            continue;
        };
        let places = Places::open(m, mask, part.module)?;
        for start in (0..count).step_by(CHUNK) {
            let len = CHUNK.min(count - start);
            let z = masked(z, k, start, len, &places, &mask.dropout, scratch);
            let v = Mat::new(&v[start * r..], len, r, r).t();
            multiply(MatMut::new(da, r, k, k), true, 1.0, v, Mat::new(z, len, k, k), Threads::All);
        }
    }
    Ok(())
}
