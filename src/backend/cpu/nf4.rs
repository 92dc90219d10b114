//! Weights into NF4 and out of it.

use super::{access::Access, linear::Store};
use crate::{
    Result,
    backend::{Buffer, DType, ops},
    quant::nf4,
    tensor::Floats,
};
use half::bf16;
use rayon::prelude::*;

/// See [`ops::LoadNf4`].
pub(super) fn load(m: &mut Access, op: &ops::LoadNf4) -> Result<()> {
    quantize(op.src.floats()?, m, op.packed, op.absmax)
}

/// See [`ops::MakeNf4`].
pub(super) fn make(m: &mut Access, op: &ops::MakeNf4) -> Result<()> {
    let elements = op.recipe.elements(2 * op.packed.len());
    quantize(Floats::Bf16(bytemuck::cast_slice(&elements)), m, op.packed, op.absmax)
}

fn quantize(from: Floats, m: &mut Access, packed: Buffer, absmax: Buffer) -> Result<()> {
    let packed = m.write::<u8>(packed)?;
    nf4::quantize(from, packed, m.write(absmax)?);
    Ok(())
}

/// See [`ops::Dequantize`].
pub(super) fn dequantize(m: &mut Access, op: &ops::Dequantize) -> Result<()> {
    const STEP: usize = 1 << 12;
    let store = Store::open(m, &op.w)?;
    if op.dst.dtype() == DType::F32 {
        let out = m.write::<f32>(op.dst)?;
        out.par_chunks_mut(STEP).enumerate().for_each(|(i, out)| store.unpack(i * STEP..i * STEP + out.len(), out));
        return Ok(());
    }
    let out = m.write::<bf16>(op.dst)?;
    out.par_chunks_mut(STEP).enumerate().for_each(|(i, out)| {
        let mut x = [0.0; STEP];
        let x = &mut x[..out.len()];
        store.unpack(i * STEP..i * STEP + out.len(), x);
        for (o, x) in out.iter_mut().zip(x) {
            *o = bf16::from_f32(*x);
        }
    });
    Ok(())
}
