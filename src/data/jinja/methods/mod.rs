//! Methods of Python's values.

mod strings;

pub use strings::{cased, is_cased, pad, replaced};

use super::{
    access,
    args::{self, Args},
    fault::{Fault, Outcome},
    shared::Shared,
    value::{Value, View},
};

/// What the sandbox makes of an attribute that Python has.
pub enum Found {
    Method(&'static str),
    /// It would change the value, which the sandbox forbids.
    Mutates,
}

const OF_TEXT: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const OF_DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
const CHANGE_DICT: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];
const OF_LIST: [&str; 3] = ["copy", "count", "index"];
const CHANGE_LIST: [&str; 8] = ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
const OF_TUPLE: [&str; 2] = ["count", "index"];

/// Attributes of other values that Python has and irori does not.
const OTHERS: [(&str, &[&str]); 7] = [
    (
        "int",
        &[
            "as_integer_ratio",
            "bit_count",
            "bit_length",
            "conjugate",
            "denominator",
            "from_bytes",
            "imag",
            "numerator",
            "real",
            "to_bytes",
        ],
    ),
    ("float", &["as_integer_ratio", "conjugate", "fromhex", "hex", "imag", "is_integer", "real"]),
    ("range", &["count", "index", "start", "step", "stop"]),
    ("dict_keys", &["isdisjoint", "mapping"]),
    ("dict_items", &["isdisjoint", "mapping"]),
    ("dict_values", &["mapping"]),
    ("generator", &["close", "gi_code", "gi_frame", "gi_running", "gi_suspended", "gi_yieldfrom", "send", "throw"]),
];

/// The method `name` of a value; `None` if Python has no such attribute.
///
/// # Errors
/// Python has it and irori does not.
pub fn find(value: &Value, name: &str) -> Outcome<Option<Found>> {
    let (methods, changing): (&[&'static str], &[&str]) = match value {
        Value::Str(_) | Value::Markup(_) => (&OF_TEXT, &[]),
        Value::Dict(_) => (&OF_DICT, &CHANGE_DICT),
        Value::List(_) => (&OF_LIST, &CHANGE_LIST),
        Value::Tuple(_) | Value::Group(_) => (&OF_TUPLE, &[]),
        _ => (&[], &[]),
    };
    if let Some(method) = methods.iter().find(|m| **m == name) {
        return Ok(Some(Found::Method(method)));
    }
    if changing.contains(&name) {
        return Ok(Some(Found::Mutates));
    }
    let kind = if matches!(value, Value::Bool(_)) { "int" } else { value.kind() };
    let markup = matches!(value, Value::Markup(_)) && ["escape", "striptags", "unescape"].contains(&name);
    if markup || OTHERS.iter().any(|(k, names)| *k == kind && names.contains(&name)) {
        return Err(Fault::unsupported(format!("the attribute `{name}` of {}", value.kind())));
    }
    Ok(None)
}

/// Calls a method.
///
/// # Errors
/// Arguments that do not fit, as in Python; a method that irori does not have.
pub fn call(value: &Value, name: &'static str, given: &Args) -> Outcome<Value> {
    match value {
        Value::Str(text) => strings::call(text, name, given),
        Value::Markup(_) => Err(Fault::unsupported(format!("the method `{name}` of a text that is marked as safe"))),
        Value::Dict(dict) => match name {
            "get" => {
                let [key, default] = given.bind_positional("dict.get")?;
                let key = args::required(key, "dict.get", "key")?;
                key.check_hashable()?;
                Ok(dict.get(&key).cloned().or(default).unwrap_or(Value::None))
            }
            "fromkeys" => from_keys(given),
            _ => {
                given.bind_positional::<0>(name)?;
                let view = |view, items: Vec<Value>| Ok(Value::View(view, Shared::new(items)));
                match name {
                    "keys" => view(View::Keys, dict.0.iter().map(|(k, _)| k.clone()).collect()),
                    "values" => view(View::Values, dict.0.iter().map(|(_, v)| v.clone()).collect()),
                    "items" => view(
                        View::Items,
                        dict.0.iter().map(|(k, v)| Value::tuple(vec![k.clone(), v.clone()])).collect(),
                    ),
                    _ => Ok(value.clone()),
                }
            }
        },
        Value::List(items) | Value::Tuple(items) | Value::Group(items) => sequence(value, items, name, given),
        Value::Loop(state) => state.call_method(name, given),
        Value::Cycler(state) => {
            given.bind_positional::<0>(name)?;
            let (items, at) = &**state;
            let current = items.get(at.get()).cloned().unwrap_or(Value::None);
            match name {
                "reset" => {
                    at.set(0);
                    Ok(Value::None)
                }
                _ => {
                    at.set((at.get() + 1) % items.len().max(1));
                    Ok(current)
                }
            }
        }
        other => Err(Fault::unsupported(format!("the method `{name}` of {}", other.kind()))),
    }
}

fn sequence(value: &Value, items: &[Value], name: &str, given: &Args) -> Outcome<Value> {
    if name == "copy" {
        given.bind_positional::<0>(name)?;
        return Ok(value.clone());
    }
    let [wanted, start, stop] = given.bind_positional(name)?;
    let wanted = args::required(wanted, name, "value")?;
    let same: Vec<usize> = (0..items.len()).filter(|&i| items[i].equals(&wanted)).collect();
    if name == "count" {
        return match start {
            None => Ok(Value::Int(same.len() as i128)),
            Some(_) => Err(Fault::new("count() takes exactly one argument")),
        };
    }
    let bound = |v: Option<Value>| v.map(|v| args::index(&v)).transpose();
    let (from, to, _) = super::text::slice_bounds(items.len(), bound(start)?, bound(stop)?, None)?;
    let found = same.into_iter().find(|&i| (from..to).contains(&(i as i128)));
    found.map(|i| Value::Int(i as i128)).ok_or_else(|| Fault::new(format!("{name}(x): x not in {}", value.kind())))
}

/// `dict.fromkeys(keys, value)`.
pub fn from_keys(given: &Args) -> Outcome<Value> {
    let [keys, value] = given.bind_positional("fromkeys")?;
    let value = value.unwrap_or(Value::None);
    let mut dict = super::value::Dict::default();
    for key in access::items(&args::required(keys, "fromkeys", "iterable")?)? {
        key.check_hashable()?;
        dict.insert(key, value.clone());
    }
    Ok(Value::Dict(Shared::new(dict)))
}
