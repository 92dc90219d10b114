//! Which shape a record has, and what it holds.

use super::{
    Content, Record,
    fields::{Of, Wrong, check, elsewhere, is_unset},
    tokens, turns,
};
use crate::data::{
    chat::Message,
    json,
    questions::{excerpt, kind},
};
use serde_json::{Map, Value};

/// The field that decides for a shape, and the one that goes with it.
const SHAPES: [(&str, &str); 5] =
    [("input", "output"), ("prompt", "completion"), ("messages", ""), ("conversations", ""), ("input_ids", "labels")];

/// The record that the value of a line is; several, if it has the token ids of several samples, packed.
pub(super) fn records(line: usize, value: Value) -> Result<Vec<Record>, Wrong> {
    let mut map = match value {
        Value::Object(map) => map,
        other => return Err((String::new(), format!("expected an object, found {}", kind(&other)))),
    };
    map.retain(|_, value| !value.is_null());
    let meta = match map.shift_remove("meta") {
        Some(Value::Object(meta)) => meta,
        // What is kept there for its maker alone may have any form.
        _ => Map::new(),
    };
    instruction(&mut map)?;
    prompt_twice(&mut map);
    let present: Vec<_> = SHAPES.into_iter().filter(|(key, _)| map.contains_key(*key)).collect();
    let contents = match present[..] {
        [] => return Err(no_shape(&map)),
        [("input_ids", _)] => tokens::samples(&map)?,
        [(one, with)] => vec![Content::Messages(conversation(&map, one, with)?)],
        [(one, _), (other, _), ..] => return Err(two_shapes(one, other)),
    };
    let tools = tools(&map)?;
    Ok(contents.into_iter().map(|content| Record { line, content, tools: tools.clone(), meta: meta.clone() }).collect())
}

fn two_shapes(one: &str, other: &str) -> Wrong {
    (other.into(), format!("a record is of one shape, and this has `{one}` too"))
}

/// Alpaca's `instruction`, and its `input` in a line behind it, are the question.
fn instruction(map: &mut Map<String, Value>) -> Result<(), Wrong> {
    let unset = |key: &str| map.get(key).is_none_or(is_unset);
    let others = SHAPES.iter().any(|(key, _)| *key != "input" && map.contains_key(*key));
    if others || unset("instruction") {
        return Ok(());
    }
    let mut question = text(map, "instruction")?;
    if !unset("input") {
        question = format!("{question}\n{}", text(map, "input")?);
    }
    map.shift_remove("instruction");
    map.insert("input".into(), Value::String(question));
    Ok(())
}

/// A `prompt` beside `messages` that is the first user's text says it once more, as the makers of some collections have it.
fn prompt_twice(map: &mut Map<String, Value>) {
    let turns = map.get("messages").and_then(Value::as_array);
    let first = turns.and_then(|turns| turns.iter().find(|turn| turn["role"] == "user"));
    let same = first.is_some_and(|turn| turn["content"].is_string() && map.get("prompt") == Some(&turn["content"]));
    if same && !map.contains_key("completion") {
        map.shift_remove("prompt");
    }
}

fn no_shape(map: &Map<String, Value>) -> Wrong {
    if let Some((key, advice)) = map.keys().find_map(|key| Some((key, elsewhere(key)?))) {
        return (key.clone(), advice.into());
    }
    let keys: Vec<&str> = map.keys().map(String::as_str).take(8).collect();
    let found = if keys.is_empty() { "nothing".to_owned() } else { excerpt(&keys.join(", ")) };
    let message = format!(
        "expected `input` and `output`, `prompt` and `completion`, `messages`, or `input_ids` and `labels`; found {found}"
    );
    (String::new(), message)
}

/// The turns of a record of text whose shape is that of the field `one`.
fn conversation(map: &Map<String, Value>, one: &str, with: &str) -> Result<Vec<Message>, Wrong> {
    if let Some((_, other)) = SHAPES.iter().find(|(_, w)| !w.is_empty() && *w != with && map.contains_key(*w)) {
        return Err(two_shapes(one, other));
    }
    let known: &[&str] = match one {
        "messages" | "conversations" => &[one, "system", "tools", "functions"],
        _ => &[one, with, "system", "history", "tools", "functions"],
    };
    check(map, known, Of::Record, "")?;
    let mut messages = Vec::new();
    if map.contains_key("system") {
        messages.push(Message::new("system", text(map, "system")?));
    }
    match one {
        "messages" | "conversations" => messages.extend(turns::turns(&map[one], one)?),
        _ => {
            messages.extend(history(map)?);
            messages.extend(question(map, one)?);
            messages.push(answer(map, with)?);
        }
    }
    if let Some(i) = messages.iter().skip(1).position(|m| m.role == "system").filter(|_| map.contains_key("system")) {
        return Err(("system".into(), format!("`{one}` has a system message too, as its turn {}", i + 1)));
    }
    turns::check(&messages, if with.is_empty() { one } else { with })?;
    Ok(messages)
}

