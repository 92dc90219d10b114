//! PTX text to tokens. Comments vanish, every token knows its line.

use crate::error::Error;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Tok<'a> {
    /// An opcode, directive, register, label or symbol, dots and all: `ld.global.v4.u32`, `%tid.x`, `$L__BB0_2`.
    Word(&'a str),
    /// An integer literal (its 64 bits).
    Int(u64),
    /// `0f3F800000`: the bits of an f32.
    F32(u32),
    /// `0d…`: the bits of an f64; decimal literals with a point end here too.
    F64(u64),
    /// A quoted string without its quotes.
    Str(&'a str),
    /// One punctuation byte.
    P(u8),
    /// End of text.
    End,
}

/// A token and its line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    pub tok: Tok<'a>,
    pub line: u32,
    /// Byte offset in the text, for quoting an instruction in errors.
    pub at: usize,
}

fn word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// Splits `text` into tokens; the last one is [`Tok::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Error> {
    let s = text.as_bytes();
    let mut out = Vec::with_capacity(s.len() / 5);
    let (mut i, mut line) = (0, 1u32);
    while i < s.len() {
        let c = s[i];
        if c == b'\n' {
            line += 1;
            i += 1;
        } else if c.is_ascii_whitespace() || c == 0 {
            i += 1;
        } else if s[i..].starts_with(b"//") {
            while i < s.len() && s[i] != b'\n' {
                i += 1;
            }
        } else if s[i..].starts_with(b"/*") {
            let start = line;
            i += 2;
            while i < s.len() && !s[i..].starts_with(b"*/") {
                line += (s[i] == b'\n') as u32;
                i += 1;
            }
            if i >= s.len() {
                return Err(Error::new(start, "comment without an end"));
            }
            i += 2;
        } else if word_start(c) {
            let at = i;
            i += 1;
            while i < s.len() {
                if s[i].is_ascii_alphanumeric() || matches!(s[i], b'_' | b'$' | b'.') {
                    i += 1;
                } else if s[i..].starts_with(b"::") && s.get(i + 2).is_some_and(u8::is_ascii_alphanumeric) {
                    i += 2;
                } else {
                    break;
                }
            }
            out.push(Token { tok: Tok::Word(&text[at..i]), line, at });
        } else if c.is_ascii_digit() {
            let at = i;
            while i < s.len() && (s[i].is_ascii_alphanumeric() || s[i] == b'.') {
                i += 1;
            }
            out.push(Token { tok: number(&text[at..i], line)?, line, at });
        } else if c == b'"' {
            let at = i + 1;
            i += 1;
            while i < s.len() && s[i] != b'"' && s[i] != b'\n' {
                i += 1;
            }
            if s.get(i) != Some(&b'"') {
                return Err(Error::new(line, "string without an end"));
            }
            out.push(Token { tok: Tok::Str(&text[at..i]), line, at });
            i += 1;
        } else if c.is_ascii() {
            out.push(Token { tok: Tok::P(c), line, at: i });
            i += 1;
        } else {
            return Err(Error::new(line, "a byte that is not ASCII outside comments"));
        }
    }
    out.push(Token { tok: Tok::End, line, at: s.len() });
    Ok(out)
}

fn number(word: &str, line: u32) -> Result<Tok<'_>, Error> {
    let bad = || Error::new(line, format!("not a number: {word}"));
    let lower = word.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0f") {
        return u32::from_str_radix(hex, 16).map(Tok::F32).map_err(|_| bad());
    }
    if let Some(hex) = lower.strip_prefix("0d") {
        return u64::from_str_radix(hex, 16).map(Tok::F64).map_err(|_| bad());
    }
    if !lower.starts_with("0x") && lower.contains(['.', 'e']) {
        return lower.parse::<f64>().map(|v| Tok::F64(v.to_bits())).map_err(|_| bad());
    }
    let digits = lower.trim_end_matches('u');
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(bin) = digits.strip_prefix("0b") {
        u64::from_str_radix(bin, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(&digits[1..], 8)
    } else {
        digits.parse()
    };
    value.map(Tok::Int).map_err(|_| bad())
}
