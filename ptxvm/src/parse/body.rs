//! A kernel's body: declarations, labels, `{ }` scopes, instructions and their operands.

use super::Parser;
use super::ast::{Body, Loc, Operand, RegId, Space, Stmt, Ty};
use super::lex::Tok;
use crate::error::Error;
use std::collections::HashMap;

/// Registers of one `{ }` scope: single names, and families `%r<n>`.
#[derive(Default)]
struct Scope {
    id: u32,
    names: HashMap<String, RegId>,
    families: HashMap<String, (RegId, u32)>,
}

impl Scope {
    fn find(&self, name: &str) -> Option<RegId> {
        if let Some(id) = self.names.get(name) {
            return Some(*id);
        }
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = &name[stem.len()..];
        // A family's stem may itself end in a digit ("%r1<5>"): try every split.
        (0..digits.len()).find_map(|cut| {
            let (first, count) = *self.families.get(&name[..stem.len() + cut])?;
            let n: u32 = digits[cut..].parse().ok()?;
            (n < count).then_some(first + n)
        })
    }
}

impl<'a> Parser<'a> {
    /// Parses `{ … }`.
    pub(super) fn body(&mut self) -> Result<Body, Error> {
        self.expect(b'{')?;
        let mut body = Body { parents: vec![0], ..Body::default() };
        let mut scopes = vec![Scope::default()];
        let mut loc = None;
        loop {
            let line = self.line();
            match self.peek() {
                Tok::P(b'{') => {
                    self.next();
                    let parent = scopes.last().map_or(0, |s| s.id);
                    scopes.push(Scope { id: body.parents.len() as u32, ..Scope::default() });
                    body.parents.push(parent);
                }
                Tok::P(b'}') => {
                    self.next();
                    scopes.pop();
                    if scopes.is_empty() {
                        return Ok(body);
                    }
                }
                Tok::P(b';') => {
                    self.next();
                }
                Tok::P(b'@') => self.instruction(&mut body, &scopes, loc)?,
                Tok::Word(w) if w.starts_with('.') => {
                    self.next();
                    let scope = scopes.last_mut().expect("the body's own scope is open");
                    match w {
                        ".reg" => self.registers(&mut body, scope)?,
                        ".shared" => self.vars(Space::Shared, &mut body.vars)?,
                        // Parameters of calls live like local variables.
                        ".local" | ".param" => self.vars(Space::Local, &mut body.vars)?,
                        ".loc" => {
                            let file = self.int()? as u32;
                            let at = self.int()? as u32;
                            let mut inlined = None;
                            while self.line() == line && self.peek() != Tok::End {
                                if self.eat_word("inlined_at") {
                                    inlined = Some((self.int()? as u32, self.int()? as u32));
                                } else {
                                    self.next();
                                }
                            }
                            let new = Loc { file, line: at, inlined };
                            if body.locs.last() != Some(&new) {
                                body.locs.push(new);
                            }
                            loc = Some(body.locs.len() as u32 - 1);
                        }
                        ".pragma" => {
                            self.next();
                            self.expect(b';')?;
                        }
                        _ => return Err(Error::new(line, format!("unknown directive {w}"))),
                    }
                }
                Tok::Word(w) if self.toks.get(self.at + 1).is_some_and(|t| t.tok == Tok::P(b':')) => {
                    self.next();
                    self.next();
                    let scope = scopes.last().map_or(0, |s| s.id);
                    if self.eat_word(".branchtargets") {
                        let mut names = vec![self.word()?.to_string()];
                        while self.eat(b',') {
                            names.push(self.word()?.to_string());
                        }
                        self.expect(b';')?;
                        body.tables.insert((scope, w.to_string()), names);
                    } else if self.eat_word(".callprototype") {
                        while !self.eat(b';') && self.peek() != Tok::End {
                            self.next();
                        }
                    } else if body.labels.insert((scope, w.to_string()), body.stmts.len() as u32).is_some() {
                        return Err(Error::new(line, format!("label {w} is there twice")));
                    }
                }
                Tok::Word(_) => self.instruction(&mut body, &scopes, loc)?,
                other => return Err(Error::new(line, format!("unexpected {other:?} in a kernel's body"))),
            }
        }
    }

    fn registers(&mut self, body: &mut Body, scope: &mut Scope) -> Result<(), Error> {
        let w = self.word()?;
        let Some(ty) = w.strip_prefix('.').and_then(Ty::parse) else {
            return self.error(format!("registers of unknown type {w}"));
        };
        if ty == Ty::B128 {
            return self.error("128-bit registers are not supported");
        }
        loop {
            let name = self.word()?.to_string();
            let first = body.regs.len() as RegId;
            if self.eat(b'<') {
                let n = self.int()?;
                if n > 1 << 20 {
                    return self.error(format!("{n} registers"));
                }
                self.expect(b'>')?;
                body.regs.resize(body.regs.len() + n as usize, ty);
                scope.families.insert(name, (first, n as u32));
            } else {
                body.regs.push(ty);
                scope.names.insert(name, first);
            }
            if !self.eat(b',') {
                return self.expect(b';');
            }
        }
    }

