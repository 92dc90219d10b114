//! Numbers and texts in a given width, sign and precision.

use super::{
    super::{
        fault::{Fault, Outcome},
        text as python,
        value::Value,
    },
    padded,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sign {
    #[default]
    Negative,
    Always,
    Space,
}

/// How a value is to be written.
#[derive(Debug, Clone, Default)]
pub struct Style {
    pub fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    pub align: Option<char>,
    pub sign: Sign,
    pub alternate: bool,
    pub zero: bool,
    pub width: usize,
    pub group: Option<char>,
    pub precision: Option<usize>,
}

/// `%s`: cut to the precision, at the right of the width.
pub fn text(s: &str, style: &Style) -> Outcome<String> {
    let cut = style.precision.map_or(s, |n| &s[..python::byte_at(s, n)]);
    padded(cut, style.width, ' ', style.align.unwrap_or('>'))
}

/// The integer part of a float.
pub fn truncated(x: f64) -> Outcome<i128> {
    if x.is_nan() {
        return Err(Fault::new("cannot convert float NaN to integer"));
    }
    if x.is_infinite() {
        return Err(Fault::new("cannot convert float infinity to integer"));
    }
    if x.abs() >= 1e38 {
        return Err(Fault::unsupported("integers of more than 128 bits"));
    }
    Ok(x.trunc() as i128)
}

fn sign_of(negative: bool, sign: Sign) -> &'static str {
    match (negative, sign) {
        (true, _) => "-",
        (_, Sign::Always) => "+",
        (_, Sign::Space) => " ",
        _ => "",
    }
}

/// Sign, prefix and digits in the width; zeros go between prefix and digits.
fn placed(sign: &str, prefix: &str, digits: &str, style: &Style, default_align: char) -> Outcome<String> {
    let zero = style.zero && style.align.is_none();
    let align = style.align.unwrap_or(if zero { '=' } else { default_align });
    let fill = style.fill.unwrap_or(if style.zero && style.align != Some('<') { '0' } else { ' ' });
    if align == '=' {
        let missing = style.width.saturating_sub(sign.len() + prefix.len() + digits.chars().count());
        return Ok(format!("{sign}{prefix}{}{digits}", fill.to_string().repeat(missing)));
    }
    padded(&format!("{sign}{prefix}{digits}"), style.width, fill, align)
}

fn based(n: u128, conversion: char) -> (String, &'static str) {
    match conversion {
        'x' => (format!("{n:x}"), "0x"),
        'X' => (format!("{n:X}"), "0X"),
        'o' => (format!("{n:o}"), "0o"),
        'b' => (format!("{n:b}"), "0b"),
        _ => (n.to_string(), ""),
    }
}

/// `%d`, `%x` and their like.
pub fn old_integer(n: i128, conversion: char, style: &Style) -> Outcome<String> {
    let (digits, prefix) = based(n.unsigned_abs(), conversion);
    let zeros = style.precision.unwrap_or(0).saturating_sub(digits.len());
    let digits = "0".repeat(zeros) + &digits;
    placed(sign_of(n < 0, style.sign), if style.alternate { prefix } else { "" }, &digits, style, '>')
}

/// `%f`, `%e`, `%g`.
pub fn old_float(x: f64, conversion: char, style: &Style) -> Outcome<String> {
    let digits = float_digits(x.abs(), conversion, style.precision.unwrap_or(6), style.alternate)?;
    placed(sign_of(x.is_sign_negative() && !x.is_nan(), style.sign), "", &digits, style, '>')
}

fn float_digits(x: f64, conversion: char, precision: usize, alternate: bool) -> Outcome<String> {
    if precision > 1000 || alternate {
        return Err(Fault::unsupported("floats in this format"));
    }
    if !x.is_finite() {
        let word = if x.is_nan() { "nan" } else { "inf" };
        return Ok(if conversion.is_uppercase() { word.to_uppercase() } else { word.into() });
    }
    let lower = match conversion.to_ascii_lowercase() {
        'f' => format!("{x:.precision$}"),
        'e' => exponent(&format!("{x:.precision$e}")),
        _ => {
            let precision = precision.max(1);
            let scientific = format!("{x:.*e}", precision - 1);
            let power: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
            let trimmed = |s: &str| match s.contains('.') {
                true => s.trim_end_matches('0').trim_end_matches('.').to_owned(),
                false => s.to_owned(),
            };
            if (-4..precision as i32).contains(&power) {
                trimmed(&format!("{x:.*}", (precision as i32 - 1 - power) as usize))
            } else {
                let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
                exponent(&format!("{}e{power}", trimmed(mantissa)))
            }
        }
    };
    Ok(if conversion.is_uppercase() { lower.to_uppercase() } else { lower })
}

