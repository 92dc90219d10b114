//! Attributes, items, slices, membership and iteration, as Jinja2's sandbox gives them.

use super::{
    args,
    fault::{Fault, Outcome},
    methods,
    shared::Shared,
    text,
    value::{Range, Value, View},
};

/// How an undefined value calls its object.
fn described(value: &Value) -> String {
    match value {
        Value::None => "None".into(),
        _ => format!("{} object", value.kind()),
    }
}

fn no_attribute(value: &Value, name: &str) -> Value {
    Value::undefined(format!("'{}' has no attribute '{name}'", described(value)))
}

/// An attribute that Python has and the sandbox hides.
fn unsafe_attribute(value: &Value, name: &str) -> Value {
    Value::undefined(format!("access to attribute '{name}' of '{}' object is unsafe.", value.kind()))
}

/// Python's `getattr`; `None` if there is no such attribute.
fn python_attribute(value: &Value, name: &str) -> Outcome<Option<Value>> {
    if name.starts_with("__") && name.ends_with("__") && name.len() > 4 {
        return Ok(Some(unsafe_attribute(value, name)));
    }
    match value {
        Value::Undefined(message) => Err(Fault::new(&**message)),
        Value::Namespace(map) => Ok(map.borrow().get_str(name).cloned()),
        Value::Loop(state) => state.attribute(name).map(|found| found.or_else(|| state.method(value, name))),
        Value::Macro(m) => Ok(match name {
            "name" if m.function.name.is_empty() => Some(Value::None),
            "name" => Some(Value::Str(m.function.name.clone())),
            "arguments" => {
                Some(Value::tuple(m.function.parameters.iter().map(|p| Value::Str(p.name.clone())).collect()))
            }
            "catch_kwargs" => Some(Value::Bool(m.function.kwargs.is_some())),
            "catch_varargs" => Some(Value::Bool(m.function.varargs.is_some())),
            "caller" => Some(Value::Bool(m.function.caller.is_some())),
            _ => None,
        }),
        Value::Group(items) if name == "grouper" => Ok(items.first().cloned()),
        Value::Group(items) if name == "list" => Ok(items.get(1).cloned()),
        Value::Cycler(state) => Ok(match name {
            "current" => state.0.get(state.1.get()).cloned(),
            "next" => Some(Value::Method(Shared::new((value.clone(), "next")))),
            "reset" => Some(Value::Method(Shared::new((value.clone(), "reset")))),
            _ => None,
        }),
        Value::Builtin(super::value::Builtin::Dict) if name == "fromkeys" => {
            Ok(Some(Value::Builtin(super::value::Builtin::DictFromKeys)))
        }
        _ => methods::find(value, name).map(|found| match found {
            Some(methods::Found::Method(name)) => Some(Value::Method(Shared::new((value.clone(), name)))),
            Some(methods::Found::Mutates) => Some(unsafe_attribute(value, name)),
            None => None,
        }),
    }
}

/// `value.name`: the attribute, else the item, else undefined.
pub fn attribute(value: &Value, name: &str) -> Outcome<Value> {
    if let Some(found) = python_attribute(value, name)? {
        return Ok(found);
    }
    match value {
        Value::Dict(dict) => Ok(dict.get_str(name).cloned().unwrap_or_else(|| no_attribute(value, name))),
        _ => Ok(no_attribute(value, name)),
    }
}

/// `value[key]`: the item, else (for a text) the attribute, else undefined.
pub fn item(value: &Value, key: &Value) -> Outcome<Value> {
    if let Value::Undefined(message) = value {
        return Err(Fault::new(&**message));
    }
    if let Some(found) = python_item(value, key) {
        return Ok(found);
    }
    if let Some(name) = key.as_text() {
        return Ok(python_attribute(value, name)?.unwrap_or_else(|| no_attribute(value, name)));
    }
    let mut shown = String::new();
    key.repr(&mut shown).unwrap_or_default();
    Ok(Value::undefined(format!("{} has no element {shown}", described(value))))
}

/// `value[key]` in Python; `None` where it raises a TypeError or a LookupError.
fn python_item(value: &Value, key: &Value) -> Option<Value> {
    if let Value::Dict(dict) = value {
        return dict.get(key).cloned();
    }
    let i = key.as_int()?;
    let at = |length: usize| {
        let i = if i < 0 { i.checked_add(length as i128)? } else { i };
        usize::try_from(i).ok().filter(|&i| i < length)
    };
    match value {
        Value::List(items) | Value::Tuple(items) | Value::Group(items) => items.get(at(items.len())?).cloned(),
        Value::Range(range) => Some(Value::Int(range.get(at(range.len())?))),
        Value::Str(s) | Value::Markup(s) => {
            // From the end when it is nearer, since `x[-1]` is common.
            let c = if i < 0 {
                s.chars().rev().nth(usize::try_from(-(i + 1)).ok()?)?
            } else {
                s.chars().nth(usize::try_from(i).ok()?)?
            };
            let c = c.to_string().into();
            Some(if matches!(value, Value::Str(_)) { Value::Str(c) } else { Value::Markup(c) })
        }
        _ => None,
    }
}

