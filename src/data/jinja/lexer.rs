//! From the text of a template to tokens, by Jinja2's rules with `trim_blocks` and `lstrip_blocks`.

use super::{fault::Fault, text};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq)]
pub enum TokenKind {
    Data(Arc<str>),
    BlockBegin,
    BlockEnd,
    VariableBegin,
    VariableEnd,
    Name(Arc<str>),
    Str(Arc<str>),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub kind: TokenKind,
    pub line: u32,
}

/// The longest first, so that the first that fits is the one.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

/// How a tag asks for the white space before it to be treated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    Strip,
    Keep,
    None,
}

pub struct Lexer<'s> {
    source: &'s str,
    position: usize,
    line: u32,
    tokens: Vec<Token>,
    /// Whether what was matched last ended in a line break, or nothing was matched yet.
    line_starting: bool,
}

/// The text with line breaks as Jinja2 sees them: LF alone, and without one at the end.
pub fn normalised(source: &str) -> String {
    let mut out = source.replace("\r\n", "\n").replace('\r', "\n");
    if out.ends_with('\n') {
        out.pop();
    }
    out
}

/// The tokens of a [`normalised`] text.
///
/// # Errors
/// A comment, a raw block or a text without an end; a character that Jinja does not have; brackets that do not match.
pub fn tokens(source: &str) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer { source, position: 0, line: 1, tokens: Vec::new(), line_starting: true };
    while lexer.position < source.len() {
        lexer.root()?;
    }
    lexer.push(TokenKind::End);
    Ok(lexer.tokens)
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.position..]
    }

    fn push(&mut self, kind: TokenKind) {
        self.tokens.push(Token { kind, line: self.line });
    }

    /// Goes `n` bytes on.
    fn advance(&mut self, n: usize) {
        let passed = &self.source[self.position..self.position + n];
        self.line += passed.matches('\n').count() as u32;
        self.line_starting = passed.ends_with('\n');
        self.position += n;
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::at(self.line, message)
    }

    /// Template data up to the next tag, and that tag.
    fn root(&mut self) -> Result<(), Fault> {
        let rest = self.rest();
        let Some(at) = find_tag(rest) else {
            self.push(TokenKind::Data(rest.into()));
            self.advance(rest.len());
            return Ok(());
        };
        let (data, tag) = rest.split_at(at);
        let raw = raw_begin(tag);
        let sign = sign(&tag[2..]);
        let data = stripped(data, sign, !tag.starts_with("{{"), self.line_starting);
        if !data.is_empty() {
            self.push(TokenKind::Data(data.into()));
        }
        self.advance(at);
        if let Some(length) = raw {
            self.advance(length);
            return self.raw();
        }
        let kind = tag.as_bytes()[1];
        let begin = self.line;
        self.advance(if sign == Sign::None { 2 } else { 3 });
        match kind {
            b'#' => self.comment(begin),
            b'{' => {
                self.push(TokenKind::VariableBegin);
                self.expression(false)
            }
            _ => {
                self.push(TokenKind::BlockBegin);
                self.expression(true)
            }
        }
    }

    fn comment(&mut self, begin: u32) -> Result<(), Fault> {
        let rest = self.rest();
        let Some(at) = rest.find("#}") else {
            return Err(Fault::at(begin, "Missing end of comment tag"));
        };
        let before = rest[..at].chars().next_back();
        self.advance(at + 2);
        match before {
            Some('-') => self.skip_space(),
            Some('+') => {}
            _ => self.skip_line_break(),
        }
        Ok(())
    }

    /// The text of a raw block, whose opening tag is behind, and its closing tag.
    fn raw(&mut self) -> Result<(), Fault> {
        let rest = self.rest();
        let mut from = 0;
        let end = loop {
            let Some(at) = rest[from..].find("{%").map(|at| from + at) else {
                return Err(self.fault("Missing end of raw directive"));
            };
            let inner = rest[at + 2..].strip_prefix(['-', '+']).unwrap_or(&rest[at + 2..]);
            let word = inner.trim_start_matches(text::is_space).strip_prefix("endraw");
            let close = word.map(|w| w.trim_start_matches(text::is_space));
            if let Some(close) = close.filter(|c| ["+%}", "-%}", "%}"].iter().any(|end| c.starts_with(end))) {
                break (at, close);
            }
            from = at + 2;
        };
        let (at, close) = end;
        let data = stripped(&rest[..at], sign(&rest[at + 2..]), true, self.line_starting);
        if !data.is_empty() {
            self.push(TokenKind::Data(data.into()));
        }
        self.advance(rest.len() - close.len());
        self.block_end(close);
        Ok(())
    }

    /// Passes the end of a block, which `close` begins with, and the white space that goes with it.
    fn block_end(&mut self, close: &str) {
        match close.as_bytes()[0] {
            b'-' => {
                self.advance(3);
                self.skip_space();
            }
            b'+' => self.advance(3),
            _ => {
                self.advance(2);
                self.skip_line_break();
            }
        }
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        let space = rest.len() - rest.trim_start_matches(text::is_space).len();
        if space > 0 {
            self.advance(space);
        }
    }

    fn skip_line_break(&mut self) {
        if self.rest().starts_with('\n') {
            self.advance(1);
        }
    }

    /// The tokens of a tag up to its end.
    fn expression(&mut self, block: bool) -> Result<(), Fault> {
        let mut brackets: Vec<&'static str> = Vec::new();
        loop {
            let rest = self.rest();
            if brackets.is_empty() && block && ["+%}", "-%}", "%}"].iter().any(|end| rest.starts_with(end)) {
                self.push(TokenKind::BlockEnd);
                self.block_end(rest);
                return Ok(());
            }
            if brackets.is_empty() && !block && (rest.starts_with("-}}") || rest.starts_with("}}")) {
                self.push(TokenKind::VariableEnd);
                let strip = rest.starts_with('-');
                self.advance(if strip { 3 } else { 2 });
                if strip {
                    self.skip_space();
                }
                return Ok(());
            }
            let Some(first) = rest.chars().next() else {
                // Jinja2 ends the tokens here and lets the parser say what is missing.
                return Ok(());
            };
            match first {
                c if text::is_space(c) => self.skip_space(),
                '0'..='9' => self.number()?,
                '"' | '\'' => self.string(first)?,
                c if c == '_' || c.is_alphabetic() => {
                    let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
                    self.push(TokenKind::Name(rest[..length].into()));
                    self.advance(length);
                }
                c => self.operator(c, &mut brackets)?,
            }
        }
    }

    fn operator(&mut self, first: char, brackets: &mut Vec<&'static str>) -> Result<(), Fault> {
        let Some(operator) = OPERATORS.into_iter().find(|op| self.rest().starts_with(op)) else {
            return Err(self.fault(format!("unexpected char {first:?}")));
        };
        match operator {
            "{" => brackets.push("}"),
            "(" => brackets.push(")"),
            "[" => brackets.push("]"),
            "}" | ")" | "]" => match brackets.pop() {
                None => return Err(self.fault(format!("unexpected '{operator}'"))),
                Some(expected) if expected != operator => {
                    return Err(self.fault(format!("unexpected '{operator}', expected '{expected}'")));
                }
                Some(_) => {}
            },
            _ => {}
        }
        self.push(TokenKind::Operator(operator));
        self.advance(operator.len());
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        let rest = self.rest();
        let after_dot = self.source[..self.position].ends_with('.');
        if !after_dot && let Some(length) = float_length(rest) {
            let value = rest[..length].replace('_', "").parse().map_err(|_| self.fault("not a number"))?;
            self.push(TokenKind::Float(value));
            self.advance(length);
            return Ok(());
        }
        let (radix, length) = integer_length(rest);
        let digits = rest[if radix == 10 { 0 } else { 2 }..length].replace('_', "");
        let value = i128::from_str_radix(&digits, radix)
            .map_err(|_| self.fault("irori does not render integers of more than 128 bits"))?;
        self.push(TokenKind::Int(value));
        self.advance(length);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<(), Fault> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|&(_, c)| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some((end, _)) = end else {
            return Err(self.fault(format!("unexpected char {quote:?}")));
        };
        let value = unescaped(&rest[1..end]).map_err(|message| self.fault(message))?;
        self.push(TokenKind::Str(value.into()));
        self.advance(end + 1);
        Ok(())
    }
}