/// Rust's exponent as C writes it: with a sign and at least two digits.
fn exponent(text: &str) -> String {
    let (mantissa, power) = text.split_once('e').unwrap_or((text, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

/// `format(value, spec)`.
pub fn formatted(value: &Value, spec: &str) -> Outcome<String> {
    if spec.is_empty() {
        return Ok(value.text()?.to_string());
    }
    let (style, kind) = style(spec)?;
    match value {
        Value::Str(s) => match (kind, style.align) {
            (None | Some('s'), Some('=')) => Err(Fault::new("'=' alignment not allowed in string format specifier")),
            (None | Some('s'), align) if style.sign == Sign::Negative && style.group.is_none() && !style.alternate => {
                let cut = style.precision.map_or(&**s, |n| &s[..python::byte_at(s, n)]);
                let fill = style.fill.unwrap_or(if style.zero { '0' } else { ' ' });
                padded(cut, style.width, fill, align.unwrap_or('<'))
            }
            _ => Err(Fault::new(format!("Unknown format code in '{spec}' for object of type 'str'"))),
        },
        Value::Int(_) | Value::Bool(_) | Value::Float(_) => number(value, spec, &style, kind),
        other => Err(Fault::new(format!("unsupported format string passed to {}.__format__", other.kind()))),
    }
}

fn number(value: &Value, spec: &str, style: &Style, kind: Option<char>) -> Outcome<String> {
    let unknown = || Fault::new(format!("Unknown format code in '{spec}' for object of type '{}'", value.kind()));
    let grouped = |digits: String| match style.group {
        Some(_) if style.zero => Err(Fault::unsupported("zeros before grouped digits")),
        Some(separator) => Ok(group(&digits, separator)),
        None => Ok(digits),
    };
    match (value.as_int(), kind) {
        (Some(n), None | Some('d' | 'x' | 'X' | 'o' | 'b' | 'n' | 'c')) => {
            if style.precision.is_some() {
                return Err(Fault::new("Precision not allowed in integer format specifier"));
            }
            if matches!(kind, Some('c' | 'n')) || (style.group.is_some() && !matches!(kind, None | Some('d'))) {
                return Err(Fault::unsupported(format!("the format {spec}")));
            }
            let (digits, prefix) = based(n.unsigned_abs(), kind.unwrap_or('d'));
            let prefix = if style.alternate { prefix } else { "" };
            placed(sign_of(n < 0, style.sign), prefix, &grouped(digits)?, style, '>')
        }
        (_, Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
            let x = value.as_float().ok_or_else(unknown)?;
            let (x, kind, tail) = match kind {
                Some('%') => (x * 100.0, 'f', "%"),
                kind => (x, kind.unwrap_or('g'), ""),
            };
            let digits = float_digits(x.abs(), kind, style.precision.unwrap_or(6), style.alternate)?;
            let sign = sign_of(x.is_sign_negative() && !x.is_nan(), style.sign);
            placed(sign, "", &(grouped(digits)? + tail), style, '>')
        }
        (None, None) if style.precision.is_none() => {
            let x = value.as_float().ok_or_else(unknown)?;
            let sign = sign_of(x.is_sign_negative() && !x.is_nan(), style.sign);
            placed(sign, "", &grouped(python::float(x.abs()))?, style, '>')
        }
        (None, None) => Err(Fault::unsupported("a float with a precision and no letter")),
        _ => Err(unknown()),
    }
}

fn group(digits: &str, separator: char) -> String {
    let whole = digits.bytes().take_while(u8::is_ascii_digit).count();
    let mut out = String::new();
    for (i, c) in digits[..whole].chars().enumerate() {
        if i > 0 && (whole - i).is_multiple_of(3) {
            out.push(separator);
        }
        out.push(c);
    }
    out + &digits[whole..]
}

/// `[[fill]align][sign][#][0][width][,][.precision][type]`.
fn style(spec: &str) -> Outcome<(Style, Option<char>)> {
    let invalid = || Fault::new(format!("Invalid format specifier '{spec}'"));
    let is_align = |c: char| "<>=^".contains(c);
    let mut style = Style::default();
    let mut rest = spec;
    let mut chars = spec.chars();
    if let (Some(first), second) = (chars.next(), chars.next()) {
        if let Some(align) = second.filter(|c| is_align(*c)) {
            (style.fill, style.align) = (Some(first), Some(align));
            rest = chars.as_str();
        } else if is_align(first) {
            style.align = Some(first);
            rest = &rest[1..];
        }
    }
    let mut take = |c: char| match rest.strip_prefix(c) {
        Some(after) => {
            rest = after;
            true
        }
        None => false,
    };
    if take('+') {
        style.sign = Sign::Always;
    } else if take(' ') {
        style.sign = Sign::Space;
    } else {
        take('-');
    }
    style.alternate = take('#');
    style.zero = take('0');
    let digits = |rest: &mut &str| -> Outcome<Option<usize>> {
        let n = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = &rest[..n];
        *rest = &rest[n..];
        if number.is_empty() { Ok(None) } else { python::bounded(number.parse().unwrap_or(usize::MAX)).map(Some) }
    };
    style.width = digits(&mut rest)?.unwrap_or(0);
    if let Some(after) = rest.strip_prefix([',', '_']) {
        style.group = rest.chars().next();
        rest = after;
    }
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        style.precision = Some(digits(&mut rest)?.ok_or_else(|| Fault::new("Format specifier missing precision"))?);
    }
    let mut kinds = rest.chars();
    let kind = kinds.next();
    if kinds.next().is_some() { Err(invalid()) } else { Ok((style, kind)) }
}
