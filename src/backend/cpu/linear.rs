//! Products with a frozen weight, forward and backward.
//!
//! W is taken a panel of rows at a time. An NF4 or bf16 panel is unpacked to f32 scratch and multiplied; an f32 weight goes
//! through the same panels where it lies, so that how a weight is stored never changes a bit of the result. One to four
//! rows (decoding) take another path, which unpacks W a row at a time and multiplies from the cache.

use super::{
    access::Access,
    dropout, lora,
    matmul::{Mat, MatMut, Threads, multiply},
};
use crate::{
    Result,
    backend::{
        DType,
        arena::ALIGN,
        ops::{self, Weight, WeightStore},
    },
    quant::nf4,
    simd,
};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Elements of a panel; it stays in the last-level cache.
const PANEL: usize = 1 << 20;
/// Most rows of z that take the decoding path.
const FEW_ROWS: usize = 4;
/// Rows of W that a decoding task computes.
const FEW_STEP: usize = 16;

/// Rows of W in one panel.
fn panel_rows(k: usize) -> usize {
    (PANEL / k.max(1)).clamp(64, PANEL) / 64 * 64
}

/// Elements of scratch that a panel of `w` needs: none where it is f32 already.
fn panel_elements(w: &Weight) -> usize {
    match w.store {
        WeightStore::Dense(b) if b.dtype() == DType::F32 => 0,
        _ => panel_rows(w.k).min(w.n) * w.k,
    }
}

/// Bytes of scratch of [`forward`] with these rows or fewer.
pub(super) fn forward_scratch(op: &ops::Linear) -> usize {
    panel_elements(&op.w).max(FEW_ROWS.min(op.rows()) * op.w.n) * size_of::<f32>()
}

/// Bytes of scratch of [`backward`].
pub(super) fn backward_scratch(op: &ops::LinearBackward) -> usize {
    let bytes = |elements: usize| (elements * size_of::<f32>()).next_multiple_of(ALIGN);
    bytes(panel_elements(&op.w)) + bytes(mask_elements(op))
}

/// Elements of scratch for the product that is masked.
fn mask_elements(op: &ops::LinearBackward) -> usize {
    lora::mask_elements(op.mask.filter(|_| !op.parts.is_empty()), op.rows(), op.w.k)
}

/// A weight's storage, opened for reading.
#[derive(Clone, Copy)]
pub(super) enum Store<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    Nf4 { packed: &'a [u8], absmax: &'a [f32], to_bf16: bool },
}

impl<'a> Store<'a> {
    pub fn open(m: &Access<'a>, w: &Weight) -> Result<Self> {
        match w.store {
            WeightStore::Dense(b) if b.dtype() == DType::Bf16 => Ok(Self::Bf16(m.read(b)?)),
            WeightStore::Dense(b) => Ok(Self::F32(m.read(b)?)),
            WeightStore::Nf4 { packed, absmax, compute } => {
                let to_bf16 = compute == DType::Bf16;
                Ok(Self::Nf4 { packed: m.read(packed)?, absmax: m.read(absmax)?, to_bf16 })
            }
        }
    }

    /// Elements `range` as f32 in `out`, on the calling thread. For NF4 the range is of whole blocks.
    pub fn unpack(&self, range: Range<usize>, out: &mut [f32]) {
        match self {
            Self::F32(w) => out.copy_from_slice(&w[range]),
            Self::Bf16(w) => widen(&w[range], out),
            Self::Nf4 { packed, absmax, to_bf16 } => {
                let (bytes, blocks) = (range.start / 2..range.end / 2, range.start / 64..range.end / 64);
                nf4::dequantize_blocks(&packed[bytes], &absmax[blocks], *to_bf16, out);
            }
        }
    }

    /// Elements `range` as f32: where they lie, or unpacked by all threads into `scratch`.
    fn panel<'s>(&self, range: Range<usize>, scratch: &'s mut [f32]) -> &'s [f32]
    where
        'a: 's,
    {
        const STEP: usize = 1 << 14;
        if let Self::F32(w) = self {
            return &w[range];
        }
        let out = &mut scratch[..range.len()];
        out.par_chunks_mut(STEP).enumerate().for_each(|(i, out)| {
            let start = range.start + i * STEP;
            self.unpack(start..start + out.len(), out);
        });
        out
    }
}

