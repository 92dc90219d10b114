//! Filters of texts. Other values are taken as the text that they print as, as Jinja2 does.

use super::super::{
    access,
    args::{Args, index, required},
    fault::{Fault, Outcome},
    format as formats,
    interpreter::Interpreter,
    methods, operators,
    shared::Shared,
    text,
    value::{Dict, Value},
};
use std::sync::Arc;

type I<'a, 'b> = &'a mut Interpreter<'b>;

/// The filtered text, which stays marked as safe if it was.
fn mapped(value: &Value, map: impl FnOnce(&str) -> Outcome<String>) -> Outcome<Value> {
    let out: Arc<str> = map(&value.text()?)?.into();
    Ok(if matches!(value, Value::Markup(_)) { Value::Markup(out) } else { Value::Str(out) })
}

fn cased(value: &Value, args: &Args, name: &str) -> Outcome<Value> {
    args.bind_positional::<0>(name)?;
    mapped(value, |s| methods::cased(s, name))
}

pub fn upper(_: I, value: Value, args: Args) -> Outcome<Value> {
    cased(&value, &args, "upper")
}

pub fn lower(_: I, value: Value, args: Args) -> Outcome<Value> {
    cased(&value, &args, "lower")
}

pub fn capitalize(_: I, value: Value, args: Args) -> Outcome<Value> {
    cased(&value, &args, "capitalize")
}

/// Words begin behind white space, hyphens and opening brackets; `str.title` would begin them behind an apostrophe too.
pub fn title(_: I, value: Value, args: Args) -> Outcome<Value> {
    args.bind_positional::<0>("title")?;
    mapped(&value, |s| {
        let is_break = |c: char| text::is_space(c) || "-({[<".contains(c);
        let mut out = String::new();
        let mut rest = s;
        while let Some(first) = rest.chars().next() {
            let end = if is_break(first) { rest.find(|c| !is_break(c)) } else { rest.find(is_break) };
            let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
            let (head, tail) = part.split_at(first.len_utf8());
            out.push_str(&head.to_uppercase());
            out.push_str(&tail.to_lowercase());
            rest = after;
        }
        Ok(out)
    })
}

pub fn trim(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [chars] = args.bind("trim", ["chars"])?;
    let chars = match &chars {
        None | Some(Value::None) => None,
        Some(chars) => Some(super::super::args::text_of(chars, "strip arg")?),
    };
    let is = |c: char| chars.map_or_else(|| text::is_space(c), |set| set.contains(c));
    mapped(&value, |s| Ok(s.trim_matches(is).to_owned()))
}

pub fn replace(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [old, new, count] = args.bind("replace", ["old", "new", "count"])?;
    let (old, new) = (required(old, "replace", "old")?.text()?, required(new, "replace", "new")?.text()?);
    let count = match count {
        None | Some(Value::None) => -1,
        Some(count) => index(&count)?,
    };
    methods::replaced(&value.text()?, &old, &new, count).map(Value::str)
}

pub fn center(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [width] = args.bind("center", ["width"])?;
    let width = width.map_or(Ok(80), |w| index(&w))?;
    mapped(&value, |s| methods::pad(s, width, " ", "center"))
}

pub fn escape(_: I, value: Value, args: Args) -> Outcome<Value> {
    args.bind_positional::<0>("escape")?;
    operators::escaped(&value).map(|text| Value::Markup(text.into()))
}

pub fn force_escape(_: I, value: Value, args: Args) -> Outcome<Value> {
    args.bind_positional::<0>("forceescape")?;
    operators::escaped(&Value::Str(value.text()?)).map(|text| Value::Markup(text.into()))
}

pub fn format(_: I, value: Value, args: Args) -> Outcome<Value> {
    if !args.named.is_empty() && !args.positional.is_empty() {
        return Err(Fault::new("can't handle positional and keyword arguments at the same time"));
    }
    if matches!(value, Value::Markup(_)) {
        return Err(Fault::unsupported("the filter `format` of a text that is marked as safe"));
    }
    let arguments = if args.named.is_empty() {
        Value::tuple(args.positional)
    } else {
        let pairs = args.named.into_iter().map(|(name, value)| (Value::Str(name), value));
        Value::Dict(Shared::new(Dict(pairs.collect())))
    };
    formats::percent(&value.text()?, &arguments).map(Value::str)
}

