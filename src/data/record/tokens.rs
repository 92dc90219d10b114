//! Records that are token ids already: one sample, padded or not, or several behind each other.

use super::{
    Content,
    fields::{Of, Wrong, check},
};
use crate::data::{
    batch::NO_LOSS,
    questions::{excerpt, kind},
};
use serde_json::{Map, Value};
use std::ops::Range;

/// Lists of 0 and 1, as TRL and transformers write them: where one of them has 0 there is no loss.
const MASKS: [&str; 4] = ["completion_mask", "assistant_masks", "assistant_mask", "loss_mask"];

/// What else is understood beside ids, labels and masks.
const OTHERS: [&str; 8] = [
    "input_ids",
    "labels",
    "attention_mask",
    "position_ids",
    "token_type_ids",
    "seq_lengths",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
];

/// The samples of a record. Without labels the masks decide what is learned.
pub(super) fn samples(map: &Map<String, Value>) -> Result<Vec<Content>, Wrong> {
    check(map, &[&OTHERS[..], &MASKS[..]].concat(), Of::Tokens, "")?;
    let ids = list(map, "input_ids")?.ok_or_else(|| ("input_ids".to_owned(), "it is missing".to_owned()))?;
    let of_length = |field: &str| match list(map, field)? {
        Some(list) if list.len() != ids.len() => {
            Err((field.to_owned(), format!("{} {field} for {} input_ids", list.len(), ids.len())))
        }
        list => Ok(list),
    };
    let input_ids: Vec<u32> = ids
        .iter()
        .enumerate()
        .map(|(i, v)| {
            let id = v.as_u64().and_then(|id| i32::try_from(id).ok()).map(|id| id as u32);
            id.ok_or_else(|| wrong("input_ids", i, v, "a token id"))
        })
        .collect::<Result<_, _>>()?;
    let labels = labels(map, &input_ids, &of_length)?;
    let real = real(of_length("attention_mask")?, ids.len(), &labels, map.contains_key("labels"))?;
    if let Some(list) = of_length("token_type_ids")?
        && let Some((i, value)) = list.iter().enumerate().find(|(_, v)| v.as_u64() != Some(0))
    {
        return Err(wrong("token_type_ids", i, value, "0"));
    }
    let said = [
        ("position_ids", by_positions(of_length("position_ids")?, &real)?),
        ("seq_lengths", by_lengths(map, &real)?),
        ("cu_seq_lens_q", by_ends(map, "cu_seq_lens_q", &real)?),
        ("cu_seq_lens_k", by_ends(map, "cu_seq_lens_k", &real)?),
    ];
    let mut said = said.into_iter().filter_map(|(field, starts)| Some((field, starts?)));
    let (first, starts) = said.next().unwrap_or_else(|| ("", vec![real.start]));
    if let Some((field, _)) = said.find(|(_, others)| *others != starts) {
        return Err((field.into(), format!("says other samples than `{first}`")));
    }
    let ends = starts.iter().skip(1).copied().chain([real.end]);
    let sample = |(start, end): (usize, usize)| Content::Tokens {
        input_ids: input_ids[start..end].to_vec(),
        labels: labels[start..end].to_vec(),
    };
    Ok(starts.iter().copied().zip(ends).map(sample).collect())
}

fn wrong(field: &str, i: usize, value: &Value, wanted: &str) -> Wrong {
    (format!("{field}[{i}]"), format!("expected {wanted}, found {}", excerpt(&value.to_string())))
}

/// A list of the field that is as long as the ids, if the record has it.
type OfLength<'m, 'f> = &'f dyn Fn(&str) -> Result<Option<&'m Vec<Value>>, Wrong>;

/// The label of every token, with the masks laid over.
fn labels(map: &Map<String, Value>, input_ids: &[u32], of_length: OfLength) -> Result<Vec<i32>, Wrong> {
    let masks: Vec<(&str, &Vec<Value>)> = MASKS
        .iter()
        .filter_map(|&name| of_length(name).map(|list| list.map(|list| (name, list))).transpose())
        .collect::<Result<_, _>>()?;
    let mut labels: Vec<i32> = match of_length("labels")? {
        None if masks.is_empty() => return Err(("labels".into(), "it is missing".into())),
        None => input_ids.iter().map(|&id| id as i32).collect(),
        Some(labels) => {
            let label = |(i, v): (usize, &Value)| {
                let label = v.as_i64().and_then(|l| i32::try_from(l).ok()).filter(|&l| l >= 0 || l == NO_LOSS);
                label.ok_or_else(|| wrong("labels", i, v, "a token id or -100"))
            };
            labels.iter().enumerate().map(label).collect::<Result<_, _>>()?
        }
    };
    for (name, mask) in masks {
        for (i, value) in mask.iter().enumerate() {
            match value {
                Value::Bool(true) => {}
                Value::Bool(false) => labels[i] = NO_LOSS,
                _ if value.as_u64() == Some(1) => {}
                _ if value.as_u64() == Some(0) => labels[i] = NO_LOSS,
                _ => return Err(wrong(name, i, value, "0 or 1")),
            }
        }
    }
    if !map.contains_key("labels")
        && let Some(mask) = of_length("attention_mask")?
    {
        for (label, _) in labels.iter_mut().zip(mask).filter(|(_, m)| is(m, false)) {
            *label = NO_LOSS;
        }
    }
    Ok(labels)
}

