//! Python's two ways to format: `"%s" % value` and `"{}".format(value)`.

mod number;

use super::{
    access,
    fault::{Fault, Outcome},
    methods, text,
    value::Value,
};
use number::{Sign, Style};
use std::sync::Arc;

/// `pattern % arguments`.
///
/// # Errors
/// As in Python: too few or too many arguments, arguments of a wrong type, an unknown conversion.
pub fn percent(pattern: &str, arguments: &Value) -> Outcome<String> {
    let single = [arguments.clone()];
    let positional: &[Value] = match arguments {
        Value::Tuple(items) | Value::Group(items) => items,
        _ => &single,
    };
    let mut percent = Percent { arguments, positional, used: 0 };
    let mut out = String::new();
    let mut rest = pattern;
    let mut mapped = false;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let mut key = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let end = key_end(inner).ok_or_else(|| Fault::new("incomplete format key"))?;
            key = Some(&inner[..end]);
            mapped = true;
            rest = &inner[end + 1..];
        }
        let (style, conversion, after) = percent.style(rest)?;
        rest = after;
        let value = percent.value(key)?;
        out.push_str(&percent_one(&value, conversion, &style)?);
        text::bounded(out.len())?;
    }
    out.push_str(rest);
    let all_used = match arguments {
        Value::Tuple(items) | Value::Group(items) => percent.used == items.len(),
        // Python takes a mapping (and a list, for its own reasons) as one that may go unused.
        Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_) => true,
        _ => mapped || percent.used == 1,
    };
    if all_used { Ok(out) } else { Err(Fault::new("not all arguments converted during string formatting")) }
}

/// Where the key ends that a parenthesis opens.
fn key_end(inner: &str) -> Option<usize> {
    let mut depth = 1;
    inner.char_indices().find_map(|(i, c)| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        (depth == 0).then_some(i)
    })
}

struct Percent<'a> {
    arguments: &'a Value,
    positional: &'a [Value],
    used: usize,
}

impl Percent<'_> {
    fn next(&mut self) -> Outcome<Value> {
        let value = self.positional.get(self.used).cloned();
        self.used += 1;
        value.ok_or_else(|| Fault::new("not enough arguments for format string"))
    }

    fn value(&mut self, key: Option<&str>) -> Outcome<Value> {
        let Some(key) = key else { return self.next() };
        match self.arguments {
            Value::Dict(dict) => dict.get_str(key).cloned().ok_or_else(|| Fault::new(format!("KeyError: '{key}'"))),
            _ => Err(Fault::new("format requires a mapping")),
        }
    }

    /// Flags, width, precision and the letter of a conversion, and what stands behind it.
    fn style<'t>(&mut self, text: &'t str) -> Outcome<(Style, char, &'t str)> {
        let mut style = Style::default();
        let mut rest = text;
        while let Some(flag) = rest.chars().next().filter(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => style.align = Some('<'),
                '+' => style.sign = Sign::Always,
                ' ' if style.sign == Sign::Negative => style.sign = Sign::Space,
                '#' => style.alternate = true,
                '0' => style.zero = true,
                _ => {}
            }
            rest = &rest[1..];
        }
        let number = |percent: &mut Self, rest: &mut &'t str| -> Outcome<Option<i128>> {
            if let Some(after) = rest.strip_prefix('*') {
                *rest = after;
                return super::args::index(&percent.next()?).map(Some);
            }
            let n = rest.bytes().take_while(u8::is_ascii_digit).count();
            let digits = &rest[..n];
            *rest = &rest[n..];
            Ok(if digits.is_empty() { None } else { Some(digits.parse().unwrap_or(i128::MAX)) })
        };
        if let Some(width) = number(self, &mut rest)? {
            if width < 0 {
                style.align = Some('<');
            }
            style.width = text::bounded(usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX))?;
        }
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            let precision = number(self, &mut rest)?.unwrap_or(0).max(0);
            style.precision = Some(text::bounded(usize::try_from(precision).unwrap_or(usize::MAX))?);
        }
        rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
        let conversion = rest.chars().next().ok_or_else(|| Fault::new("incomplete format"))?;
        Ok((style, conversion, &rest[conversion.len_utf8()..]))
    }
}

fn percent_one(value: &Value, conversion: char, style: &Style) -> Outcome<String> {
    match conversion {
        's' => number::text(&value.text()?, style),
        'r' | 'a' => {
            let mut shown = String::new();
            value.repr(&mut shown)?;
            if conversion == 'a' && !shown.is_ascii() {
                return Err(Fault::unsupported("`%a` beyond ASCII"));
            }
            number::text(&shown, style)
        }
        'c' => match value {
            Value::Str(s) if s.chars().count() == 1 => number::text(s, style),
            _ => {
                let code = value.as_int().and_then(|i| u32::try_from(i).ok()).and_then(char::from_u32);
                let c = code.ok_or_else(|| Fault::new("%c requires int or char"))?;
                number::text(&c.to_string(), style)
            }
        },
        'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
            let whole = match value {
                Value::Float(x) if matches!(conversion, 'd' | 'i' | 'u') => Some(number::truncated(*x)?),
                _ => value.as_int(),
            };
            let whole = whole.ok_or_else(|| {
                Fault::new(format!("%{conversion} format: a number is required, not {}", value.kind()))
            })?;
            number::old_integer(whole, conversion, style)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let x = value.as_float().ok_or_else(|| Fault::new(format!("must be real number, not {}", value.kind())))?;
            number::old_float(x, conversion, style)
        }
        other => Err(Fault::new(format!("unsupported format character '{other}'"))),
    }
}