fn text(map: &Map<String, Value>, field: &str) -> Result<String, Wrong> {
    match map.get(field) {
        Some(Value::String(s)) => Ok(s.clone()),
        None => Err((field.into(), "it is missing".into())),
        Some(other) => Err((field.into(), format!("expected text, found {}", kind(other)))),
    }
}

/// The question: a text, or a list of turns as TRL has them.
fn question(map: &Map<String, Value>, field: &str) -> Result<Vec<Message>, Wrong> {
    match &map[field] {
        list @ Value::Array(_) => turns::turns(list, field),
        _ => Ok(vec![Message::new("user", text(map, field)?)]),
    }
}

/// The answer: a text, or a list of one turn.
fn answer(map: &Map<String, Value>, field: &str) -> Result<Message, Wrong> {
    let Some(list @ Value::Array(_)) = map.get(field) else {
        let answer = text(map, field)?;
        if answer.trim().is_empty() {
            return Err((field.into(), "it is empty: there is nothing to learn".into()));
        }
        return Ok(Message::new("assistant", answer));
    };
    let mut list = turns::turns(list, field)?;
    match (list.pop(), list.is_empty()) {
        (Some(turn), true) => Ok(turn),
        _ => Err((field.into(), "expected one turn, the model's: write a conversation as `messages`".into())),
    }
}

/// Earlier turns: a list of pairs, the user's text and the model's.
fn history(map: &Map<String, Value>) -> Result<Vec<Message>, Wrong> {
    let wrong = |at: String, found: &Value| (at, format!("expected a pair of texts, found {}", kind(found)));
    let pairs = match map.get("history") {
        None => return Ok(Vec::new()),
        Some(Value::Array(pairs)) => pairs,
        Some(Value::String(s)) if s.is_empty() => return Ok(Vec::new()),
        Some(other) => return Err(("history".into(), format!("expected a list of pairs, found {}", kind(other)))),
    };
    let mut messages = Vec::with_capacity(2 * pairs.len());
    for (i, pair) in pairs.iter().enumerate() {
        let list = pair.as_array().map(Vec::as_slice);
        let Some([Value::String(user), Value::String(assistant)]) = list else {
            return Err(wrong(format!("history[{i}]"), pair));
        };
        messages.extend([Message::new("user", user), Message::new("assistant", assistant)]);
    }
    Ok(messages)
}

/// What the model may call: a list, or a text that is one in JSON. `functions` are OpenAI's older form.
fn tools(map: &Map<String, Value>) -> Result<Vec<Value>, Wrong> {
    let older = map.get("functions").is_some_and(|functions| !is_unset(functions));
    if older && map.get("tools").is_some_and(|tools| !is_unset(tools)) {
        return Err(("functions".into(), "the record has `tools` too".into()));
    }
    let list = tool_list(map, if older { "functions" } else { "tools" })?;
    let function = |function: Value| serde_json::json!({"type": "function", "function": function});
    Ok(if older { list.into_iter().map(function).collect() } else { list })
}

fn tool_list(map: &Map<String, Value>, field: &str) -> Result<Vec<Value>, Wrong> {
    let wrong = |message: String| Err((field.to_owned(), message));
    let list = match map.get(field) {
        None => return Ok(Vec::new()),
        Some(Value::String(s)) if s.trim().is_empty() => return Ok(Vec::new()),
        Some(Value::String(s)) => match json::value(s) {
            Ok(value) => value,
            Err(e) => return wrong(format!("the text is not JSON: {e}")),
        },
        Some(value) => value.clone(),
    };
    let Value::Array(list) = list else { return wrong(format!("expected a list, found {}", kind(&list))) };
    match list.iter().position(|tool| !tool.is_object()) {
        Some(i) => Err((format!("{field}[{i}]"), format!("expected an object, found {}", kind(&list[i])))),
        None => Ok(list),
    }
}
