//! The methods of `str`.

use super::super::{
    access,
    args::{self, Args, optional_index, required, text_of},
    fault::{Fault, Outcome},
    format, text,
    value::Value,
};
use std::sync::Arc;

/// Calls a method of a text.
pub fn call(s: &Arc<str>, name: &'static str, given: &Args) -> Outcome<Value> {
    match name {
        "format" => format::braces(s, &given.positional, &given.named).map(Value::str),
        "format_map" => {
            let [map] = given.bind_positional(name)?;
            match required(map, name, "mapping")? {
                Value::Dict(dict) => {
                    let named: Vec<(Arc<str>, Value)> =
                        (dict.0.iter()).filter_map(|(k, v)| k.as_text().map(|k| (k.clone(), v.clone()))).collect();
                    format::braces(s, &[], &named).map(Value::str)
                }
                other => Err(Fault::unsupported(format!("format_map of {}", other.kind()))),
            }
        }
        "encode" | "maketrans" | "translate" | "isidentifier" | "istitle" => {
            Err(Fault::unsupported(format!("the method `{name}` of str")))
        }
        "split" | "rsplit" | "splitlines" | "partition" | "rpartition" | "join" => parts(s, name, given),
        "strip" | "lstrip" | "rstrip" | "removeprefix" | "removesuffix" | "replace" => cut(s, name, given),
        "find" | "rfind" | "index" | "rindex" | "count" | "startswith" | "endswith" => search(s, name, given),
        "center" | "ljust" | "rjust" | "zfill" | "expandtabs" => padded(s, name, given),
        _ => {
            given.bind_positional::<0>(name)?;
            if let Some(answer) = quality(s, name)? {
                return Ok(Value::Bool(answer));
            }
            cased(s, name).map(Value::str)
        }
    }
}

/// The methods that ask what a text is made of.
fn quality(s: &str, name: &str) -> Outcome<Option<bool>> {
    let all = |is: fn(char) -> bool| !s.is_empty() && s.chars().all(is);
    Ok(Some(match name {
        "isalpha" => all(text::is_alpha),
        "isdecimal" => all(text::is_decimal),
        "isdigit" => all(text::is_digit),
        "isspace" => all(text::is_space),
        "isascii" => s.is_ascii(),
        "isprintable" => text::all_printable(s),
        "isalnum" | "isnumeric" => {
            match s.chars().find(|c| !c.is_ascii() && !text::is_alpha(*c) && !text::is_digit(*c)) {
                _ if name == "isnumeric" && !s.is_ascii() => {
                    return Err(Fault::unsupported("`isnumeric` beyond ASCII"));
                }
                Some(_) if s.chars().any(|c| c.is_numeric()) => {
                    return Err(Fault::unsupported("`isalnum` of numbers that are no digits"));
                }
                _ if name == "isnumeric" => all(|c| c.is_ascii_digit()),
                _ => all(|c| text::is_alpha(c) || text::is_digit(c)),
            }
        }
        "islower" => is_cased(s, char::is_lowercase, char::is_uppercase),
        "isupper" => is_cased(s, char::is_uppercase, char::is_lowercase),
        _ => return Ok(None),
    }))
}

/// Whether there are characters with case and all are of this one.
pub fn is_cased(s: &str, wanted: fn(char) -> bool, other: fn(char) -> bool) -> bool {
    s.chars().any(wanted) && !s.chars().any(other)
}

/// The methods that change case.
pub fn cased(s: &str, name: &str) -> Outcome<String> {
    match name {
        "upper" => Ok(s.to_uppercase()),
        "lower" => Ok(s.to_lowercase()),
        "casefold" if s.is_ascii() => Ok(s.to_lowercase()),
        "swapcase" if s.is_ascii() => Ok((s.chars())
            .map(|c| if c.is_uppercase() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() })
            .collect()),
        "capitalize" => {
            let mut chars = s.chars();
            let first = chars.next().map(text::title).transpose()?.unwrap_or_default();
            Ok(first + &lower_after(s, s.len() - chars.as_str().len()))
        }
        "title" => {
            let mut out = String::new();
            let mut inside = false;
            for (at, c) in s.char_indices() {
                let cased = c.is_lowercase() || c.is_uppercase();
                match (inside, cased) {
                    (false, true) => out.push_str(&text::title(c)?),
                    (true, true) => out.push_str(&lower_of(s, at, c)),
                    (_, false) => out.push(c),
                }
                inside = cased;
            }
            Ok(out)
        }
        _ => Err(Fault::unsupported(format!("the method `{name}` of str beyond ASCII"))),
    }
}

/// The lower case of what stands behind a byte, with its context (a sigma at the end of a word has its own form).
fn lower_after(s: &str, at: usize) -> String {
    s[at..].char_indices().map(|(i, c)| lower_of(s, at + i, c)).collect()
}

