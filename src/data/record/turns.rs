//! The turns of a conversation.

use super::fields::{self, Of, Wrong, is_unset};
use crate::data::{
    chat::Message,
    json,
    questions::{excerpt, kind},
};
use serde_json::{Map, Value, json};

/// Roles by their names here, by OpenAI's older name, and in ShareGPT's shape.
const ROLES: [(&str, &[&str], &[&str]); 4] = [
    ("system", &[], &[]),
    ("user", &[], &["human"]),
    ("assistant", &[], &["gpt", CALLS]),
    ("tool", &["function"], &["observation"]),
];

/// The role of a turn in ShareGPT's shape whose text is what the model calls, in JSON.
const CALLS: &str = "function_call";

/// Whether a turn is learned, by its names here and in axolotl's records.
const LEARNED: [&str; 3] = ["weight", "train", "training"];

/// The turns that the list in the record's field `at` holds.
pub(super) fn turns(value: &Value, at: &str) -> Result<Vec<Message>, Wrong> {
    let Value::Array(list) = value else {
        return Err((at.into(), format!("expected a list, found {}", kind(value))));
    };
    list.iter().enumerate().map(|(i, turn)| self::turn(turn, &format!("{at}[{i}]"), at == "conversations")).collect()
}

/// Whether a conversation can be learned from; `at` is the field that its last turn comes from.
pub(super) fn check(messages: &[Message], at: &str) -> Result<(), Wrong> {
    let at = at.to_owned();
    match messages.last() {
        Some(last) if last.role != "assistant" => {
            Err((at, "the last turn must be the assistant's: it is what is learned".into()))
        }
        Some(last) if last.content.trim().is_empty() && !last.fields.contains_key("tool_calls") => {
            let at = if at == "messages" { format!("messages[{}].content", messages.len() - 1) } else { at };
            Err((at, "it is empty: there is nothing to learn".into()))
        }
        Some(_) if messages.len() < 2 => Err((at, "expected at least a user's and an assistant's turn".into())),
        Some(_) if !messages.iter().skip(1).any(|m| m.role == "assistant" && m.learned) => {
            Err((at, "every turn of the assistant has the weight 0: there is nothing to learn".into()))
        }
        Some(_) => Ok(()),
        None => Err((at, "expected at least a user's and an assistant's turn".into())),
    }
}

fn turn(value: &Value, at: &str, sharegpt: bool) -> Result<Message, Wrong> {
    let empty = Map::new();
    let map = value.as_object().unwrap_or(&empty);
    let names = if sharegpt && map.contains_key("from") { ["from", "value"] } else { ["role", "content"] };
    let field = |name: &str| match map.get(name) {
        Some(Value::String(s)) => Ok(s.clone()),
        Some(Value::Array(parts)) if name == names[1] => text_part(parts, &format!("{at}.{name}")),
        None | Some(Value::Null) => Err((format!("{at}.{name}"), "it is missing".to_owned())),
        Some(other) => Err((format!("{at}.{name}"), format!("expected text, found {}", kind(other)))),
    };
    let said = field(names[0])?;
    let Some(role) = role(&said, sharegpt) else {
        let message = format!("unknown role {:?}: system, user, assistant or tool", excerpt(&said));
        return Err((format!("{at}.{}", names[0]), message));
    };
    let own: &[&str] = match role {
        "assistant" => &["reasoning_content", "thinking", "reasoning", "tool_calls"],
        "tool" => &["tool_call_id"],
        _ => &[],
    };
    let older: &[&str] = if role == "assistant" { &["function_call"] } else { &[] };
    let known: Vec<&str> = [&names[..], own, older, &["name"], &LEARNED].concat();
    fields::check(map, &known, Of::Turn, &format!("{at}."))?;
    let mut message = Message::new(role, String::new());
    if said == CALLS {
        return called(map, message, &field(names[1])?, &format!("{at}.{}", names[1]), at);
    }
    for name in own.iter().chain(&["name"]) {
        if let Some(value) = map.get(*name).filter(|value| !is_unset(value)) {
            own_field(value, name, at)?;
            message.fields.insert((*name).to_owned(), value.clone());
        }
    }
    if let Some(call) = map.get("function_call").filter(|value| !is_unset(value)) {
        let at = format!("{at}.function_call");
        if message.fields.contains_key("tool_calls") {
            return Err((at, "the turn has `tool_calls` too".into()));
        }
        tool_call(call, &at)?;
        message.fields.insert("tool_calls".into(), json!([{"type": "function", "function": call}]));
    }
    let calls_only = message.fields.contains_key("tool_calls") && map.get(names[1]).is_none_or(Value::is_null);
    if !calls_only {
        message.content = field(names[1])?;
    }
    message.learned = learned(map, role, at)?;
    Ok(message)
}

