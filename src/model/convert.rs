//! Whole models from a source to a sink: quantised, with an adapter merged, or in another element type. One tensor is in
//! memory at a time.

use super::{
    ModelConfig,
    catalogue::{ModelTensor, Role, tensors},
    lora::AdapterSlot,
    peft::Adapter,
    sink::WeightSink,
    source::{LinearData, WeightSource},
};
use crate::{
    Error, Result,
    quant::nf4::{self, Nf4},
    tensor::{DType, Tensor},
};
use rayon::prelude::*;
use std::collections::HashMap;

/// The first linear of a layer that NF4 cannot hold, because its rows are not whole blocks.
pub fn not_for_nf4(c: &ModelConfig) -> Option<ModelTensor> {
    tensors(c).into_iter().find(|t| t.linear().is_some_and(|(_, k)| k % nf4::BLOCK != 0))
}

/// Writes a dense model with the linears of its layers in NF4. Embedding, norms and head stay as they are.
///
/// # Errors
/// If a weight is missing, malformed or not finite, or the disk is full.
pub fn quantize(source: &dyn WeightSource, sink: &mut dyn WeightSink) -> Result<()> {
    for t in tensors(source.config()) {
        let weight = source.tensor(&t.name, &t.shape)?;
        if t.linear().is_some() {
            let nf4 = Nf4::of(weight.floats()?);
            if let Some(i) = nf4.absmax.iter().position(|a| !a.is_finite()) {
                let (row, column) = (i * nf4::BLOCK / t.shape[1], i * nf4::BLOCK % t.shape[1]);
                return Err(not_finite(source, &t, format!("row {row}, columns from {column}: not finite")));
            }
            sink.nf4(&t, &nf4, weight.dtype)?;
        } else {
            sink.tensor(&t, &weight)?;
        }
        drop(weight);
        source.release(&t.name);
    }
    Ok(())
}

/// Which weights an adapter is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beside {
    /// The linears as training saw them: quantised to NF4 and back.
    pub nf4: bool,
    /// A head of its own too.
    pub nf4_head: bool,
}

/// Writes a model with an adapter added into it, W + s·B·A in f32, rounded once to the type of W.
///
/// # Errors
/// If a weight is missing or malformed, a merged one is not finite, or the disk is full.
pub fn merge(source: &dyn WeightSource, adapter: &Adapter, beside: Beside, sink: &mut dyn WeightSink) -> Result<()> {
    let c = source.config();
    let slots: HashMap<_, AdapterSlot> = adapter.lora.slots(c).into_iter().map(|s| ((s.layer, s.module), s)).collect();
    for t in tensors(c) {
        match t.role {
            Role::Linear(layer, module) => {
                let (dtype, mut w) = linear_f32(source, &t, beside.nf4)?;
                if let Some(slot) = slots.get(&(layer, module)) {
                    add(&mut w, slot, &adapter.flat, adapter.lora.scale());
                }
                if let Some(i) = w.iter().position(|x| !x.is_finite()) {
                    return Err(not_finite(source, &t, format!("element {i} is not finite after merging")));
                }
                sink.tensor(&t, &Tensor::new(dtype, &t.shape[..], dtype.encode(&w)))?;
            }
            Role::Head if beside.nf4_head => {
                let (dtype, w) = linear_f32(source, &t, true)?;
                sink.tensor(&t, &Tensor::new(dtype, &t.shape[..], dtype.encode(&w)))?;
            }
            _ => sink.tensor(&t, &source.tensor(&t.name, &t.shape)?)?,
        }
        source.release(&t.name);
    }
    Ok(())
}

/// Writes a dense model with every tensor in one element type.
///
/// # Errors
/// If a weight is missing or malformed, or the disk is full.
pub fn copy(source: &dyn WeightSource, dtype: DType, sink: &mut dyn WeightSink) -> Result<()> {
    for t in tensors(source.config()) {
        let weight = source.tensor(&t.name, &t.shape)?;
        if weight.dtype == dtype {
            sink.tensor(&t, &weight)?;
        } else {
            sink.tensor(&t, &Tensor::new(dtype, &t.shape[..], dtype.encode(&weight.to_f32()?)))?;
        }
        drop(weight);
        source.release(&t.name);
    }
    Ok(())
}

fn not_finite(source: &dyn WeightSource, t: &ModelTensor, message: String) -> Error {
    Error::content(source.describe(), format!("tensor `{}`", t.name), message)
}

/// A linear as f32, and the type it is to be written in: dense as stored, or dequantised and rounded to bf16 as training sees
/// it.
pub(crate) fn linear_f32(source: &dyn WeightSource, t: &ModelTensor, through_nf4: bool) -> Result<(DType, Vec<f32>)> {
    match source.linear(t.path(), t.shape[0], t.shape[1])? {
        LinearData::Dense(w) if !through_nf4 => Ok((w.dtype, w.to_f32()?)),
        LinearData::Dense(w) => Ok((w.dtype, Nf4::of(w.floats()?).to_bf16_values())),
        LinearData::Nf4(nf4) => Ok((DType::Bf16, nf4.to_bf16_values())),
    }
}

/// w [n, k] += scale · B·A. Each row sums over the rank in ascending order, so the result depends on nothing else.
fn add(w: &mut [f32], slot: &AdapterSlot, flat: &[f32], scale: f32) {
    let (a, b) = (&flat[slot.a_range()], &flat[slot.b_range()]);
    w.par_chunks_mut(slot.k).zip(b.par_chunks(slot.r)).for_each(|(w, b)| {
        let mut delta = vec![0.0f32; slot.k];
        for (&b, a) in b.iter().zip(a.chunks_exact(slot.k)) {
            for (d, a) in delta.iter_mut().zip(a) {
                *d += b * a;
            }
        }
        for (w, d) in w.iter_mut().zip(delta) {
            *w += scale * d;
        }
    });
}
