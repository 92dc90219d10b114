//! Python's view of characters, texts and numbers where Rust's differs, and how it writes them.

use super::fault::{Fault, Outcome};
use unicode_general_category::{GeneralCategory as Category, get_general_category};

/// The longest text that a template may build. Python would go on until memory ends.
const LONGEST: usize = 1 << 28;

/// Whether Python's `str.isspace` holds of the character: Unicode's white space and four separators of ASCII.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// Whether the character is one of the ends of lines that `str.splitlines` knows.
fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// `str.splitlines`.
pub fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_line_end(c)) {
        let end = if rest[at..].starts_with("\r\n") { at + 2 } else { at + c.len_utf8() };
        out.push(&rest[..if keep_ends { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

/// `str.isalpha` of one character.
pub fn is_alpha(c: char) -> bool {
    use Category::*;
    matches!(
        get_general_category(c),
        UppercaseLetter | LowercaseLetter | TitlecaseLetter | ModifierLetter | OtherLetter
    )
}

/// `str.isdecimal` of one character.
pub fn is_decimal(c: char) -> bool {
    get_general_category(c) == Category::DecimalNumber
}

/// `str.isdigit` of one character: decimal digits, and digits in circles, superscripts and the like.
pub fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐' | '⓪'
            | '⓵'..='⓽' | '⓿' | '❶'..='❾' | '➀'..='➈' | '➊'..='➒' | '\u{1369}'..='\u{1371}' | '\u{19da}'
            | '\u{10a40}'..='\u{10a43}' | '\u{10e60}'..='\u{10e68}' | '\u{11052}'..='\u{1105a}'
            | '\u{1f100}'..='\u{1f10a}')
}

/// Whether `\w` of a regular expression has the character.
pub fn is_word(c: char) -> bool {
    use Category::*;
    c == '_' || is_alpha(c) || matches!(get_general_category(c), DecimalNumber | LetterNumber | OtherNumber)
}

/// Whether `repr` shows the character as it is.
fn is_printable(c: char) -> bool {
    use Category::*;
    c == ' '
        || !matches!(
            get_general_category(c),
            Control
                | Format
                | Surrogate
                | PrivateUse
                | Unassigned
                | LineSeparator
                | ParagraphSeparator
                | SpaceSeparator
        )
}

/// Whether every character of `repr`'s is printable: `str.isprintable`.
pub fn all_printable(text: &str) -> bool {
    text.chars().all(is_printable)
}

/// `repr` of a text.
pub fn repr(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => out.push_str(&match c as u32 {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
}

/// `repr` of a float: the fewest digits that read back as the same number, with an exponent from 1e16 on and below 1e-4.
pub fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x < 0.0 { "-inf" } else { "inf" }.into();
    }
    let text = format!("{x:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{x}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// The title case of a character, as `str.title` and `str.capitalize` have it.
pub fn title(c: char) -> Outcome<String> {
    let upper: Vec<char> = c.to_uppercase().collect();
    match (c, upper.as_slice()) {
        ('Ǆ'..='ǌ' | 'Ǳ'..='ǳ' | '\u{10d0}'..='\u{10ff}', _) => {
            Err(Fault::unsupported(format!("the title case of {c}")))
        }
        (_, [one]) => Ok(one.to_string()),
        ('ß' | '\u{fb00}'..='\u{fb06}', [first, rest @ ..]) => {
            Ok(std::iter::once(*first).chain(rest.iter().flat_map(|c| c.to_lowercase())).collect())
        }
        _ => Err(Fault::unsupported(format!("the title case of {c}"))),
    }
}

/// `text` if it is not longer than any template needs.
pub fn bounded(length: usize) -> Outcome<usize> {
    if length > LONGEST { Err(Fault::unsupported("texts of more than 256 MiB")) } else { Ok(length) }
}

/// `text` `n` times, none if `n` is negative.
pub fn repeated(text: &str, n: i128) -> Outcome<String> {
    let n = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
    bounded(text.len().saturating_mul(n))?;
    Ok(text.repeat(if text.is_empty() { 0 } else { n }))
}

/// The byte where the character of the index `i` begins, or the end.
pub fn byte_at(text: &str, i: usize) -> usize {
    text.char_indices().nth(i).map_or(text.len(), |(at, _)| at)
}

/// Python's bounds of a slice over `length` items: where it starts, where it stops, and its step.
pub fn slice_bounds(
    length: usize,
    start: Option<i128>,
    stop: Option<i128>,
    step: Option<i128>,
) -> Outcome<(i128, i128, i128)> {
    let length = length as i128;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Fault::new("slice step cannot be zero"));
    }
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |i: i128| (if i < 0 { i.saturating_add(length) } else { i }).clamp(low, high);
    let (first, last) = if step > 0 { (0, length) } else { (length - 1, -1) };
    Ok((start.map_or(first, clamp), stop.map_or(last, clamp), step))
}

/// The items of a slice.
pub fn sliced<T: Clone>(items: &[T], (start, stop, step): (i128, i128, i128)) -> Vec<T> {
    let mut out = Vec::new();
    let mut i = start;
    while if step > 0 { i < stop } else { i > stop } {
        out.push(items[i as usize].clone());
        i = i.saturating_add(step);
    }
    out
}

/// `int(text, base)`; `None` if it is not one.
pub fn parse_int(text: &str, base: u32) -> Outcome<Option<i128>> {
    let text = text.trim_matches(is_space);
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let prefix = |p: &str, b: u32| (base == b || base == 0).then(|| lower.strip_prefix(p)).flatten().map(|d| (d, b));
    let prefixed = prefix("0x", 16).or_else(|| prefix("0o", 8)).or_else(|| prefix("0b", 2));
    let was_prefixed = prefixed.is_some();
    let (mut digits, radix) = prefixed.unwrap_or((&lower, if base == 0 { 10 } else { base }));
    if was_prefixed {
        digits = digits.strip_prefix('_').unwrap_or(digits);
    }
    let well_formed = !digits.is_empty()
        && !digits.starts_with('_')
        && !digits.ends_with('_')
        && !digits.contains("__")
        && (base != 0 || was_prefixed || !digits.starts_with('0') || digits.bytes().all(|b| matches!(b, b'0' | b'_')));
    if !(2..=36).contains(&radix) {
        return Err(Fault::new("int() base must be >= 2 and <= 36, or 0"));
    }
    if let Some(c) = digits.chars().find(|c| !c.is_ascii() && is_decimal(*c)) {
        return Err(Fault::unsupported(format!("the number with the digit {c}")));
    }
    let plain: String = digits.chars().filter(|c| *c != '_').collect();
    if !well_formed || !plain.chars().all(|c| c.is_digit(radix)) {
        return Ok(None);
    }
    let value =
        i128::from_str_radix(&plain, radix).map_err(|_| Fault::unsupported("integers of more than 128 bits"))?;
    Ok(Some(if negative { -value } else { value }))
}

/// `float(text)`; `None` if it is not one.
pub fn parse_float(text: &str) -> Outcome<Option<f64>> {
    let text = text.trim_matches(is_space);
    if let Some(c) = text.chars().find(|c| !c.is_ascii() && is_decimal(*c)) {
        return Err(Fault::unsupported(format!("the number with the digit {c}")));
    }
    let bytes = text.as_bytes();
    let digit = |i: Option<usize>| i.and_then(|i| bytes.get(i)).is_some_and(u8::is_ascii_digit);
    let underscores = bytes.iter().enumerate().filter(|(_, b)| **b == b'_');
    for (i, _) in underscores {
        if !digit(i.checked_sub(1)) || !digit(Some(i + 1)) {
            return Ok(None);
        }
    }
    let plain = text.replace('_', "");
    let word = plain.trim_start_matches(['+', '-']).to_ascii_lowercase();
    if !word.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && !["inf", "infinity", "nan"].contains(&word.as_str())
    {
        return Ok(None);
    }
    Ok(plain.parse().ok())
}