/// Where the next tag begins.
fn find_tag(text: &str) -> Option<usize> {
    text.as_bytes().windows(2).position(|w| w[0] == b'{' && matches!(w[1], b'{' | b'%' | b'#'))
}

/// The length of the tag that opens a raw block, with the white space that it strips.
fn raw_begin(tag: &str) -> Option<usize> {
    let inner = tag.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start_matches(text::is_space);
    let close = inner.strip_prefix("raw")?.trim_start_matches(text::is_space);
    let after = match close.strip_prefix("-%}") {
        Some(after) => after.trim_start_matches(text::is_space),
        None => close.strip_prefix("%}")?,
    };
    Some(tag.len() - after.len())
}

fn sign(after_brackets: &str) -> Sign {
    match after_brackets.as_bytes().first() {
        Some(b'-') => Sign::Strip,
        Some(b'+') => Sign::Keep,
        _ => Sign::None,
    }
}

/// The data before a tag, less what the tag strips: all white space, or (before blocks and comments) the indentation of
/// a tag that begins its line.
fn stripped(data: &str, sign: Sign, block: bool, line_starting: bool) -> &str {
    match sign {
        Sign::Strip => data.trim_end_matches(text::is_space),
        Sign::None if block => {
            let line = data.rfind('\n').map_or(0, |at| at + 1);
            let blank = line < data.len() && data[line..].chars().all(text::is_space);
            if blank && (line > 0 || line_starting) { &data[..line] } else { data }
        }
        _ => data,
    }
}