    fn instruction(&mut self, body: &mut Body, scopes: &[Scope], loc: Option<u32>) -> Result<(), Error> {
        let (line, from) = (self.line(), self.toks[self.at].at);
        let guard = if self.eat(b'@') {
            let negated = self.eat(b'!');
            let name = self.word()?;
            let Some(reg) = find(scopes, name) else {
                return Err(Error::new(line, format!("unknown predicate {name}")));
            };
            Some((reg, negated))
        } else {
            None
        };
        let op: Vec<String> = self.word()?.split('.').map(str::to_string).collect();
        let mut args = Vec::new();
        while self.peek() != Tok::P(b';') {
            args.push(self.operand(scopes)?);
            if !self.eat(b',') && self.peek() != Tok::P(b';') {
                let text = &self.text[from..self.toks[self.at].at];
                return Err(Error::new(line, format!("expected ',' or ';' after: {}", text.trim())));
            }
        }
        let text = (from, self.toks[self.at].at);
        self.next();
        let scope = scopes.last().map_or(0, |s| s.id);
        body.stmts.push(Stmt { line, text, loc, guard, op, args, scope });
        Ok(())
    }

    fn operand(&mut self, scopes: &[Scope]) -> Result<Operand, Error> {
        let first = self.primary(scopes)?;
        if self.eat(b'|') {
            return Ok(Operand::Pair(Box::new(first), Box::new(self.primary(scopes)?)));
        }
        Ok(first)
    }

    fn offset(&mut self) -> Result<i64, Error> {
        let mut sum = 0i64;
        while matches!(self.peek(), Tok::P(b'+' | b'-')) {
            let minus = self.next() == Tok::P(b'-');
            let v = self.int()? as i64;
            sum = sum.wrapping_add(if minus { v.wrapping_neg() } else { v });
        }
        Ok(sum)
    }

    fn primary(&mut self, scopes: &[Scope]) -> Result<Operand, Error> {
        self.deeper()?;
        let operand = self.unnested(scopes)?;
        self.depth -= 1;
        Ok(operand)
    }

    fn unnested(&mut self, scopes: &[Scope]) -> Result<Operand, Error> {
        match self.next() {
            Tok::Int(v) => Ok(Operand::Int(v)),
            Tok::F32(v) => Ok(Operand::F32(v)),
            Tok::F64(v) => Ok(Operand::F64(v)),
            Tok::P(b'-') => match self.next() {
                Tok::Int(v) => Ok(Operand::Int(v.wrapping_neg())),
                Tok::F64(v) => Ok(Operand::F64(v ^ (1 << 63))),
                Tok::F32(v) => Ok(Operand::F32(v ^ (1 << 31))),
                _ => self.error("expected a number after '-'"),
            },
            Tok::P(b'!') => Ok(Operand::Not(Box::new(self.primary(scopes)?))),
            Tok::P(b'{') => Ok(Operand::Vector(self.list(scopes, b'}')?)),
            Tok::P(b'(') => Ok(Operand::List(self.list(scopes, b')')?)),
            Tok::P(b'[') => {
                let base = self.primary(scopes)?;
                let off = self.offset()?;
                self.expect(b']')?;
                let (base, inner) = match base {
                    Operand::Sym(name, inner) => (Operand::Sym(name, 0), inner),
                    other => (other, 0),
                };
                Ok(Operand::Mem(Box::new(base), off.wrapping_add(inner)))
            }
            Tok::Word("_") => Ok(Operand::Sink),
            Tok::Word(w) => {
                if let Some(reg) = find(scopes, w) {
                    return Ok(Operand::Reg(reg));
                }
                if w.starts_with('%') || w == "WARP_SZ" {
                    return Ok(Operand::Special(w.to_string()));
                }
                Ok(Operand::Sym(w.to_string(), self.offset()?))
            }
            other => {
                self.at -= 1;
                self.error(format!("unexpected {other:?} as an operand"))
            }
        }
    }

    fn list(&mut self, scopes: &[Scope], close: u8) -> Result<Vec<Operand>, Error> {
        let mut items = Vec::new();
        while !self.eat(close) {
            items.push(self.operand(scopes)?);
            if !self.eat(b',') && self.peek() != Tok::P(close) {
                return self.error(format!("expected ',' or '{}'", close as char));
            }
        }
        Ok(items)
    }
}

fn find(scopes: &[Scope], name: &str) -> Option<RegId> {
    scopes.iter().rev().find_map(|s| s.find(name))
}
