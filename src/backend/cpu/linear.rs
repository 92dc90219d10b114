//! Products with a frozen weight, forward and backward.
//!
//! W is taken a panel of rows at a time. An NF4 or bf16 panel is unpacked to f32 scratch and multiplied; an f32 weight goes
//! through the same panels where it lies, so that how a weight is stored never changes a bit of the result. One to four
//! rows (decoding) take another path, which unpacks W a row at a time and multiplies from the cache.

use super::{
    access::Access,
    dropout::{self, Place},
    lora,
    matmul::{Mat, MatMut, Threads, multiply},
};
use crate::{
    Result,
    backend::{Buffer, DType, LoraPart, Rows, Weight, WeightStore},
    quant::nf4,
    rng::Dropout,
    simd,
};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Elements of a panel; it stays in the last-level cache.
const PANEL: usize = 1 << 20;
/// Most rows of z that take the decoding path.
pub(super) const FEW_ROWS: usize = 4;
/// Rows of W that a decoding task computes.
const FEW_STEP: usize = 16;

/// Rows of W in one panel.
fn panel_rows(k: usize) -> usize {
    (PANEL / k.max(1)).clamp(64, PANEL) / 64 * 64
}

/// Scratch of one panel in elements, for any weight of at most `largest` elements and width `widest`.
pub(super) fn panel_elements(widest: usize, largest: usize) -> usize {
    PANEL.max(64 * widest).min(largest)
}

/// A weight's storage, opened for reading.
#[derive(Clone, Copy)]
enum Store<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    Nf4 { packed: &'a [u8], absmax: &'a [f32], to_bf16: bool },
}

impl<'a> Store<'a> {
    fn open(m: &mut Access<'a>, w: &Weight) -> Result<Self> {
        super::check_width(m, "W", w.k)?;
        let len = w.n * w.k;
        match w.store {
            WeightStore::Dense(b) if b.dtype() == DType::Bf16 => Ok(Self::Bf16(m.read("W", b, len)?)),
            WeightStore::Dense(b) => Ok(Self::F32(m.read("W", b, len)?)),
            WeightStore::Nf4 { packed, absmax, compute } => {
                if !w.k.is_multiple_of(nf4::BLOCK) {
                    return Err(m.error(format!("an NF4 weight of width {} (not a multiple of 64)", w.k)));
                }
                let to_bf16 = match compute {
                    DType::Bf16 => true,
                    DType::F32 => false,
                    other => return Err(m.error(format!("compute type {other:?}, expected Bf16 or F32"))),
                };
                let packed = m.read("packed W", packed, len / 2)?;
                Ok(Self::Nf4 { packed, absmax: m.read("absmax of W", absmax, len / nf4::BLOCK)?, to_bf16 })
            }
        }
    }

    /// Elements `range` as f32 in `out`, on the calling thread. For NF4 the range is of whole blocks.
    fn unpack(&self, range: Range<usize>, out: &mut [f32]) {
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

/// Scratch for panels, unless the weight needs none.
fn panel_scratch<'a>(m: &mut Access<'a>, store: &Store, w: &Weight) -> Result<&'a mut [f32]> {
    let rows = if matches!(store, Store::F32(_)) { 0 } else { panel_rows(w.k).min(w.n) };
    m.scratch(rows * w.k)
}

/// See [`crate::backend::Backend::dequantize`].
pub(super) fn dequantize(m: &mut Access, w: &Weight, dst: Buffer) -> Result<()> {
    let store = Store::open(m, w)?;
    let len = w.n * w.k;
    const STEP: usize = 1 << 12;
    if dst.dtype() == DType::Bf16 {
        let out = m.write::<bf16>("dst", dst, len)?;
        out.par_chunks_mut(STEP).enumerate().for_each(|(i, out)| {
            let mut x = [0.0; STEP];
            let x = &mut x[..out.len()];
            store.unpack(i * STEP..i * STEP + out.len(), x);
            for (o, x) in out.iter_mut().zip(x) {
                *o = bf16::from_f32(*x);
            }
        });
    } else {
        let out = m.write::<f32>("dst", dst, len)?;
        out.par_chunks_mut(STEP).enumerate().for_each(|(i, out)| store.unpack(i * STEP..i * STEP + out.len(), out));
    }
    Ok(())
}

/// See [`crate::backend::Backend::linear`].
pub(super) fn forward(
    m: &mut Access,
    z: Buffer,
    w: &Weight,
    parts: &[LoraPart],
    add: Option<Buffer>,
    y: Buffer,
) -> Result<()> {
    let (n, k) = (w.n, w.k);
    let rows = super::rows_of(m, "z", z, k)?;
    let z = m.read::<f32>("z", z, rows * k)?;
    let store = Store::open(m, w)?;
    let same = add == Some(y);
    let out = m.write::<f32>("y", y, rows * n)?;
    if let Some(add) = add.filter(|_| !same) {
        out.copy_from_slice(m.read("add", add, rows * n)?);
    }
    let accumulate = add.is_some();
    if rows <= FEW_ROWS {
        few_rows(m, z, rows, w, &store, accumulate, out)?;
    } else {
        let scratch = panel_scratch(m, &store, w)?;
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
    for part in parts {
        let (width, r) = (lora::width(m, part, n)?, part.r);
        let u = m.read_first("u", part.u, rows * r)?;
        let b = m.read("B", part.b, width * r)?;
        multiply(
            MatMut::new(&mut out[part.out.start.min(rows * n)..], rows, width, n),
            true,
            part.scale,
            Mat::new(u, rows, r, r),
            Mat::new(b, width, r, r).t(),
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

/// See [`crate::backend::Backend::linear_backward`].
pub(super) fn backward(
    m: &mut Access,
    dy: Buffer,
    w: &Weight,
    rows: &Rows,
    parts: &[LoraPart],
    drop: Option<Dropout>,
    dz: Buffer,
) -> Result<()> {
    let (n, k, count) = (w.n, w.k, rows.count);
    let dy = m.read::<f32>("dy", dy, count * n)?;
    let store = Store::open(m, w)?;
    let dz = m.write::<f32>("dz", dz, count * k)?;
    let scratch = panel_scratch(m, &store, w)?;
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
    let chunk =
        if drop.is_some() && !parts.is_empty() { m.scratch::<f32>(lora::CHUNK.min(count) * k)? } else { &mut [] };
    for part in parts {
        let r = part.r;
        let v = m.read_first::<f32>("v", part.v, count * r)?;
        let a = Mat::new(m.read("A", part.a, r * k)?, r, k, k);
        let Some(drop) = drop else {
            multiply(MatMut::new(dz, count, k, k), true, 1.0, Mat::new(v, count, r, r), a, Threads::All);
            continue;
        };
        let place = lora::Places::open(m, rows, part.module)?;
        for start in (0..count).step_by(lora::CHUNK) {
            let len = lora::CHUNK.min(count - start);
            let product = &mut chunk[..len * k];
            let v = Mat::new(&v[start * r..], len, r, r);
            multiply(MatMut::new(product, len, k, k), false, 1.0, v, a, Threads::All);
            let dz = &mut dz[start * k..(start + len) * k];
            dz.par_chunks_mut(k).zip(product.par_chunks(k)).enumerate().for_each(|(i, (dz, x))| {
                let place: Place = place.of(start + i);
                dropout::add_masked(&drop, place, x, dz);
            });
        }
    }
    Ok(())
}
