//! Expressions, from the loosest operator to the tightest.

use super::{
    super::{
        ast::{Binary, CallArgs, Compare, Const, Expr, ExprKind, Filter, Name, Slice, Slot, Test},
        fault::{Fault, Outcome},
        lexer::TokenKind,
    },
    Parser, deepest, node,
};
use std::sync::Arc;

/// What stands between brackets behind a value.
enum Subscript {
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
}

/// An expression over `value`, whose other parts are at most `others` deep.
fn over(line: u32, value: Expr, others: u16, kind: impl FnOnce(Box<Expr>) -> ExprKind) -> Outcome<Expr> {
    let height = value.height.max(others);
    node(line, kind(Box::new(value)), height)
}

/// An expression over two others.
fn pair(left: Expr, right: Expr, kind: impl FnOnce(Box<Expr>, Box<Expr>) -> ExprKind) -> Outcome<Expr> {
    let (line, height) = (left.line, deepest([&left, &right]));
    node(line, kind(Box::new(left), Box::new(right)), height)
}

impl Parser<'_> {
    pub(super) fn expression(&mut self) -> Outcome<Expr> {
        self.deeper(Self::conditional)
    }

    fn conditional(&mut self) -> Outcome<Expr> {
        let mut value = self.or()?;
        while self.skip_name("if") {
            let line = value.line;
            let test = self.or()?;
            let otherwise = if self.skip_name("else") { Some(Box::new(self.expression()?)) } else { None };
            let height = deepest([&value, &test].into_iter().chain(otherwise.as_deref()));
            let kind = ExprKind::Condition { test: Box::new(test), then: Box::new(value), otherwise };
            value = node(line, kind, height)?;
        }
        Ok(value)
    }

    pub(super) fn or(&mut self) -> Outcome<Expr> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = self.and()?;
            left = pair(left, right, ExprKind::Or)?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Outcome<Expr> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?;
            left = pair(left, right, ExprKind::And)?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Outcome<Expr> {
        let line = self.line();
        if self.skip_name("not") {
            let value = self.deeper(Self::not)?;
            return over(line, value, 0, ExprKind::Not);
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Outcome<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let op = match self.kind() {
                TokenKind::Operator("==") => Compare::Eq,
                TokenKind::Operator("!=") => Compare::Ne,
                TokenKind::Operator("<") => Compare::Lt,
                TokenKind::Operator("<=") => Compare::Le,
                TokenKind::Operator(">") => Compare::Gt,
                TokenKind::Operator(">=") => Compare::Ge,
                TokenKind::Name(name) if &**name == "in" => Compare::In,
                TokenKind::Name(name)
                    if &**name == "not" && matches!(self.look(), TokenKind::Name(n) if &**n == "in") =>
                {
                    self.next();
                    Compare::NotIn
                }
                _ => break,
            };
            self.next();
            rest.push((op, self.sum()?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let others = deepest(rest.iter().map(|(_, e)| e));
        over(first.line, first, others, |first| ExprKind::Compare(first, rest))
    }

    /// A chain of binary operators of one precedence.
    fn chain(&mut self, operand: fn(&mut Self) -> Outcome<Expr>, operators: &[(&str, Binary)]) -> Outcome<Expr> {
        let mut left = operand(self)?;
        while let Some((_, op)) = operators.iter().find(|(sign, _)| self.is_operator(sign)) {
            self.next();
            let right = operand(self)?;
            left = pair(left, right, |l, r| ExprKind::Binary(*op, l, r))?;
        }
        Ok(left)
    }

    fn sum(&mut self) -> Outcome<Expr> {
        self.chain(Self::concatenation, &[("+", Binary::Add), ("-", Binary::Sub)])
    }

    fn concatenation(&mut self) -> Outcome<Expr> {
        let first = self.product()?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let line = first.line;
        let mut parts = vec![first];
        while self.skip_operator("~") {
            parts.push(self.product()?);
        }
        let height = deepest(&parts);
        node(line, ExprKind::Concat(parts), height)
    }

    fn product(&mut self) -> Outcome<Expr> {
        let operators = [("*", Binary::Mul), ("/", Binary::Div), ("//", Binary::FloorDiv), ("%", Binary::Mod)];
        self.chain(Self::power, &operators)
    }

    fn power(&mut self) -> Outcome<Expr> {
        self.chain(|p| p.unary(true), &[("**", Binary::Pow)])
    }

    fn unary(&mut self, filters: bool) -> Outcome<Expr> {
        let line = self.line();
        let value = if self.skip_operator("-") {
            let value = self.deeper(|p| p.unary(false))?;
            over(line, value, 0, ExprKind::Negative)?
        } else if self.skip_operator("+") {
            let value = self.deeper(|p| p.unary(false))?;
            over(line, value, 0, ExprKind::Positive)?
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        if filters { self.filters_and_tests(value) } else { Ok(value) }
    }

    fn primary(&mut self) -> Outcome<Expr> {
        let token = self.token();
        let line = token.line;
        let constant = |value| node(line, ExprKind::Const(value), 0);
        match &token.kind {
            TokenKind::Name(name) => {
                self.next();
                match &**name {
                    "true" | "True" => constant(Const::Bool(true)),
                    "false" | "False" => constant(Const::Bool(false)),
                    "none" | "None" => constant(Const::None),
                    _ => node(line, ExprKind::Name(Name { name: name.clone(), slot: Slot::default() }), 0),
                }
            }
            TokenKind::Str(_) => {
                let mut text = String::new();
                while let TokenKind::Str(part) = self.kind() {
                    text.push_str(part);
                    self.next();
                }
                constant(Const::Str(text.into()))
            }
            TokenKind::Int(i) => {
                self.next();
                constant(Const::Int(*i))
            }
            TokenKind::Float(x) => {
                self.next();
                constant(Const::Float(*x))
            }
            TokenKind::Operator("(") => {
                self.next();
                let value = self.deeper(|p| p.tuple(true, &[], true))?;
                self.expect_operator(")")?;
                Ok(value)
            }
            TokenKind::Operator("[") => {
                self.next();
                let items = self.items("]", Self::expression)?;
                let height = deepest(&items);
                node(line, ExprKind::List(items), height)
            }
            TokenKind::Operator("{") => {
                self.next();
                let pairs = self.items("}", |p| {
                    let key = p.expression()?;
                    p.expect_operator(":")?;
                    Ok((key, p.expression()?))
                })?;
                let height = deepest(pairs.iter().flat_map(|(key, value)| [key, value]));
                node(line, ExprKind::Dict(pairs), height)
            }
            _ => Err(self.unexpected()),
        }
    }

    /// Items between commas, one of which may stand before the closing bracket.
    fn items<T>(&mut self, close: &str, item: impl Fn(&mut Self) -> Outcome<T>) -> Outcome<Vec<T>> {
        let mut items = Vec::new();
        while !self.is_operator(close) {
            if !items.is_empty() {
                self.expect_operator(",")?;
            }
            if self.is_operator(close) {
                break;
            }
            items.push(item(self)?);
        }
        self.next();
        Ok(items)
    }

    pub(super) fn is_tuple_end(&self, ends: &[&str]) -> bool {
        matches!(self.kind(), TokenKind::VariableEnd | TokenKind::BlockEnd | TokenKind::Operator(")"))
            || ends.iter().any(|end| self.is_name(end))
    }

    /// One expression, or several with commas as a tuple. `parenthesised` ones may be empty.
    pub(super) fn tuple(&mut self, conditions: bool, ends: &[&str], parenthesised: bool) -> Outcome<Expr> {
        let line = self.line();
        let mut items: Vec<Expr> = Vec::new();
        let mut tuple = false;
        loop {
            if !items.is_empty() {
                self.expect_operator(",")?;
            }
            if self.is_tuple_end(ends) {
                break;
            }
            items.push(if conditions { self.expression()? } else { self.deeper(Self::or)? });
            if !self.is_operator(",") {
                break;
            }
            tuple = true;
        }
        if !tuple {
            match items.pop() {
                Some(only) => return Ok(only),
                None if !parenthesised => return Err(self.fault("Expected an expression")),
                None => {}
            }
        }
        let height = deepest(&items);
        node(line, ExprKind::Tuple(items), height)
    }

    fn postfix(&mut self, mut value: Expr) -> Outcome<Expr> {
        loop {
            let line = self.line();
            value = match self.kind() {
                TokenKind::Operator(".") => {
                    self.next();
                    match &self.next().kind {
                        TokenKind::Name(name) => over(line, value, 0, |v| ExprKind::Attribute(v, name.clone()))?,
                        TokenKind::Int(i) => {
                            let index = node(line, ExprKind::Const(Const::Int(*i)), 0)?;
                            pair(value, index, ExprKind::Item)?
                        }
                        _ => return Err(Fault::at(line, "expected name or number")),
                    }
                }
                TokenKind::Operator("[") => self.subscript(value)?,
                TokenKind::Operator("(") => self.call(value)?,
                _ => return Ok(value),
            };
            value.line = line;
        }
    }

    fn subscript(&mut self, value: Expr) -> Outcome<Expr> {
        let line = self.line();
        self.next();
        let mut parts = Vec::new();
        while !self.is_operator("]") {
            if !parts.is_empty() {
                self.expect_operator(",")?;
            }
            parts.push(self.subscribed()?);
        }
        self.next();
        let index = match (parts.len(), parts.pop()) {
            (1, Some(Subscript::Slice(bounds))) => {
                let [start, stop, step] = *bounds;
                let deepest = deepest([&start, &stop, &step].into_iter().flatten());
                return over(line, value, deepest, |value| {
                    ExprKind::Slice(Box::new(Slice { value: *value, start, stop, step }))
                });
            }
            (1, Some(Subscript::Item(index))) => index,
            (_, last) => {
                let items = parts.into_iter().chain(last).map(|part| match part {
                    Subscript::Item(item) => Ok(item),
                    Subscript::Slice(_) => Err(Fault::unsupported("slices in tuples").or_at(line)),
                });
                let items = items.collect::<Outcome<Vec<_>>>()?;
                let height = deepest(&items);
                node(line, ExprKind::Tuple(items), height)?
            }
        };
        pair(value, index, ExprKind::Item)
    }

    fn subscribed(&mut self) -> Outcome<Subscript> {
        let start = if self.is_operator(":") { None } else { Some(self.expression()?) };
        if !self.is_operator(":") {
            return start.map(Subscript::Item).ok_or_else(|| self.unexpected());
        }
        self.next();
        let is_end = |p: &Self| p.is_operator("]") || p.is_operator(",");
        let stop = if self.is_operator(":") || is_end(self) { None } else { Some(self.expression()?) };
        let step = if self.skip_operator(":") && !is_end(self) { Some(self.expression()?) } else { None };
        Ok(Subscript::Slice(Box::new([start, stop, step])))
    }

    fn call(&mut self, value: Expr) -> Outcome<Expr> {
        let line = self.line();
        let (args, height) = self.call_args()?;
        over(line, value, height, |value| ExprKind::Call(value, args))
    }

    /// The arguments between parentheses, and how deep their trees are.
    fn call_args(&mut self) -> Outcome<(CallArgs, u16)> {
        let line = self.line();
        let ensure = |fine: bool| {
            if fine { Ok(()) } else { Err(Fault::at(line, "invalid syntax for function call expression")) }
        };
        self.expect_operator("(")?;
        let mut args = CallArgs::default();
        let mut height = 0;
        let mut first = true;
        while !self.is_operator(")") {
            if !first {
                self.expect_operator(",")?;
                if self.is_operator(")") {
                    break;
                }
            }
            first = false;
            let keyword = matches!((self.kind(), self.look()), (TokenKind::Name(_), TokenKind::Operator("=")));
            let value;
            if self.skip_operator("*") {
                ensure(args.star.is_none() && args.double_star.is_none())?;
                value = self.expression()?;
                height = height.max(value.height);
                args.star = Some(Box::new(value));
            } else if self.skip_operator("**") {
                ensure(args.double_star.is_none())?;
                value = self.expression()?;
                height = height.max(value.height);
                args.double_star = Some(Box::new(value));
            } else if keyword {
                ensure(args.double_star.is_none())?;
                let name: Arc<str> = self.expect_name()?;
                self.next();
                value = self.expression()?;
                height = height.max(value.height);
                if args.named.iter().any(|(n, _)| *n == name) {
                    return Err(Fault::at(line, format!("keyword argument repeated: {name}")));
                }
                args.named.push((name, value));
            } else {
                ensure(args.star.is_none() && args.double_star.is_none() && args.named.is_empty())?;
                value = self.expression()?;
                height = height.max(value.height);
                args.positional.push(value);
            }
        }
        self.next();
        Ok((args, height))
    }

    fn filters_and_tests(&mut self, mut value: Expr) -> Outcome<Expr> {
        loop {
            value = match self.kind() {
                TokenKind::Operator("|") => {
                    self.next();
                    self.one_filter(Some(value))?
                }
                TokenKind::Name(name) if &**name == "is" => self.test(value)?,
                TokenKind::Operator("(") => self.call(value)?,
                _ => return Ok(value),
            };
        }
    }

    /// The name of a filter or a test, which may have dots, and its arguments in parentheses.
    fn dotted(&mut self) -> Outcome<Arc<str>> {
        let mut name = self.expect_name()?.to_string();
        while self.skip_operator(".") {
            name.push('.');
            name.push_str(&self.expect_name()?);
        }
        Ok(name.into())
    }

    pub(super) fn one_filter(&mut self, value: Option<Expr>) -> Outcome<Expr> {
        let line = self.line();
        let name = self.dotted()?;
        let (args, height) = if self.is_operator("(") { self.call_args()? } else { Default::default() };
        let height = height.max(value.as_ref().map_or(0, |v| v.height));
        let filter = Filter { name, function: None, value: value.map(Box::new), args };
        node(line, ExprKind::Filter(filter), height)
    }

    fn test(&mut self, value: Expr) -> Outcome<Expr> {
        let line = self.line();
        self.next();
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let ends = |name: &str| ["else", "or", "and"].contains(&name);
        let (args, height) = match self.kind() {
            TokenKind::Operator("(") => self.call_args()?,
            TokenKind::Name(next) if &**next == "is" => {
                return Err(self.fault("You cannot chain multiple tests with is"));
            }
            TokenKind::Name(next) if ends(next) => Default::default(),
            TokenKind::Name(_)
            | TokenKind::Str(_)
            | TokenKind::Int(_)
            | TokenKind::Float(_)
            | TokenKind::Operator("[" | "{") => {
                let argument = self.primary()?;
                let argument = self.postfix(argument)?;
                let height = argument.height;
                (CallArgs { positional: vec![argument], ..CallArgs::default() }, height)
            }
            _ => Default::default(),
        };
        let out = over(line, value, height, |value| ExprKind::Test(Test { name, function: None, value, args }))?;
        if negated { over(line, out, 0, ExprKind::Not) } else { Ok(out) }
    }
}