/// The length of a run of digits with single underscores inside of it.
fn digits(text: &str, is_digit: impl Fn(u8) -> bool) -> usize {
    let bytes = text.as_bytes();
    let mut n = 0;
    while n < bytes.len() {
        match bytes[n] {
            b if is_digit(b) => n += 1,
            b'_' if n > 0 && bytes.get(n + 1).is_some_and(|&b| is_digit(b)) => n += 1,
            _ => break,
        }
    }
    n
}

fn float_length(text: &str) -> Option<usize> {
    let decimal = |b: u8| b.is_ascii_digit();
    let mut length = digits(text, decimal);
    let mut float = false;
    if let Some(fraction) = text[length..].strip_prefix('.').map(|t| digits(t, decimal)).filter(|&n| n > 0) {
        length += 1 + fraction;
        float = true;
    }
    if let Some(exponent) = text[length..].strip_prefix(['e', 'E']) {
        let signed = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let n = digits(signed, decimal);
        if n > 0 {
            length = text.len() - signed.len() + n;
            float = true;
        }
    }
    float.then_some(length)
}

/// The radix and the length of an integer.
fn integer_length(text: &str) -> (u32, usize) {
    let lower = text.get(..2).map(str::to_ascii_lowercase);
    let prefixed = |radix: u32, is_digit: fn(u8) -> bool| {
        let inner = &text[2..];
        let inner_digits = inner.strip_prefix('_').unwrap_or(inner);
        let n = digits(inner_digits, is_digit);
        (n > 0).then_some((radix, text.len() - inner_digits.len() + n))
    };
    let found = match lower.as_deref() {
        Some("0b") => prefixed(2, |b| matches!(b, b'0' | b'1')),
        Some("0o") => prefixed(8, |b| matches!(b, b'0'..=b'7')),
        Some("0x") => prefixed(16, |b| b.is_ascii_hexdigit()),
        _ => None,
    };
    // An integer in decimal does not begin with a zero; `007` is three of them.
    found.unwrap_or_else(|| (10, digits(text, |b| if text.starts_with('0') { b == b'0' } else { b.is_ascii_digit() })))
}

/// A text between its quotation marks with Python's escape sequences resolved.
fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let Some(c) = after.chars().next() else { return Err("\\ at end of string".into()) };
        rest = &after[c.len_utf8()..];
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(c),
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\x0b'),
            '0'..='7' => {
                let n = after.bytes().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
                out.push(character(&after[..n], 8)?);
                rest = &after[n..];
            }
            'x' | 'u' | 'U' => {
                let n = match c {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let hex = rest.get(..n).filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
                out.push(character(hex.ok_or_else(|| format!("truncated \\{c} escape"))?, 16)?);
                rest = &rest[n..];
            }
            'N' => return Err("irori does not render characters by their names (\\N)".into()),
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn character(digits: &str, radix: u32) -> Result<char, String> {
    let code = u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
    code.ok_or_else(|| format!("irori does not render the code point {digits}, which is no character"))
}
