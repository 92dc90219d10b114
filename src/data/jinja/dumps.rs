//! The filter `tojson` as transformers defines it: `json.dumps` with `ensure_ascii=False`, and nothing escaped for HTML.

use super::{
    args::{Args, index, required},
    fault::{Fault, Outcome},
    operators, shared, text,
    value::Value,
};
use std::sync::Arc;

/// How `json.dumps` is to write.
struct Style {
    ascii: bool,
    indent: Option<String>,
    between_items: Arc<str>,
    behind_key: Arc<str>,
    sorted: bool,
}

/// `value|tojson(ensure_ascii, indent, separators, sort_keys)`.
///
/// # Errors
/// A value that JSON does not have.
pub fn tojson(value: &Value, given: &Args) -> Outcome<Value> {
    let [ascii, indent, separators, sorted] =
        given.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(s) | Value::Markup(s)) => Some(s.to_string()),
        Some(n) => Some(text::repeated(" ", index(&n)?)?),
    };
    let (between_items, behind_key) = match separators {
        None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.into(), ": ".into()),
        Some(Value::Tuple(pair) | Value::List(pair)) => match pair.as_slice() {
            [Value::Str(a), Value::Str(b)] => (a.clone(), b.clone()),
            _ => return Err(Fault::new("separators must be two texts")),
        },
        Some(other) => return Err(Fault::new(format!("cannot unpack separators of {}", other.kind()))),
    };
    let truth = |v: Option<Value>| v.is_some_and(|v| v.is_true());
    let style = Style { ascii: truth(ascii), indent, between_items, behind_key, sorted: truth(sorted) };
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(Value::str(out))
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Outcome<()> {
        let _visit = shared::visit()?;
        text::bounded(out.len())?;
        match value {
            Value::Str(s) | Value::Markup(s) => self.string(s, out),
            Value::List(items) | Value::Tuple(items) | Value::Group(items) => {
                self.container(['[', ']'], items.len(), depth, out, |i, out| self.write(&items[i], depth + 1, out))?;
            }
            Value::Dict(dict) => {
                let mut pairs = dict.0.clone();
                if self.sorted {
                    let keyed = pairs.into_iter().map(|(k, v)| (k.clone(), Value::tuple(vec![k, v]))).collect();
                    pairs = (operators::sorted(keyed, false)?.into_iter())
                        .filter_map(|pair| match pair {
                            Value::Tuple(pair) => Some((pair[0].clone(), pair[1].clone())),
                            _ => None,
                        })
                        .collect();
                }
                self.container(['{', '}'], pairs.len(), depth, out, |i, out| {
                    let (key, value) = &pairs[i];
                    match key {
                        Value::Str(s) | Value::Markup(s) => self.string(s, out),
                        Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                            self.string(scalar(key)?.as_str(), out);
                        }
                        _ => {
                            let kind = key.kind();
                            return Err(Fault::new(format!("keys must be str, int, float, bool or None, not {kind}")));
                        }
                    }
                    out.push_str(&self.behind_key);
                    self.write(value, depth + 1, out)
                })?;
            }
            other => out.push_str(&scalar(other)?),
        }
        Ok(())
    }

    fn container(
        &self,
        brackets: [char; 2],
        length: usize,
        depth: usize,
        out: &mut String,
        mut item: impl FnMut(usize, &mut String) -> Outcome<()>,
    ) -> Outcome<()> {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        out.push(brackets[0]);
        for i in 0..length {
            if i > 0 {
                out.push_str(&self.between_items);
            }
            line(depth + 1, out);
            item(i, out)?;
        }
        if length > 0 {
            line(depth, out);
        }
        out.push(brackets[1]);
        Ok(())
    }

    fn string(&self, s: &str, out: &mut String) {
        out.push('"');
        for c in s.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn scalar(value: &Value) -> Outcome<String> {
    Ok(match value {
        Value::None => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(x) if x.is_nan() => "NaN".into(),
        Value::Float(x) if x.is_infinite() => if *x < 0.0 { "-Infinity" } else { "Infinity" }.into(),
        Value::Float(x) => text::float(*x),
        other => return Err(Fault::new(format!("Object of type {} is not JSON serializable", other.kind()))),
    })
}

/// `tojson` as a filter.
pub fn filter(_: &mut super::interpreter::Interpreter<'_>, value: Value, given: Args) -> Outcome<Value> {
    required(Some(value), "tojson", "x").and_then(|value| tojson(&value, &given))
}
