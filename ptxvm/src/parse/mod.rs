//! PTX text to a syntax tree: directives and variables here, kernel bodies in [`body`], tokens in [`lex`].

pub(crate) mod ast;
mod body;
mod lex;

use crate::error::Error;
use ast::{Entry, File, Space, Ty, Var};
use lex::{Tok, Token};

/// Parses a whole module.
pub(crate) fn parse(text: &str) -> Result<File, Error> {
    let toks = lex::tokens(text)?;
    let mut p = Parser { toks: &toks, at: 0, text, depth: 0 };
    p.module()
}

pub(crate) struct Parser<'a> {
    toks: &'a [Token<'a>],
    at: usize,
    text: &'a str,
    /// Brackets open around the current operand or initialiser.
    depth: u32,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Tok<'a> {
        self.toks[self.at].tok
    }

    fn line(&self) -> u32 {
        self.toks[self.at].line
    }

    fn next(&mut self) -> Tok<'a> {
        let tok = self.toks[self.at].tok;
        if self.at + 1 < self.toks.len() {
            self.at += 1;
        }
        tok
    }

    fn error<T>(&self, what: impl Into<String>) -> Result<T, Error> {
        Err(Error::new(self.line(), what))
    }

    fn eat(&mut self, punct: u8) -> bool {
        let hit = self.peek() == Tok::P(punct);
        if hit {
            self.next();
        }
        hit
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let hit = self.peek() == Tok::Word(word);
        if hit {
            self.next();
        }
        hit
    }

    fn expect(&mut self, punct: u8) -> Result<(), Error> {
        if self.eat(punct) {
            return Ok(());
        }
        self.error(format!("expected '{}', found {:?}", punct as char, self.peek()))
    }

    fn word(&mut self) -> Result<&'a str, Error> {
        match self.next() {
            Tok::Word(w) => Ok(w),
            other => {
                self.at -= 1;
                self.error(format!("expected a name, found {other:?}"))
            }
        }
    }

    fn int(&mut self) -> Result<u64, Error> {
        let negative = self.eat(b'-');
        match self.next() {
            Tok::Int(v) => Ok(if negative { v.wrapping_neg() } else { v }),
            other => {
                self.at -= 1;
                self.error(format!("expected an integer, found {other:?}"))
            }
        }
    }

    /// Skips the rest of the current line (`.loc` and `.file` end with their line).
    fn skip_line(&mut self, line: u32) {
        while self.line() == line && self.peek() != Tok::End {
            self.next();
        }
    }

    fn skip_braces(&mut self) -> Result<(), Error> {
        self.expect(b'{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.next() {
                Tok::P(b'{') => depth += 1,
                Tok::P(b'}') => depth -= 1,
                Tok::End => return self.error("'{' without its '}'"),
                _ => {}
            }
        }
        Ok(())
    }

    fn module(&mut self) -> Result<File, Error> {
        let mut file = File::default();
        loop {
            let line = self.line();
            let word = match self.next() {
                Tok::End => return Ok(file),
                Tok::P(b';') => continue,
                Tok::Word(w) => w,
                other => return Err(Error::new(line, format!("unexpected {other:?}"))),
            };
            match word {
                ".version" => {
                    let from = self.toks[self.at].at;
                    self.next();
                    let rest = &self.text[from..];
                    file.version = rest[..rest.find(char::is_whitespace).unwrap_or(rest.len())].to_string();
                }
                ".target" => {
                    file.target = self.word()?.to_string();
                    while self.eat(b',') {
                        self.word()?;
                    }
                }
                ".address_size" => {
                    if self.int()? != 64 {
                        return Err(Error::new(line, "only .address_size 64 is supported"));
                    }
                }
                ".visible" | ".extern" | ".weak" | ".common" => {}
                ".file" => {
                    let number = self.int()? as u32;
                    if let Tok::Str(name) = self.peek() {
                        file.files.insert(number, name.to_string());
                    }
                    self.skip_line(line);
                }
                ".loc" => self.skip_line(line),
                ".section" => {
                    while self.peek() != Tok::P(b'{') && self.peek() != Tok::End {
                        self.next();
                    }
                    self.skip_braces()?;
                }
                ".pragma" => {
                    self.next();
                    self.expect(b';')?;
                }
                ".entry" => {
                    let entry = self.entry(line)?;
                    file.entries.push(entry);
                }
                ".func" => self.func()?,
                ".global" | ".const" | ".shared" => {
                    let space = match word {
                        ".global" => Space::Global,
                        ".const" => Space::Const,
                        _ => Space::Shared,
                    };
                    self.vars(space, &mut file.vars)?;
                }
                _ => return Err(Error::new(line, format!("unknown directive {word}"))),
            }
        }
    }

    /// A function: its name matters only for the error at a call; the body is skipped.
    fn func(&mut self) -> Result<(), Error> {
        loop {
            match self.peek() {
                Tok::P(b';') => {
                    self.next();
                    return Ok(());
                }
                Tok::P(b'{') => return self.skip_braces(),
                Tok::End => return self.error("function without an end"),
                _ => {
                    self.next();
                }
            }
        }
    }

    fn entry(&mut self, line: u32) -> Result<Entry, Error> {
        let name = self.word()?.to_string();
        let mut params = Vec::new();
        if self.eat(b'(') && !self.eat(b')') {
            loop {
                if !self.eat_word(".param") {
                    return self.error("expected .param");
                }
                params.push(self.var(Space::Param)?);
                if !self.eat(b',') {
                    break;
                }
            }
            self.expect(b')')?;
        }
        let (mut max_threads, mut required_threads, mut min_blocks) = (None, None, None);
        while self.peek() != Tok::P(b'{') {
            match self.word()? {
                ".maxntid" => max_threads = Some(self.triple()?),
                ".reqntid" => required_threads = Some(self.triple()?),
                ".minnctapersm" => min_blocks = Some(self.int()? as u32),
                ".maxnreg" | ".maxclusterrank" => {
                    self.int()?;
                }
                ".noreturn" | ".blocksareclusters" | ".explicitcluster" => {}
                ".pragma" => {
                    self.next();
                    self.eat(b';');
                }
                other => return self.error(format!("unknown kernel directive {other}")),
            }
        }
        let body = self.body()?;
        Ok(Entry { name, line, params, max_threads, required_threads, min_blocks, body })
    }

    fn triple(&mut self) -> Result<[u32; 3], Error> {
        let mut t = [1; 3];
        t[0] = self.int()? as u32;
        for slot in &mut t[1..] {
            if self.eat(b',') {
                *slot = self.int()? as u32;
            }
        }
        Ok(t)
    }

    /// `.align 4 .b8 a[16] = {…}, b;`
    pub(crate) fn vars(&mut self, space: Space, into: &mut Vec<Var>) -> Result<(), Error> {
        into.push(self.var(space)?);
        self.expect(b';')
    }

    fn var(&mut self, space: Space) -> Result<Var, Error> {
        let (mut align, mut ty) = (None, None);
        let mut width = 1;
        let name = loop {
            let w = self.word()?;
            match w {
                ".align" => {
                    let a = self.int()?;
                    // `.ptr .align n` speaks of the pointer's target and comes after the type.
                    if ty.is_none() {
                        align = Some(a);
                    }
                }
                ".ptr" | ".global" | ".shared" | ".const" | ".local" | ".generic" => {}
                ".v2" => width = 2,
                ".v4" => width = 4,
                ".attribute" => {
                    while !self.eat(b')') && self.peek() != Tok::End {
                        self.next();
                    }
                }
                _ if w.starts_with('.') => match Ty::parse(&w[1..]) {
                    Some(t) if t != Ty::Pred => ty = Some(t),
                    _ => return self.error(format!("unknown type {w}")),
                },
                _ => break w.to_string(),
            }
        };
        let Some(ty) = ty else { return self.error(format!("variable {name} has no type")) };
        let mut count = Some(width);
        while self.eat(b'[') {
            let n = if self.peek() == Tok::P(b']') { None } else { Some(self.int()?) };
            self.expect(b']')?;
            count = match (count, n) {
                (Some(c), Some(n)) => Some(
                    u64::checked_mul(c, n)
                        .filter(|c| *c < 1 << 40)
                        .ok_or_else(|| Error::new(self.line(), "array too large"))?,
                ),
                _ => None,
            };
        }
        let init = if self.eat(b'=') {
            let mut bytes = Vec::new();
            self.init(ty, &mut bytes)?;
            Some(bytes)
        } else {
            None
        };
        let elem = ty.bytes() as u64;
        let size = match count {
            Some(n) => n * elem,
            None => init.as_ref().map_or(0, |b| b.len() as u64),
        };
        let align = align.unwrap_or(elem * width).max(1);
        if !align.is_power_of_two() || align > 1 << 16 {
            return self.error(format!("alignment {align} of {name}: a power of two up to 65536 is expected"));
        }
        if init.as_ref().is_some_and(|b| b.len() as u64 > size) {
            return self.error(format!("more initial values than {name} has room for"));
        }
        Ok(Var { name, space, align, size, init })
    }

    /// One level of brackets deeper; nobody needs more than a few.
    fn deeper(&mut self) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > 32 { self.error("brackets nested too deeply") } else { Ok(()) }
    }

    fn init(&mut self, ty: Ty, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.eat(b'{') {
            self.deeper()?;
            while !self.eat(b'}') {
                self.init(ty, out)?;
                if !self.eat(b',') && self.peek() != Tok::P(b'}') {
                    return self.error("expected ',' or '}' in an initialiser");
                }
            }
            self.depth -= 1;
            return Ok(());
        }
        let negative = self.eat(b'-');
        let bits = match self.next() {
            Tok::Int(v) => {
                let v = if negative { v.wrapping_neg() } else { v };
                match ty {
                    Ty::F32 => (v as i64 as f32).to_bits() as u64,
                    Ty::F64 => (v as i64 as f64).to_bits(),
                    _ => v,
                }
            }
            Tok::F32(b) => b as u64 ^ ((negative as u64) << 31),
            Tok::F64(b) => {
                let b = b ^ ((negative as u64) << 63);
                if ty == Ty::F32 { (f64::from_bits(b) as f32).to_bits() as u64 } else { b }
            }
            other => {
                self.at -= 1;
                return self.error(format!("initialisers must be numbers, found {other:?}"));
            }
        };
        out.extend_from_slice(&bits.to_le_bytes()[..ty.bytes().min(8) as usize]);
        Ok(())
    }
}