pub fn indent(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let indention = match &width {
        None => "    ".to_owned(),
        Some(Value::Str(s)) => s.to_string(),
        Some(width) => text::repeated(" ", index(width)?)?,
    };
    let is = |v: Option<Value>| v.is_some_and(|v| v.is_true());
    let (first, blank) = (is(first), is(blank));
    let source = match &value {
        Value::Str(s) => s,
        Value::Undefined(message) => return Err(Fault::new(&**message)),
        other => return Err(Fault::unsupported(format!("the filter `indent` of {}", other.kind()))),
    };
    // Jinja2 appends a line break first, so that one at the end is kept.
    let source = format!("{source}\n");
    let mut out = String::new();
    for (i, line) in text::lines(&source, false).into_iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indention);
        }
        out.push_str(line);
        text::bounded(out.len())?;
    }
    Ok(Value::str(out))
}

pub fn truncate(_: I, value: Value, args: Args) -> Outcome<Value> {
    let [length, kill, end, leeway] = args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let length = length.map_or(Ok(255), |v| index(&v))?;
    let leeway = match leeway {
        None | Some(Value::None) => 5,
        Some(v) => index(&v)?,
    };
    let end = end.map_or_else(|| Ok(Arc::from("...")), |v| super::super::args::text_of(&v, "end").cloned())?;
    let end_length = end.chars().count() as i128;
    if length < end_length || leeway < 0 {
        return Err(Fault::new(format!(
            "expected length >= {end_length}, got {length}, and leeway >= 0, got {leeway}"
        )));
    }
    let n = access::length(&value)? as i128;
    if n <= length + leeway {
        return Ok(value);
    }
    let Value::Str(s) = &value else {
        return Err(Fault::unsupported(format!("the filter `truncate` of {}", value.kind())));
    };
    let kept = &s[..text::byte_at(s, (length - end_length) as usize)];
    let kept = if kill.is_some_and(|v| v.is_true()) { kept } else { kept.rsplit_once(' ').map_or(kept, |(a, _)| a) };
    Ok(Value::str([kept, &*end].concat()))
}

pub fn word_count(_: I, value: Value, args: Args) -> Outcome<Value> {
    args.bind_positional::<0>("wordcount")?;
    let text = value.text()?;
    Ok(Value::Int(text.split(|c| !text::is_word(c)).filter(|word| !word.is_empty()).count() as i128))
}

/// Percent-encoding, of texts as part of a path and of pairs as a query.
pub fn url_encode(_: I, value: Value, args: Args) -> Outcome<Value> {
    args.bind_positional::<0>("urlencode")?;
    let quoted = |value: &Value, query: bool| -> Outcome<String> {
        let mut out = String::new();
        for byte in value.text()?.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(byte.into()),
                b'/' if !query => out.push('/'),
                b' ' if query => out.push('+'),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        Ok(out)
    };
    let pairs = match &value {
        Value::Dict(dict) => dict.0.clone(),
        Value::List(_) | Value::Tuple(_) | Value::View(..) => {
            let pair = |item: Value| match access::items(&item)?.as_slice() {
                [key, value] => Ok((key.clone(), value.clone())),
                _ => Err(Fault::new("too many values to unpack (expected 2)")),
            };
            access::items(&value)?.into_iter().map(pair).collect::<Outcome<_>>()?
        }
        Value::Iterator(_) | Value::Range(_) | Value::Undefined(_) => {
            return Err(Fault::unsupported(format!("the filter `urlencode` of {}", value.kind())));
        }
        text => return quoted(text, false).map(Value::str),
    };
    let pairs = pairs.iter().map(|(k, v)| Ok(format!("{}={}", quoted(k, true)?, quoted(v, true)?)));
    Ok(Value::str(pairs.collect::<Outcome<Vec<_>>>()?.join("&")))
}