/// A turn whose `text` is what the model calls: one object, or a list of them. `place` is that of the text.
fn called(map: &Map<String, Value>, turn: Message, text: &str, place: &str, at: &str) -> Result<Message, Wrong> {
    if let Some(field) = ["tool_calls", "function_call"].into_iter().find(|f| map.get(*f).is_some_and(|v| !is_unset(v)))
    {
        return Err((format!("{at}.{field}"), format!("the turn's text is what is called, as `{CALLS}` says")));
    }
    let value = json::value(text).map_err(|e| (place.to_owned(), format!("expected a call in JSON: {e}")))?;
    let calls = if let Value::Array(calls) = value { calls } else { vec![value] };
    let call = |(i, call): (usize, Value)| {
        tool_call(&call, &format!("{place}[{i}]"))?;
        Ok(if call["function"].is_object() { call } else { json!({"type": "function", "function": call}) })
    };
    let calls = calls.into_iter().enumerate().map(call).collect::<Result<Vec<_>, Wrong>>()?;
    if calls.is_empty() {
        return Err((place.to_owned(), "expected a call, found none".into()));
    }
    let mut turn = turn;
    for name in ["reasoning_content", "thinking", "reasoning", "name"] {
        if let Some(value) = map.get(name).filter(|value| !is_unset(value)) {
            own_field(value, name, at)?;
            turn.fields.insert(name.to_owned(), value.clone());
        }
    }
    turn.fields.insert("tool_calls".into(), Value::Array(calls));
    turn.learned = learned(map, "assistant", at)?;
    Ok(turn)
}

fn role(said: &str, sharegpt: bool) -> Option<&'static str> {
    let is = |(name, older, others): &&(&str, &[&str], &[&str])| {
        *name == said || older.contains(&said) || (sharegpt && others.contains(&said))
    };
    ROLES.iter().find(is).map(|(name, ..)| *name)
}

/// The text of a content that is a list of parts, as OpenAI has it: one part, since templates join several in their own ways.
fn text_part(parts: &[Value], at: &str) -> Result<String, Wrong> {
    let [part] = parts else {
        return Err((at.into(), format!("expected one text, found a list of {}: join them", parts.len())));
    };
    let known = part.as_object().map(|map| fields::check(map, &["type", "text"], Of::Turn, &format!("{at}[0].")));
    known.transpose()?;
    match (&part["type"], &part["text"]) {
        (Value::String(kind), Value::String(text)) if kind == "text" => Ok(text.clone()),
        (kind, _) => Err((format!("{at}[0]"), format!("irori reads text only, and this is of type {kind}"))),
    }
}

/// Whether the turn is learned: the weight 0 says that it is not, and so does `false`.
fn learned(map: &Map<String, Value>, role: &str, at: &str) -> Result<bool, Wrong> {
    let mut said: Option<(&str, bool)> = None;
    for name in LEARNED {
        let Some(value) = map.get(name).filter(|value| !value.is_null()) else { continue };
        let wrong = |message: String| Err((format!("{at}.{name}"), message));
        let learned = match (value.as_bool(), value.as_f64()) {
            (Some(false), _) | (_, Some(0.0)) => false,
            (Some(true), _) | (_, Some(1.0)) if role == "assistant" => true,
            (Some(true), _) | (_, Some(1.0)) => return wrong("only turns of the assistant are learned".into()),
            _ => return wrong(format!("expected 0 or 1, found {}", excerpt(&value.to_string()))),
        };
        match said {
            Some((other, before)) if before != learned => return wrong(format!("`{other}` says otherwise")),
            _ => said = Some((name, learned)),
        }
    }
    Ok(said.is_none_or(|(_, learned)| learned))
}

/// Whether a field that the chat template is given has the form that templates know.
fn own_field(value: &Value, name: &str, at: &str) -> Result<(), Wrong> {
    let at = format!("{at}.{name}");
    match (name, value) {
        ("tool_calls", Value::Array(calls)) => {
            calls.iter().enumerate().try_for_each(|(i, call)| tool_call(call, &format!("{at}[{i}]")))
        }
        ("tool_calls", other) => Err((at, format!("expected a list, found {}", kind(other)))),
        (_, Value::String(_)) => Ok(()),
        (_, other) => Err((at, format!("expected text, found {}", kind(other)))),
    }
}

/// `{"id", "type", "function": {"name", "arguments"}}`, or the name and the arguments alone.
fn tool_call(call: &Value, at: &str) -> Result<(), Wrong> {
    let object = |value: &'_ Value, at: &str| match value {
        Value::Object(map) => Ok(map.clone()),
        other => Err((at.to_owned(), format!("expected an object, found {}", kind(other)))),
    };
    let map = object(call, at)?;
    let (function, within) = match map.get("function") {
        Some(function) => {
            fields::check(&map, &["id", "type", "index", "function"], Of::Turn, &format!("{at}."))?;
            (object(function, &format!("{at}.function"))?, format!("{at}.function"))
        }
        None => (map.clone(), at.to_owned()),
    };
    if let Some(other) = map.get("type").filter(|kind| !kind.is_null() && kind.as_str() != Some("function")) {
        return Err((format!("{at}.type"), format!("expected \"function\", found {}", excerpt(&other.to_string()))));
    }
    fields::check(&function, &["name", "arguments", "id", "type", "index"], Of::Turn, &format!("{within}."))?;
    match (function.get("name"), function.get("arguments")) {
        (Some(Value::String(_)), Some(Value::Object(_) | Value::String(_))) => Ok(()),
        (Some(Value::String(_)), _) => {
            Err((format!("{within}.arguments"), "expected an object, or a text that is one in JSON".into()))
        }
        _ => Err((format!("{within}.name"), "expected the name of a function".into())),
    }
}
