//! The arena, and operations that only move or convert elements.

use super::access::Access;
use crate::{
    Error, Result,
    backend::{Buffer, DType, Space, arena::ALIGN, check, ops},
    quant::nf4,
    tensor::Floats,
};
use bytemuck::{Pod, Zeroable};
use half::bf16;
use rayon::prelude::*;

/// Elements that one task converts.
const STEP: usize = 1 << 12;

/// One aligned unit of the arena.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(256))]
struct Line([u8; ALIGN]);

/// Zeroed memory; the system commits its pages when they are first written.
#[derive(Default)]
pub(super) struct Arena {
    lines: Vec<Line>,
    host: usize,
}

impl Arena {
    /// `bytes` zero bytes for the device's space, then `host_bytes` for that of the host.
    pub fn new(bytes: usize, host_bytes: usize) -> Result<Self> {
        let host = bytes.next_multiple_of(ALIGN);
        let all = host.saturating_add(host_bytes);
        let lines = bytemuck::try_zeroed_vec(all.div_ceil(ALIGN))
            .map_err(|()| Error::failed(format!("the system has no {all} bytes of memory for the arena")))?;
        Ok(Self { lines, host })
    }

    /// The bytes of `b`, for `operation`.
    pub fn bytes_mut(&mut self, operation: &str, b: Buffer) -> Result<&mut [u8]> {
        let (bytes, host) = self.parts();
        let space = match b.space() {
            Space::Device => &mut bytes[..host],
            Space::Host => &mut bytes[host..],
        };
        let have = space.len();
        space.get_mut(b.range()).ok_or_else(|| {
            check::error(operation, format!("the buffer ends at byte {} of an arena of {have}", b.range().end))
        })
    }

    /// All of it, and where the host's space begins.
    pub fn parts(&mut self) -> (&mut [u8], usize) {
        (bytemuck::cast_slice_mut(&mut self.lines), self.host)
    }
}

/// See [`ops::Zero`].
pub(super) fn zero(m: &mut Access, op: &ops::Zero) -> Result<()> {
    m.write_bytes(op.dst).map(|bytes| bytes.fill(0))
}

/// See [`ops::Copy`].
pub(super) fn copy(m: &mut Access, op: &ops::Copy) -> Result<()> {
    let from = m.read_bytes(op.src)?;
    m.write_bytes(op.dst)?.copy_from_slice(from);
    Ok(())
}

/// See [`ops::Convert`].
pub(super) fn convert(m: &mut Access, op: &ops::Convert) -> Result<()> {
    if op.src == op.dst {
        return Ok(());
    }
    let from = m.read::<f32>(op.src)?;
    match op.dst.dtype() {
        DType::Bf16 => round(from, m.write(op.dst)?),
        _ => m.write::<f32>(op.dst)?.copy_from_slice(from),
    }
    Ok(())
}

/// f32 to bf16 on all threads.
fn round(from: &[f32], to: &mut [bf16]) {
    to.par_chunks_mut(STEP).zip(from.par_chunks(STEP)).for_each(|(to, from)| {
        for (t, f) in to.iter_mut().zip(from) {
            *t = bf16::from_bits((nf4::round_bf16(*f).to_bits() >> 16) as u16);
        }
    });
}

/// See [`ops::LoadDense`].
pub(super) fn load_dense(m: &mut Access, op: &ops::LoadDense) -> Result<()> {
    dense(op.src.floats()?, m, op.dst)
}

/// See [`ops::MakeDense`].
pub(super) fn make_dense(m: &mut Access, op: &ops::MakeDense) -> Result<()> {
    let elements = op.recipe.elements(op.dst.len());
    dense(Floats::Bf16(bytemuck::cast_slice(&elements)), m, op.dst)
}

fn dense(from: Floats, m: &mut Access, dst: Buffer) -> Result<()> {
    if dst.dtype() == DType::F32 {
        let out = m.write::<f32>(dst)?;
        out.par_chunks_mut(STEP).enumerate().for_each(|(i, out)| from.read(i * STEP, out));
        return Ok(());
    }
    let out = m.write::<bf16>(dst)?;
    if let Floats::Bf16(bytes) = from {
        let out: &mut [u8] = bytemuck::cast_slice_mut(out);
        out.copy_from_slice(&bytes[..out.len()]);
        return Ok(());
    }
    out.par_chunks_mut(STEP).enumerate().for_each(|(i, out)| {
        let mut x = [0.0; STEP];
        let x = &mut x[..out.len()];
        from.read(i * STEP, x);
        for (o, x) in out.iter_mut().zip(x) {
            *o = bf16::from_f32(*x);
        }
    });
    Ok(())
}
