//! From tokens to the tree, by Jinja2's grammar.

mod expressions;
mod statements;

use super::{
    ast::{Expr, ExprKind, Stmt},
    fault::{Fault, Outcome},
    lexer::{Token, TokenKind},
};
use std::sync::Arc;

/// The deepest nesting of statements, and of expressions, that is taken.
const DEEPEST: u16 = 100;

pub struct Parser<'t> {
    tokens: &'t [Token],
    position: usize,
    depth: u16,
    /// How many loops are around, within the function that is parsed.
    loops: usize,
}

/// The statements of a template.
///
/// # Errors
/// What Jinja2 refuses; tags that irori does not have.
pub fn parse(tokens: &[Token]) -> Outcome<Vec<Stmt>> {
    let mut parser = Parser { tokens, position: 0, depth: 0, loops: 0 };
    let body = parser.body(&[])?;
    match parser.kind() {
        TokenKind::End => Ok(body),
        _ => Err(parser.unexpected()),
    }
}

impl<'t> Parser<'t> {
    fn token(&self) -> &'t Token {
        // The last token is the end, and nothing goes beyond it.
        &self.tokens[self.position.min(self.tokens.len() - 1)]
    }

    fn kind(&self) -> &'t TokenKind {
        &self.token().kind
    }

    fn line(&self) -> u32 {
        self.token().line
    }

    fn look(&self) -> &'t TokenKind {
        &self.tokens[(self.position + 1).min(self.tokens.len() - 1)].kind
    }

    fn next(&mut self) -> &'t Token {
        let token = self.token();
        self.position += 1;
        token
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::at(self.line(), message)
    }

    fn unexpected(&self) -> Fault {
        self.fault(format!("unexpected {}", described(self.kind())))
    }

    fn is_operator(&self, operator: &str) -> bool {
        matches!(self.kind(), TokenKind::Operator(op) if *op == operator)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.kind(), TokenKind::Name(n) if &**n == name)
    }

    fn skip_operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        self.position += usize::from(found);
        found
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.position += usize::from(found);
        found
    }

    fn expect_operator(&mut self, operator: &str) -> Outcome<()> {
        if self.skip_operator(operator) {
            return Ok(());
        }
        Err(self.fault(format!("expected token '{operator}', got {}", described(self.kind()))))
    }

    fn expect_keyword(&mut self, name: &str) -> Outcome<()> {
        if self.skip_name(name) {
            return Ok(());
        }
        Err(self.fault(format!("expected token '{name}', got {}", described(self.kind()))))
    }

    fn expect_name(&mut self) -> Outcome<Arc<str>> {
        match self.kind() {
            TokenKind::Name(name) => {
                self.position += 1;
                Ok(name.clone())
            }
            other => Err(self.fault(format!("expected token 'name', got {}", described(other)))),
        }
    }

    fn expect_kind(&mut self, kind: &TokenKind) -> Outcome<()> {
        if self.kind() == kind {
            self.position += 1;
            return Ok(());
        }
        Err(self.fault(format!("expected token '{}', got {}", described(kind), described(self.kind()))))
    }

    /// Runs `parse` one level deeper.
    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Outcome<T>) -> Outcome<T> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(Fault::at(self.line(), "irori does not render templates nested this deep"));
        }
        let out = parse(self);
        self.depth -= 1;
        out
    }
}

/// An expression whose parts are at most `below` deep.
///
/// # Errors
/// The tree is deeper than any template needs.
fn node(line: u32, kind: ExprKind, below: u16) -> Outcome<Expr> {
    let height = below + 1;
    if height > 2 * DEEPEST {
        return Err(Fault::at(line, "irori does not render expressions this long"));
    }
    Ok(Expr { kind, line, height })
}

/// The depth of the deepest of `parts`.
fn deepest<'e>(parts: impl IntoIterator<Item = &'e Expr>) -> u16 {
    parts.into_iter().map(|part| part.height).max().unwrap_or(0)
}

fn described(kind: &TokenKind) -> String {
    match kind {
        TokenKind::Data(_) => "template data / text".into(),
        TokenKind::BlockBegin => "begin of statement block".into(),
        TokenKind::BlockEnd => "end of statement block".into(),
        TokenKind::VariableBegin => "begin of print statement".into(),
        TokenKind::VariableEnd => "end of print statement".into(),
        TokenKind::Name(name) => format!("'{name}'"),
        TokenKind::Str(_) => "a text".into(),
        TokenKind::Int(_) | TokenKind::Float(_) => "a number".into(),
        TokenKind::Operator(operator) => format!("'{operator}'"),
        TokenKind::End => "end of template".into(),
    }
}
