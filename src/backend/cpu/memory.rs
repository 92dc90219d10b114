//! The arena, and operations that only move or convert elements.

use super::access::Access;
use crate::{
    Error, Result,
    backend::{Buffer, DType, HostTensor, arena::ALIGN},
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

    /// All of it, and where the host's space begins.
    pub fn parts(&mut self) -> (&mut [u8], usize) {
        (bytemuck::cast_slice_mut(&mut self.lines), self.host)
    }
}

/// See [`crate::backend::Backend::write`].
pub(super) fn write(m: &mut Access, dst: Buffer, data: &[u8]) -> Result<()> {
    let bytes = m.write_bytes("dst", dst)?;
    match bytes.get_mut(..data.len()) {
        Some(bytes) => bytes.copy_from_slice(data),
        None => return Err(m.error(format!("{} bytes into a buffer of {}", data.len(), dst.bytes()))),
    }
    Ok(())
}

/// See [`crate::backend::Backend::copy`].
pub(super) fn copy(m: &mut Access, src: Buffer, dst: Buffer) -> Result<()> {
    if (src.dtype(), src.len()) != (dst.dtype(), dst.len()) {
        return Err(m.error(format!("{} {:?} to {} {:?}", src.len(), src.dtype(), dst.len(), dst.dtype())));
    }
    let from = m.read_bytes("src", src)?;
    m.write_bytes("dst", dst)?.copy_from_slice(from);
    Ok(())
}

/// See [`crate::backend::Backend::convert`].
pub(super) fn convert(m: &mut Access, src: Buffer, dst: Buffer) -> Result<()> {
    let len = src.len();
    if src == dst {
        return m.read::<f32>("src", src, len).map(|_| ());
    }
    let from = m.read::<f32>("src", src, len)?;
    match dst.dtype() {
        DType::Bf16 => round(from, m.write("dst", dst, len)?),
        _ => m.write::<f32>("dst", dst, len)?.copy_from_slice(from),
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

/// See [`crate::backend::Backend::load_dense`].
pub(super) fn load_dense(m: &mut Access, src: HostTensor, dst: Buffer) -> Result<()> {
    let from = src.floats()?;
    let len = from.len();
    if dst.dtype() == DType::Bf16 {
        let out = m.write::<bf16>("dst", dst, len)?;
        if let Floats::Bf16(bytes) = from {
            bytemuck::cast_slice_mut::<_, u8>(out).copy_from_slice(&bytes[..2 * len]);
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
    } else {
        let out = m.write::<f32>("dst", dst, len)?;
        out.par_chunks_mut(STEP).enumerate().for_each(|(i, out)| from.read(i * STEP, out));
    }
    Ok(())
}

/// See [`crate::backend::Backend::load_nf4`].
pub(super) fn load_nf4(m: &mut Access, src: HostTensor, packed: Buffer, absmax: Buffer) -> Result<()> {
    let from = src.floats()?;
    let len = from.len();
    if !len.is_multiple_of(nf4::BLOCK) {
        return Err(m.error(format!("{len} elements are not whole blocks of {}", nf4::BLOCK)));
    }
    let packed = m.write::<u8>("packed", packed, len / 2)?;
    nf4::quantize(from, packed, m.write("absmax", absmax, len / nf4::BLOCK)?);
    Ok(())
}