/// Whether an element of a mask is 1 or true, 0 or false.
fn is(value: &Value, wanted: bool) -> bool {
    value.as_bool().or_else(|| value.as_u64().filter(|&v| v < 2).map(|v| v == 1)) == Some(wanted)
}

/// The tokens that are not padding: the attention mask has 0 before or behind them only.
fn real(mask: Option<&Vec<Value>>, count: usize, labels: &[i32], said: bool) -> Result<Range<usize>, Wrong> {
    let Some(mask) = mask else { return Ok(0..count) };
    let start = mask.iter().take_while(|m| is(m, false)).count();
    let end = count - mask[start..].iter().rev().take_while(|m| is(m, false)).count();
    if let Some(i) = (start..end).find(|&i| !is(&mask[i], true)) {
        let wanted = "1: every token between the first and the last that are read is read";
        return Err(wrong("attention_mask", i, &mask[i], wanted));
    }
    if start == end {
        return Err(("attention_mask".into(), "every token is padding".into()));
    }
    let padding = (0..start).chain(end..count);
    match padding.into_iter().find(|&i| said && labels[i] != NO_LOSS) {
        Some(i) => {
            Err((format!("labels[{i}]"), "it carries loss, and `attention_mask` says padding: expected -100".into()))
        }
        None => Ok(start..end),
    }
}

/// Where the samples begin by their positions: each counts from 0.
fn by_positions(positions: Option<&Vec<Value>>, real: &Range<usize>) -> Result<Option<Vec<usize>>, Wrong> {
    let Some(positions) = positions else { return Ok(None) };
    let mut starts = Vec::new();
    let mut next = 0;
    for i in real.clone() {
        match positions[i].as_u64() {
            Some(0) => {
                starts.push(i);
                next = 1;
            }
            Some(at) if at == next && i > real.start => next += 1,
            _ => return Err(wrong("position_ids", i, &positions[i], &format!("{next}, or 0 where a sample begins"))),
        }
    }
    Ok(Some(starts))
}

/// The same by their lengths, as TRL's packing has them.
fn by_lengths(map: &Map<String, Value>, real: &Range<usize>) -> Result<Option<Vec<usize>>, Wrong> {
    let Some(lengths) = list(map, "seq_lengths")? else { return Ok(None) };
    let mut starts = Vec::new();
    let mut at = real.start;
    for (i, value) in lengths.iter().enumerate() {
        let length = value.as_u64().and_then(|l| usize::try_from(l).ok()).filter(|&l| 0 < l && l <= real.end - at);
        starts.push(at);
        at += length.ok_or_else(|| wrong("seq_lengths", i, value, "a sample's length, all of them within the ids"))?;
    }
    if at != real.end || lengths.is_empty() {
        return Err(("seq_lengths".into(), format!("they end at {at}, the tokens at {}", real.end)));
    }
    Ok(Some(starts))
}

/// The same by where they end, from 0 on, as flash-attention is told.
fn by_ends(map: &Map<String, Value>, field: &str, real: &Range<usize>) -> Result<Option<Vec<usize>>, Wrong> {
    let Some(ends) = list(map, field)? else { return Ok(None) };
    let mut starts: Vec<usize> = Vec::new();
    for (i, value) in ends.iter().enumerate() {
        let at = value.as_u64().and_then(|at| usize::try_from(at).ok()).map(|at| at.saturating_add(real.start));
        let grows = |at: usize| starts.last().map_or(at == real.start, |&last| last < at && at <= real.end);
        starts
            .push(at.filter(|&at| grows(at)).ok_or_else(|| wrong(field, i, value, "0, then where each sample ends"))?);
    }
    match starts.pop() {
        Some(last) if last == real.end && !starts.is_empty() => Ok(Some(starts)),
        _ => Err((field.to_owned(), format!("does not end at {}, where the tokens do", real.len()))),
    }
}

fn list<'a>(map: &'a Map<String, Value>, field: &str) -> Result<Option<&'a Vec<Value>>, Wrong> {
    match map.get(field) {
        Some(Value::Array(list)) => Ok(Some(list)),
        None => Ok(None),
        Some(other) => Err((field.to_owned(), format!("expected a list, found {}", kind(other)))),
    }
}
