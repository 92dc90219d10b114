//! The turns of a conversation.

use super::fields::{self, Of, Wrong, is_unset};
use crate::data::{
    chat::Message,
    questions::{excerpt, kind},
};
use serde_json::{Map, Value};

/// Roles by their names here and in ShareGPT's shape.
const ROLES: [(&str, &[&str]); 4] = [("system", &[]), ("user", &["human"]), ("assistant", &["gpt"]), ("tool", &[])];

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
    let known: Vec<&str> = names.iter().chain(own).copied().chain(["name", "weight"]).collect();
    fields::check(map, &known, Of::Turn, &format!("{at}."))?;
    let mut message = Message::new(role, String::new());
    for name in own.iter().chain(&["name"]) {
        if let Some(value) = map.get(*name).filter(|value| !is_unset(value)) {
            own_field(value, name, at)?;
            message.fields.insert((*name).to_owned(), value.clone());
        }
    }
    let calls_only = message.fields.contains_key("tool_calls") && map.get(names[1]).is_none_or(Value::is_null);
    if !calls_only {
        message.content = field(names[1])?;
    }
    message.learned = learned(map.get("weight"), role, at)?;
    Ok(message)
}

fn role(said: &str, sharegpt: bool) -> Option<&'static str> {
    let is = |(name, others): &&(&str, &[&str])| *name == said || (sharegpt && others.contains(&said));
    ROLES.iter().find(is).map(|(name, _)| *name)
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

/// Whether the turn is learned: the weight 0 says that it is not.
fn learned(weight: Option<&Value>, role: &str, at: &str) -> Result<bool, Wrong> {
    let wrong = |message: String| Err((format!("{at}.weight"), message));
    match weight {
        None | Some(Value::Null) => Ok(true),
        Some(value) => match value.as_f64() {
            Some(0.0) => Ok(false),
            Some(1.0) if role == "assistant" => Ok(true),
            Some(1.0) => wrong("only turns of the assistant are learned".into()),
            _ => wrong(format!("expected 0 or 1, found {}", excerpt(&value.to_string()))),
        },
    }
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