simd::multiversion! {
    /// bf16 to f32.
    fn widen(x: &[bf16], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

/// See [`ops::Linear`].
pub(super) fn forward(m: &mut Access, op: &ops::Linear) -> Result<()> {
    let (w, n, k, rows) = (&op.w, op.w.n, op.w.k, op.rows());
    let z = m.read::<f32>(op.z)?;
    let store = Store::open(m, w)?;
    let out = m.write::<f32>(op.y)?;
    if let Some(add) = op.add.filter(|add| *add != op.y) {
        out.copy_from_slice(m.read(add)?);
    }
    let accumulate = op.add.is_some();
    if rows <= FEW_ROWS {
        few_rows(m, z, rows, w, &store, accumulate, out)?;
    } else {
        let scratch = m.scratch(panel_elements(w))?;
        let step = panel_rows(k);
        for start in (0..n).step_by(step) {
            let count = step.min(n - start);
            let panel = store.panel(start * k..(start + count) * k, scratch);
            multiply(
                MatMut::new(&mut out[start.min(rows * n)..], rows, count, n),
                accumulate,
                1.0,
                Mat::new(z, rows, k, k),
                Mat::new(panel, count, k, k).t(),
                Threads::All,
            );
        }
    }
    for part in &op.parts {
        let (width, r) = (part.out.len(), part.r);
        multiply(
            MatMut::new(&mut out[part.out.start.min(rows * n)..], rows, width, n),
            true,
            part.scale,
            Mat::new(m.read(part.u)?, rows, r, r),
            Mat::new(m.read(part.b)?, width, r, r).t(),
            Threads::All,
        );
    }
    Ok(())
}

/// `y (+)= z·Wᵀ` for one to four rows: W is unpacked block by block and used at once.
fn few_rows(
    m: &mut Access,
    z: &[f32],
    rows: usize,
    w: &Weight,
    store: &Store,
    accumulate: bool,
    y: &mut [f32],
) -> Result<()> {
    const BLOCK: usize = 1024;
    let (n, k) = (w.n, w.k);
    if rows == 0 || n == 0 {
        return Ok(());
    }
    let transposed = m.scratch::<f32>(n * rows)?;
    transposed.par_chunks_mut(FEW_STEP * rows).enumerate().for_each(|(task, out)| {
        let mut block = [0.0; BLOCK];
        for (i, out) in out.chunks_exact_mut(rows).enumerate() {
            let row = (task * FEW_STEP + i) * k;
            out.fill(0.0);
            for start in (0..k).step_by(BLOCK) {
                let len = BLOCK.min(k - start);
                let range = row + start..row + start + len;
                let values = match store {
                    Store::F32(w) => &w[range],
                    _ => {
                        store.unpack(range, &mut block[..len]);
                        &block[..len]
                    }
                };
                for (t, out) in out.iter_mut().enumerate() {
                    *out += simd::dot(values, &z[t * k + start..][..len]);
                }
            }
        }
    });
    for (t, y) in y.chunks_exact_mut(n).enumerate() {
        for (y, x) in y.iter_mut().zip(transposed.chunks_exact(rows)) {
            *y = if accumulate { *y + x[t] } else { x[t] };
        }
    }
    Ok(())
}

/// See [`ops::LinearBackward`].
pub(super) fn backward(m: &mut Access, op: &ops::LinearBackward) -> Result<()> {
    let (n, k, count) = (op.w.n, op.w.k, op.rows());
    let dy = m.read::<f32>(op.dy)?;
    let store = Store::open(m, &op.w)?;
    let dz = m.write::<f32>(op.dz)?;
    let scratch = m.scratch(panel_elements(&op.w))?;
    let step = panel_rows(k);
    for start in (0..n).step_by(step) {
        let height = step.min(n - start);
        let panel = store.panel(start * k..(start + height) * k, scratch);
        multiply(
            MatMut::new(dz, count, k, k),
            start > 0,
            1.0,
            Mat::new(&dy[start.min(count * n)..], count, height, n),
            Mat::new(panel, height, k, k),
            Threads::All,
        );
    }
    let chunk = m.scratch::<f32>(mask_elements(op))?;
    for part in &op.parts {
        let r = part.r;
        let v = m.read::<f32>(part.v)?;
        let a = Mat::new(m.read(part.a)?, r, k, k);
        let Some(mask) = &op.mask else {
            multiply(MatMut::new(dz, count, k, k), true, 1.0, Mat::new(v, count, r, r), a, Threads::All);
            continue;
        };
        let places = lora::Places::open(m, mask, part.module)?;
        for start in (0..count).step_by(lora::CHUNK) {
            let len = lora::CHUNK.min(count - start);
            let product = &mut chunk[..len * k];
            let v = Mat::new(&v[start * r..], len, r, r);
            multiply(MatMut::new(product, len, k, k), false, 1.0, v, a, Threads::All);
            let dz = &mut dz[start * k..(start + len) * k];
            dz.par_chunks_mut(k).zip(product.par_chunks(k)).enumerate().for_each(|(i, (dz, x))| {
                dropout::add_masked(&mask.dropout, places.of(start + i), x, dz);
            });
        }
    }
    Ok(())
}