fn lower_of(s: &str, at: usize, c: char) -> String {
    if c != 'Σ' {
        return c.to_lowercase().collect();
    }
    let before = s[..at].chars().next_back().is_some_and(char::is_alphabetic);
    let after = s[at + c.len_utf8()..].chars().next().is_some_and(char::is_alphabetic);
    if before && !after { "ς" } else { "σ" }.into()
}

fn strings(parts: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<Value> {
    parts.into_iter().map(|part| Value::str(part.as_ref())).collect()
}

fn parts(s: &str, name: &str, given: &Args) -> Outcome<Value> {
    match name {
        "split" | "rsplit" => {
            let [separator, most] = given.bind(name, ["sep", "maxsplit"])?;
            let most = optional_index(most.as_ref())?.filter(|n| *n >= 0).map_or(usize::MAX, |n| n as usize);
            let out = match separator {
                None | Some(Value::None) => split_at_space(s, most, name == "rsplit"),
                Some(separator) => {
                    let separator = text_of(&separator, "the separator")?;
                    if separator.is_empty() {
                        return Err(Fault::new("empty separator"));
                    }
                    let n = most.saturating_add(1);
                    match name {
                        "split" => s.splitn(n, &**separator).collect(),
                        _ => {
                            let mut out: Vec<&str> = s.rsplitn(n, &**separator).collect();
                            out.reverse();
                            out
                        }
                    }
                }
            };
            Ok(Value::list(strings(out)))
        }
        "splitlines" => {
            let [keep] = given.bind(name, ["keepends"])?;
            Ok(Value::list(strings(text::lines(s, keep.is_some_and(|v| v.is_true())))))
        }
        "join" => {
            let [items] = given.bind_positional(name)?;
            let items = access::items(&required(items, name, "iterable")?)?;
            let texts = items.iter().map(|v| text_of(v, "an item of join")).collect::<Outcome<Vec<_>>>()?;
            text::bounded(texts.iter().map(|t| t.len() + s.len()).sum())?;
            Ok(Value::str(texts.iter().map(|t| &***t).collect::<Vec<&str>>().join(s)))
        }
        _ => {
            let [separator] = given.bind_positional(name)?;
            let separator = required(separator, name, "sep")?;
            let separator = text_of(&separator, "the separator")?;
            if separator.is_empty() {
                return Err(Fault::new("empty separator"));
            }
            let found = if name == "partition" { s.split_once(&**separator) } else { s.rsplit_once(&**separator) };
            let three = match (found, name) {
                (Some((before, after)), _) => [before, separator, after],
                (None, "partition") => [s, "", ""],
                (None, _) => ["", "", s],
            };
            Ok(Value::tuple(strings(three)))
        }
    }
}

/// `split` without a separator: at runs of white space, none at the ends.
fn split_at_space(s: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = s.trim_matches(text::is_space);
    while !rest.is_empty() {
        let at = if from_right { rest.rfind(text::is_space) } else { rest.find(text::is_space) };
        match at.filter(|_| out.len() < most) {
            None => {
                // The last part keeps the white space at the end that was never looked at.
                out.push(rest);
                break;
            }
            Some(at) if from_right => {
                let end = at + rest[at..].chars().next().map_or(1, char::len_utf8);
                out.push(&rest[end..]);
                rest = rest[..at].trim_end_matches(text::is_space);
            }
            Some(at) => {
                out.push(&rest[..at]);
                rest = rest[at..].trim_start_matches(text::is_space);
            }
        }
    }
    if from_right {
        out.reverse();
    }
    keep_far_end(s, out, most, from_right)
}

/// With a limit, the part that was not split keeps the white space of its far end: `" a b ".split(None, 0)` is `["a b "]`.
fn keep_far_end<'s>(s: &'s str, mut out: Vec<&'s str>, most: usize, from_right: bool) -> Vec<&'s str> {
    if out.len() == most.saturating_add(1) {
        let begin = |part: &str| part.as_ptr() as usize - s.as_ptr() as usize;
        if from_right {
            if let Some(first) = out.first_mut() {
                *first = &s[..begin(first) + first.len()];
            }
        } else if let Some(last) = out.last_mut() {
            *last = &s[begin(last)..];
        }
    }
    out
}

fn cut(s: &str, name: &str, given: &Args) -> Outcome<Value> {
    let out = match name {
        "removeprefix" | "removesuffix" => {
            let [part] = given.bind_positional(name)?;
            let part = required(part, name, "part")?;
            let part = text_of(&part, "the argument")?;
            let cut = if name == "removeprefix" { s.strip_prefix(&**part) } else { s.strip_suffix(&**part) };
            cut.unwrap_or(s).to_owned()
        }
        "replace" => {
            let [old, new, count] = given.bind_positional(name)?;
            let (old, new) = (required(old, name, "old")?, required(new, name, "new")?);
            let count = count.map(|v| args::index(&v)).transpose()?.unwrap_or(-1);
            replaced(s, text_of(&old, "the argument")?, text_of(&new, "the argument")?, count)?
        }
        _ => {
            let [chars] = given.bind_positional(name)?;
            let set = match &chars {
                None | Some(Value::None) => None,
                Some(chars) => Some(text_of(chars, "the argument")?),
            };
            let is = |c: char| set.map_or_else(|| text::is_space(c), |set| set.contains(c));
            match name {
                "strip" => s.trim_matches(is),
                "lstrip" => s.trim_start_matches(is),
                _ => s.trim_end_matches(is),
            }
            .to_owned()
        }
    };
    Ok(Value::str(out))
}

/// `str.replace`; all are replaced if `count` is negative.
pub fn replaced(s: &str, old: &str, new: &str, count: i128) -> Outcome<String> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let n = if old.is_empty() { s.chars().count() + 1 } else { s.matches(old).count() }.min(count);
    text::bounded(s.len().saturating_add(n.saturating_mul(new.len())))?;
    Ok(s.replacen(old, new, count))
}