/// `pattern.format(*positional, **named)`.
///
/// # Errors
/// As in Python: fields that are not given, specifications that do not fit the value.
pub fn braces(pattern: &str, positional: &[Value], named: &[(Arc<str>, Value)]) -> Outcome<String> {
    // Python lets specifications have fields, whose specifications have none.
    Braces { positional, named, automatic: None }.format(pattern, 3)
}

struct Braces<'a> {
    positional: &'a [Value],
    named: &'a [(Arc<str>, Value)],
    /// The number of the next field without a name; `Some(None)` once fields are numbered by hand.
    automatic: Option<Option<usize>>,
}

impl Braces<'_> {
    fn format(&mut self, pattern: &str, depth: usize) -> Outcome<String> {
        if depth == 0 {
            return Err(Fault::new("Max string recursion exceeded"));
        }
        let mut out = String::new();
        let mut rest = pattern;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                out.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(Fault::new("Single '}' encountered in format string"));
            }
            let mut level = 1;
            let end = rest.char_indices().find_map(|(i, c)| {
                level += match c {
                    '{' => 1,
                    '}' => -1,
                    _ => 0,
                };
                (level == 0).then_some(i)
            });
            let end = end.ok_or_else(|| Fault::new("expected '}' before end of string"))?;
            out.push_str(&self.field(&rest[..end], depth)?);
            text::bounded(out.len())?;
            rest = &rest[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn field(&mut self, field: &str, depth: usize) -> Outcome<String> {
        let name_end = field.find([':', '!']).unwrap_or(field.len());
        if field[..name_end].contains(['{', '['])
            && field[..name_end].matches('[').count() != field[..name_end].matches(']').count()
        {
            return Err(Fault::unsupported("fields of `format` with brackets in their keys"));
        }
        let (name, rest) = field.split_at(name_end);
        let value = self.value(name)?;
        let (conversion, spec) = match rest.strip_prefix('!') {
            Some(rest) => {
                let (conversion, spec) = rest.split_once(':').unwrap_or((rest, ""));
                (Some(conversion), spec)
            }
            None => (None, rest.strip_prefix(':').unwrap_or("")),
        };
        let spec = self.format(spec, depth - 1)?;
        let value = match conversion {
            None => value,
            Some("s") => Value::Str(value.text()?),
            Some("r") => {
                let mut shown = String::new();
                value.repr(&mut shown)?;
                Value::str(shown)
            }
            Some(other) => return Err(Fault::unsupported(format!("the conversion !{other} of `format`"))),
        };
        number::formatted(&value, &spec)
    }

    fn value(&mut self, name: &str) -> Outcome<Value> {
        let first_end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(first_end);
        let mut value = if first.is_empty() {
            let Some(next) = self.automatic.unwrap_or(Some(0)) else {
                return Err(Fault::new("cannot switch from manual field specification to automatic field numbering"));
            };
            self.automatic = Some(Some(next + 1));
            self.numbered(next)?
        } else if first.bytes().all(|b| b.is_ascii_digit()) {
            if matches!(self.automatic, Some(Some(_))) {
                return Err(Fault::new("cannot switch from automatic field numbering to manual field specification"));
            }
            self.automatic = Some(None);
            self.numbered(first.parse().unwrap_or(usize::MAX))?
        } else {
            let named = self.named.iter().find(|(n, _)| &**n == first).map(|(_, v)| v.clone());
            named.ok_or_else(|| Fault::new(format!("KeyError: '{first}'")))?
        };
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                value = access::attribute(&value, &after[..end])?;
                rest = &after[end..];
            } else {
                let inner = rest.strip_prefix('[').and_then(|r| r.split_once(']'));
                let (key, after) = inner.ok_or_else(|| Fault::new("Missing ']' in format string"))?;
                let number = key.parse::<i128>().ok().filter(|_| key.bytes().all(|b| b.is_ascii_digit()));
                value = access::item(&value, &number.map_or_else(|| Value::str(key), Value::Int))?;
                rest = after;
            }
        }
        Ok(value)
    }

    fn numbered(&self, i: usize) -> Outcome<Value> {
        let value = self.positional.get(i).cloned();
        value.ok_or_else(|| Fault::new(format!("Replacement index {i} out of range for positional args tuple")))
    }
}

/// The text within its width, for `ljust` and its like.
fn padded(text: &str, width: usize, fill: char, align: char) -> Outcome<String> {
    let name = match align {
        '<' => "ljust",
        '>' => "rjust",
        _ => "centre",
    };
    if name == "centre" {
        let missing = width.saturating_sub(text.chars().count());
        let side = |n: usize| fill.to_string().repeat(n);
        return Ok(side(missing / 2) + text + &side(missing - missing / 2));
    }
    methods::pad(text, width as i128, &fill.to_string(), name)
}
