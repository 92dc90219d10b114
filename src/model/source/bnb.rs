//! Linears of checkpoints that bitsandbytes quantised: `X.weight` packed, with its records beside it (docs/facts.md#nf4).
//! What writes them is `sink/bnb.rs`.

use crate::{
    Result,
    model::safetensors::{MappedFile, not_finite},
    quant::{
        nested::{self, Nested},
        nf4::{self, Nf4},
        state::{self, QuantState},
    },
    tensor::DType,
};
use std::borrow::Cow;

/// Finds the file that holds a tensor.
pub(super) type Find<'f, 'a> = &'f dyn Fn(&str) -> Result<&'a MappedFile>;

/// The U8 tensor `name` of `len` bytes and any shape.
fn bytes<'a>(file: &'a MappedFile, name: &str, len: usize) -> Result<&'a [u8]> {
    if file.entry(name).is_some_and(|e| e.dtype != Some(DType::U8)) {
        return Err(file.wrong(name, "is not of type U8"));
    }
    raw(file, name, len)
}

/// The bytes of the tensor `name` of any type and shape, `len` of them.
fn raw<'a>(file: &'a MappedFile, name: &str, len: usize) -> Result<&'a [u8]> {
    let entry = file.entry(name).ok_or_else(|| file.wrong(name, "is missing"))?;
    match file.bytes(entry) {
        bytes if bytes.len() == len => Ok(bytes),
        bytes => Err(file.wrong(name, format!("has {} bytes, expected {len}", bytes.len()))),
    }
}

/// The quantised linear `path` of shape [n, k].
pub(super) fn linear<'a>(path: &str, n: usize, k: usize, find: Find<'_, 'a>) -> Result<Nf4<'a>> {
    let weight = format!("{path}.weight");
    let record = |suffix: &str| format!("{weight}.{suffix}");
    let state = quant_state(&record(state::QUANT_STATE), n, k, find)?;
    // `bnb_4bit_quant_storage` may give the packed bytes the name of another type: they are the same bytes.
    let packed = raw(find(&weight)?, &weight, n * k / 2)?;
    let codebook = record(state::QUANT_MAP);
    if find(&codebook)?.values(&codebook, 16)? != nf4::CODE {
        return Err(find(&codebook)?.wrong(&codebook, "is not the NF4 codebook"));
    }
    let absmax = record(state::ABSMAX);
    let file = find(&absmax)?;
    let blocks = (n * k).div_ceil(nf4::BLOCK);
    let absmax = match state.nested_offset {
        None => file.values(&absmax, blocks)?,
        Some(offset) => {
            let codes = bytes(file, &absmax, blocks)?.to_vec();
            let (scales, map) = (record(state::NESTED_ABSMAX), record(state::NESTED_QUANT_MAP));
            let scales = find(&scales)?.values(&scales, blocks.div_ceil(nested::BLOCK))?;
            let file = find(&map)?;
            let map = file.values(&map, 256)?.try_into().map_err(|_| file.wrong(&map, "is not a map"))?;
            nested::decode(&Nested { codes, absmax: scales, offset: offset as f32 }, &map)
        }
    };
    // Of finite scales and a finite mean too, if they are beyond what f32 holds.
    if let Some((i, &value)) = absmax.iter().enumerate().find(|(_, a)| !a.is_finite()) {
        let name = record(state::ABSMAX);
        return Err(find(&name)?.wrong(&name, format!("decoded, {}", not_finite(i, value))));
    }
    Ok(Nf4 { packed: Cow::Borrowed(packed), absmax })
}

/// What the record `name` says, checked against the shape that the configuration says.
fn quant_state(name: &str, n: usize, k: usize, find: Find) -> Result<QuantState> {
    let file = find(name)?;
    let entry = file.entry(name).ok_or_else(|| file.wrong(name, "is missing"))?;
    let state = QuantState::parse(file.bytes(entry)).map_err(|e| file.wrong(name, e))?;
    if state.shape != [n, k] {
        return Err(file.wrong(name, format!("says shape {:?}, the configuration says [{n}, {k}]", state.shape)));
    }
    Ok(state)
}
