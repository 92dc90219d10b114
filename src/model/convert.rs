//! Whole models from a source to a sink: quantised, with an adapter merged, or in another element type. One tensor is in
//! memory at a time.

use super::{
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

/// The linears of layers that 4 bits leave dense.
pub fn kept_dense(source: &dyn WeightSource) -> impl Iterator<Item = ModelTensor> {
    tensors(source.config()).into_iter().filter(|t| t.linear().is_some() && source.stays_dense(t.path()))
}

/// The first linear of a layer that would be quantised and that NF4 cannot hold, because its rows are not whole blocks.
pub fn not_for_nf4(source: &dyn WeightSource) -> Option<ModelTensor> {
    let odd = |t: &ModelTensor| t.linear().is_some_and(|(_, k)| k % nf4::BLOCK != 0);
    tensors(source.config()).into_iter().find(|t| odd(t) && !source.stays_dense(t.path()))
}

/// Writes a dense model with the linears of its layers in NF4, but for those that the source has [stay
/// dense](WeightSource::stays_dense). Embedding, norms and head stay as they are.
///
/// # Errors
/// If a weight is missing, malformed or not finite, or the disk is full.
pub fn quantize(source: &dyn WeightSource, sink: &mut dyn WeightSink) -> Result<()> {
    for t in tensors(source.config()) {
        let weight = source.tensor(&t.name, &t.shape)?;
        if t.linear().is_some() && !source.stays_dense(t.path()) {
            sink.nf4(&t, &Nf4::of(weight.floats()?), weight.dtype)?;
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
    /// The linears as training saw them: quantised to NF4 and back, where it quantised them.
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
                let (dtype, mut w) = linear_f32(source, &t, beside.nf4 && !source.stays_dense(t.path()))?;
                if let Some(slot) = slots.get(&(layer, module)) {
                    add(&mut w, slot, &adapter.flat, adapter.lora.scale());
                }
                sink.tensor(&t, &encoded(source, &t, dtype, &w)?)?;
            }
            Role::Head if beside.nf4_head || source.is_packed(t.path()) => {
                let (dtype, w) = linear_f32(source, &t, true)?;
                sink.tensor(&t, &encoded(source, &t, dtype, &w)?)?;
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
/// If a weight is missing, malformed or too large for the type, or the disk is full.
pub fn copy(source: &dyn WeightSource, dtype: DType, sink: &mut dyn WeightSink) -> Result<()> {
    for t in tensors(source.config()) {
        let weight = source.tensor(&t.name, &t.shape)?;
        if weight.dtype == dtype {
            sink.tensor(&t, &weight)?;
        } else {
            sink.tensor(&t, &encoded(source, &t, dtype, &weight.to_f32()?)?)?;
        }
        drop(weight);
        source.release(&t.name);
    }
    Ok(())
}

/// What is written of a tensor that was computed: `values` rounded to `dtype`, in which every one must be a number. 70000
/// is none in F16.
fn encoded(source: &dyn WeightSource, t: &ModelTensor, dtype: DType, values: &[f32]) -> Result<Tensor<'static>> {
    let tensor = Tensor::new(dtype, &t.shape[..], dtype.encode(values));
    match tensor.floats()?.first_non_finite() {
        None => Ok(tensor),
        Some((i, value)) => {
            let message = format!("element {i} of the result is {}, which is {value} as {dtype:?}", values[i]);
            Err(Error::content(source.describe(), format!("tensor `{}`", t.name), message))
        }
    }
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

#[cfg(test)]
mod tests;
