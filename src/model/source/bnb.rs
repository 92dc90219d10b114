//! Linears of checkpoints that bitsandbytes quantised: `X.weight` packed, with its scales and records beside it
//! (docs/facts.md#nf4).

use super::{
    LinearData,
    safetensors::{Entry, MappedFile, Stored},
};
use crate::{
    Error, Result,
    quant::{
        nested::{self, Nested},
        nf4,
        state::QuantState,
    },
};
use std::borrow::Cow;

/// Finds the file that holds a tensor.
pub(super) type Find<'f, 'a> = &'f dyn Fn(&str) -> Result<&'a MappedFile>;

fn bytes<'a>(file: &'a MappedFile, name: &str, len: usize) -> Result<&'a [u8]> {
    let wrong = |m: String| Error::content(file.path(), format!("tensor `{name}`"), m);
    let entry: &Entry = file.entry(name).ok_or_else(|| wrong("is missing".into()))?;
    if entry.stored != Stored::U8 {
        return Err(wrong("is not of type U8".into()));
    }
    let bytes = file.bytes(entry);
    if bytes.len() == len { Ok(bytes) } else { Err(wrong(format!("has {} bytes, expected {len}", bytes.len()))) }
}

/// The quantised linear `path` of shape [n, k].
pub(super) fn linear<'a>(path: &str, n: usize, k: usize, find: Find<'_, 'a>) -> Result<LinearData<'a>> {
    let weight = format!("{path}.weight");
    let record_name = format!("{weight}.quant_state.bitsandbytes__nf4");
    let record_file = find(&record_name)?;
    let at = |message: String| Error::content(record_file.path(), format!("tensor `{record_name}`"), message);
    let entry = record_file.entry(&record_name).ok_or_else(|| at("is missing".into()))?;
    let state = QuantState::parse(record_file.bytes(entry)).map_err(|e| at(e.to_string()))?;
    if state.shape != [n, k] {
        return Err(at(format!("says shape {:?}, the configuration says [{n}, {k}]", state.shape)));
    }
    let packed = bytes(find(&weight)?, &weight, n * k / 2)?;
    let blocks = (n * k).div_ceil(nf4::BLOCK);
    let codebook_name = format!("{weight}.quant_map");
    let codebook_file = find(&codebook_name)?;
    if codebook_file.values(&codebook_name, 16)? != nf4::CODE {
        let at = format!("tensor `{codebook_name}`");
        return Err(Error::content(codebook_file.path(), at, "is not the NF4 codebook"));
    }
    let absmax_name = format!("{weight}.absmax");
    let absmax_file = find(&absmax_name)?;
    let absmax = match state.nested_offset {
        None => absmax_file.values(&absmax_name, blocks)?,
        Some(offset) => {
            let scales = format!("{weight}.nested_absmax");
            let map_name = format!("{weight}.nested_quant_map");
            let map_file = find(&map_name)?;
            let map: [f32; 256] = map_file
                .values(&map_name, 256)?
                .try_into()
                .map_err(|_| Error::content(map_file.path(), format!("tensor `{map_name}`"), "is not a map"))?;
            let nested = Nested {
                codes: bytes(absmax_file, &absmax_name, blocks)?.to_vec(),
                absmax: find(&scales)?.values(&scales, blocks.div_ceil(nested::BLOCK))?,
                offset: offset as f32,
            };
            nested::decode(&nested, &map)
        }
    };
    Ok(LinearData::Nf4 { packed: Cow::Borrowed(packed), absmax })
}
