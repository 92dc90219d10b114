//! Records that are token ids already.

use super::{
    Content,
    fields::{Of, Wrong, check},
};
use crate::data::{
    batch::NO_LOSS,
    questions::{excerpt, kind},
};
use serde_json::{Map, Value};

/// Lists of 0 and 1, as TRL and transformers write them: where one of them has 0 there is no loss.
const MASKS: [&str; 4] = ["completion_mask", "assistant_masks", "assistant_mask", "loss_mask"];

/// Ids and labels. Without labels the masks decide what is learned.
pub(super) fn tokens(map: &Map<String, Value>) -> Result<Content, Wrong> {
    let known = [&["input_ids", "labels", "attention_mask", "position_ids", "token_type_ids"], &MASKS[..]].concat();
    check(map, &known, Of::Tokens, "")?;
    let wrong = |field: &str, i: usize, value: &Value, wanted: &str| {
        (format!("{field}[{i}]"), format!("expected {wanted}, found {}", excerpt(&value.to_string())))
    };
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
    // These say nothing that irori does not do by itself, or else something that it does not do.
    let expected = |field: &str, wanted: &str, is: &dyn Fn(usize, &Value) -> bool| match of_length(field)? {
        None => Ok(()),
        Some(list) => match list.iter().enumerate().find(|(i, v)| !is(*i, v)) {
            None => Ok(()),
            Some((i, value)) => Err(wrong(field, i, value, wanted)),
        },
    };
    expected("attention_mask", "1: every token is read, and padding is left out", &|_, v| {
        v.as_u64() == Some(1) || v.as_bool() == Some(true)
    })?;
    expected("position_ids", "the places 0, 1, 2 and on: one sample a record", &|i, v| v.as_u64() == Some(i as u64))?;
    expected("token_type_ids", "0", &|_, v| v.as_u64() == Some(0))?;
    Ok(Content::Tokens { input_ids, labels })
}

fn list<'a>(map: &'a Map<String, Value>, field: &str) -> Result<Option<&'a Vec<Value>>, Wrong> {
    match map.get(field) {
        Some(Value::Array(list)) => Ok(Some(list)),
        None => Ok(None),
        Some(other) => Err((field.to_owned(), format!("expected a list, found {}", kind(other)))),
    }
}