/// `value[start:stop:step]`.
pub fn slice(value: &Value, bounds: [Option<Value>; 3]) -> Outcome<Value> {
    if let Value::Undefined(message) = value {
        return Err(Fault::new(&**message));
    }
    let mut numbers = [None; 3];
    for (number, bound) in numbers.iter_mut().zip(&bounds) {
        *number = match bound {
            None | Some(Value::None) => None,
            Some(v) => Some(
                v.as_int()
                    .ok_or_else(|| Fault::new("slice indices must be integers or None or have an __index__ method"))?,
            ),
        };
    }
    let [start, stop, step] = numbers;
    match value {
        Value::List(items) => Ok(Value::list(text::sliced(items, text::slice_bounds(items.len(), start, stop, step)?))),
        Value::Tuple(items) | Value::Group(items) => {
            Ok(Value::tuple(text::sliced(items, text::slice_bounds(items.len(), start, stop, step)?)))
        }
        Value::Range(range) => {
            let (start, stop, step) = text::slice_bounds(range.len(), start, stop, step)?;
            let point = |i: i128| range.start + i * range.step;
            Ok(Value::Range(Range { start: point(start), stop: point(stop), step: step.saturating_mul(range.step) }))
        }
        Value::Str(s) | Value::Markup(s) => {
            let out: std::sync::Arc<str> = slice_text(s, start, stop, step)?.into();
            Ok(if matches!(value, Value::Str(_)) { Value::Str(out) } else { Value::Markup(out) })
        }
        // Python asks a dict for the slice as a key, which 3.11 cannot hash.
        _ => Err(Fault::new(format!("'{}' object is not subscriptable by a slice", value.kind()))),
    }
}

fn slice_text(s: &str, start: Option<i128>, stop: Option<i128>, step: Option<i128>) -> Outcome<String> {
    let length = if s.is_ascii() { s.len() } else { s.chars().count() };
    let bounds = text::slice_bounds(length, start, stop, step)?;
    if bounds.2 == 1 {
        let (start, stop) = (bounds.0 as usize, bounds.1.max(bounds.0) as usize);
        let at = |i| if s.is_ascii() { i } else { text::byte_at(s, i) };
        return Ok(s[at(start)..at(stop)].to_owned());
    }
    let chars: Vec<char> = s.chars().collect();
    Ok(text::sliced(&chars, bounds).into_iter().collect())
}

/// `item in value`.
pub fn contains(value: &Value, item: &Value) -> Outcome<bool> {
    match value {
        Value::Str(s) | Value::Markup(s) => match item {
            Value::Str(part) | Value::Markup(part) => Ok(s.contains(&**part)),
            other => Err(Fault::new(format!("'in <string>' requires string as left operand, not {}", other.kind()))),
        },
        Value::Dict(dict) => {
            item.check_hashable()?;
            Ok(dict.get(item).is_some())
        }
        Value::View(View::Keys, items) => {
            item.check_hashable()?;
            Ok(items.iter().any(|other| other.equals(item)))
        }
        Value::Iterator(pending) => {
            let mut pending = pending.borrow_mut();
            while let Some(next) = pending.items.pop_front() {
                if next.equals(item) {
                    return Ok(true);
                }
            }
            pending.fault.take().map_or(Ok(false), Err)
        }
        Value::Range(range) => Ok((0..range.len()).any(|i| Value::Int(range.get(i)).equals(item))),
        Value::List(items) | Value::Tuple(items) | Value::Group(items) | Value::View(_, items) => {
            Ok(items.iter().any(|other| other.equals(item)))
        }
        Value::Undefined(_) => Ok(false),
        other => Err(Fault::new(format!("argument of type '{}' is not iterable", other.kind()))),
    }
}

/// The items that a loop over the value passes. An iterator is empty afterwards.
pub fn items(value: &Value) -> Outcome<Vec<Value>> {
    match value {
        Value::List(items) | Value::Tuple(items) | Value::Group(items) | Value::View(_, items) => Ok(items.to_vec()),
        Value::Dict(dict) => Ok(dict.0.iter().map(|(key, _)| key.clone()).collect()),
        Value::Str(s) | Value::Markup(s) => Ok(s.chars().map(|c| Value::str(c.to_string())).collect()),
        Value::Range(range) => Ok((0..range.len()).map(|i| Value::Int(range.get(i))).collect()),
        Value::Undefined(_) => Ok(Vec::new()),
        Value::Iterator(pending) => {
            let mut pending = pending.borrow_mut();
            match pending.fault.take() {
                Some(fault) => Err(fault),
                None => Ok(std::mem::take(&mut pending.items).into()),
            }
        }
        Value::Loop(_) => Err(Fault::unsupported("a loop over the variable `loop`")),
        other => Err(Fault::new(format!("'{}' object is not iterable", other.kind()))),
    }
}

/// `len(value)`.
pub fn length(value: &Value) -> Outcome<usize> {
    match value {
        Value::Str(s) | Value::Markup(s) => Ok(s.chars().count()),
        Value::List(items) | Value::Tuple(items) | Value::Group(items) | Value::View(_, items) => Ok(items.len()),
        Value::Dict(dict) => Ok(dict.0.len()),
        Value::Range(range) => Ok(range.len()),
        Value::Undefined(_) => Ok(0),
        Value::Loop(state) => state.length(),
        other => Err(Fault::new(format!("object of type '{}' has no len()", other.kind()))),
    }
}

/// `range(…)`, with the sandbox's limit.
pub fn range(given: &args::Args) -> Outcome<Value> {
    const LONGEST: usize = 100_000;
    let [a, b, c] = given.bind_positional::<3>("range")?;
    let numbers = [a, b, c].into_iter().flatten().map(|v| args::index(&v)).collect::<Outcome<Vec<i128>>>()?;
    let (start, stop, step) = match *numbers.as_slice() {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] => (start, stop, step),
        _ => return Err(Fault::new("range expected at least 1 argument, got 0")),
    };
    if step == 0 {
        return Err(Fault::new("range() arg 3 must not be zero"));
    }
    if [start, stop, step].iter().any(|n| n.unsigned_abs() > 1 << 100) {
        return Err(Fault::unsupported("ranges of integers of more than 100 bits"));
    }
    let range = Range { start, stop, step };
    if range.len() > LONGEST {
        return Err(Fault::new(format!("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({LONGEST}).")));
    }
    Ok(Value::Range(range))
}