fn search(s: &str, name: &str, given: &Args) -> Outcome<Value> {
    let [wanted, start, stop] = given.bind_positional(name)?;
    let wanted = required(wanted, name, "sub")?;
    let (start, stop) = (optional_index(start.as_ref())?, optional_index(stop.as_ref())?);
    let length = s.chars().count();
    let (from, to, _) = text::slice_bounds(length, start, stop, None)?;
    // A start behind the end finds nothing, not even the empty text.
    let beyond = start.is_some_and(|i| i > length as i128) || from > to;
    let (from, to) = (from as usize, to.max(from) as usize);
    let part = &s[text::byte_at(s, from)..text::byte_at(s, to)];
    if let "startswith" | "endswith" = name {
        let one = |affix: &Value| -> Outcome<bool> {
            let affix = text_of(affix, &format!("{name} first arg"))?;
            Ok(!beyond && if name == "startswith" { part.starts_with(&**affix) } else { part.ends_with(&**affix) })
        };
        let answer = match &wanted {
            Value::Tuple(any) => any.iter().try_fold(false, |found, affix| Ok(found || one(affix)?))?,
            affix => one(affix)?,
        };
        return Ok(Value::Bool(answer));
    }
    let wanted = text_of(&wanted, "the argument")?;
    if name == "count" {
        let n = if beyond {
            0
        } else if wanted.is_empty() {
            part.chars().count() + 1
        } else {
            part.matches(&**wanted).count()
        };
        return Ok(Value::Int(n as i128));
    }
    let at = if name.starts_with('r') { part.rfind(&**wanted) } else { part.find(&**wanted) };
    match at.filter(|_| !beyond) {
        Some(at) => Ok(Value::Int((from + part[..at].chars().count()) as i128)),
        None if name.ends_with("index") => Err(Fault::new("substring not found")),
        None => Ok(Value::Int(-1)),
    }
}

fn padded(s: &str, name: &str, given: &Args) -> Outcome<Value> {
    let out = match name {
        "expandtabs" => {
            let [size] = given.bind(name, ["tabsize"])?;
            expand_tabs(s, size.map(|v| args::index(&v)).transpose()?.unwrap_or(8))?
        }
        "zfill" => {
            let [width] = given.bind_positional(name)?;
            let width = args::index(&required(width, name, "width")?)?;
            let fill = text::repeated("0", width - s.chars().count() as i128)?;
            match s.strip_prefix(['+', '-']) {
                Some(digits) => format!("{}{fill}{digits}", &s[..1]),
                None => fill + s,
            }
        }
        _ => {
            let [width, fill] = given.bind_positional(name)?;
            let width = args::index(&required(width, name, "width")?)?;
            let fill = fill.unwrap_or_else(|| Value::str(" "));
            let fill = text_of(&fill, "the fill character")?;
            if fill.chars().count() != 1 {
                return Err(Fault::new("The fill character must be exactly one character long"));
            }
            pad(s, width, fill, name)?
        }
    };
    Ok(Value::str(out))
}

/// `center`, `ljust` and `rjust`.
pub fn pad(s: &str, width: i128, fill: &str, name: &str) -> Outcome<String> {
    let missing = (width - s.chars().count() as i128).max(0);
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // CPython puts the odd one to the left where the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    Ok(text::repeated(fill, left)? + s + &text::repeated(fill, missing - left)?)
}

fn expand_tabs(s: &str, size: i128) -> Outcome<String> {
    let mut out = String::new();
    let mut column = 0;
    for c in s.chars() {
        match c {
            '\t' if size > 0 => {
                let n = size - column % size;
                column += n;
                out += &text::repeated(" ", n)?;
                text::bounded(out.len())?;
            }
            '\t' => {}
            '\n' | '\r' => {
                column = 0;
                out.push(c);
            }
            c => {
                column += 1;
                out.push(c);
            }
        }
    }
    Ok(out)
}
