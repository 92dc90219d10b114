//! Statements: tags and the text between them.

use super::{
    super::{
        ast::{Expr, ExprKind, For, Frame, Function, Name, Piece, Slot, Stmt, Target},
        fault::{Fault, Outcome},
        lexer::TokenKind,
    },
    Parser,
};
use std::sync::Arc;

/// Tags of Jinja2 that need other templates or escape texts; a chat template has neither.
const NOT_HERE: [&str; 6] = ["block", "extends", "include", "import", "from", "autoescape"];

fn name(name: Arc<str>) -> Name {
    Name { name, slot: Slot::default() }
}

impl Parser<'_> {
    /// Statements up to one of the tags in `ends`, whose name is then the next token, or to the end of the template.
    pub(super) fn body(&mut self, ends: &[&str]) -> Outcome<Vec<Stmt>> {
        let mut body = Vec::new();
        let mut output = Vec::new();
        loop {
            match self.kind() {
                TokenKind::Data(data) => {
                    output.push(Piece::Data(data.clone()));
                    self.next();
                }
                TokenKind::VariableBegin => {
                    self.next();
                    output.push(Piece::Expr(self.tuple(true, &[], false)?));
                    self.expect_kind(&TokenKind::VariableEnd)?;
                }
                TokenKind::BlockBegin => {
                    if !output.is_empty() {
                        body.push(Stmt::Output(std::mem::take(&mut output)));
                    }
                    self.next();
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(body);
                    }
                    let statement = self.deeper(Self::statement)?;
                    body.push(statement);
                    self.expect_kind(&TokenKind::BlockEnd)?;
                }
                TokenKind::End if ends.is_empty() => {
                    if !output.is_empty() {
                        body.push(Stmt::Output(output));
                    }
                    return Ok(body);
                }
                TokenKind::End => {
                    let expected = ends.join("' or '");
                    return Err(self.fault(format!("Unexpected end of template. Jinja was looking for '{expected}'.")));
                }
                _ => return Err(self.unexpected()),
            }
        }
    }

    /// The end of the opening tag and the statements behind it.
    fn block(&mut self, ends: &[&str]) -> Outcome<Vec<Stmt>> {
        self.skip_operator(":");
        self.expect_kind(&TokenKind::BlockEnd)?;
        self.body(ends)
    }

    /// [`Parser::block`] with the closing tag behind it.
    fn closed_block(&mut self, end: &str) -> Outcome<Vec<Stmt>> {
        let body = self.block(&[end])?;
        self.next();
        Ok(body)
    }

    /// The body of a function, in which the loops around it cannot be left.
    fn function_body(&mut self, end: &str) -> Outcome<Vec<Stmt>> {
        let loops = std::mem::take(&mut self.loops);
        let body = self.closed_block(end);
        self.loops = loops;
        body
    }

    fn statement(&mut self) -> Outcome<Stmt> {
        let line = self.line();
        let TokenKind::Name(tag) = self.kind() else { return Err(self.fault("tag name expected")) };
        self.next();
        match &**tag {
            "for" => self.for_loop(line),
            "if" => self.condition(),
            "set" => self.set(line),
            "with" => self.with(),
            "macro" => {
                let name = name(self.expect_name()?);
                let mut function = self.signature(line)?;
                function.name = name.name.clone();
                function.body = self.function_body("endmacro")?;
                Ok(Stmt::Macro { name, function: Arc::new(function) })
            }
            "call" => {
                let mut function = if self.is_operator("(") {
                    self.signature(line)?
                } else {
                    Function { line, ..Function::default() }
                };
                let call = self.expression()?;
                if !matches!(call.kind, ExprKind::Call(..)) {
                    return Err(Fault::at(line, "expected call"));
                }
                function.body = self.function_body("endcall")?;
                Ok(Stmt::Call { call, function: Arc::new(function) })
            }
            "generation" => {
                let body = self.function_body("endgeneration")?;
                Ok(Stmt::Generation(Arc::new(Function { line, body, ..Function::default() })))
            }
            "filter" => {
                let filter = self.filter(None, true)?.ok_or_else(|| Fault::at(line, "expected a filter"))?;
                let body = self.closed_block("endfilter")?;
                Ok(Stmt::FilterBlock { filter, body, frame: Frame::default() })
            }
            "print" => {
                let mut pieces = Vec::new();
                while self.kind() != &TokenKind::BlockEnd {
                    if !pieces.is_empty() {
                        self.expect_operator(",")?;
                    }
                    pieces.push(Piece::Expr(self.expression()?));
                }
                Ok(Stmt::Output(pieces))
            }
            "break" | "continue" if self.loops == 0 => Err(Fault::at(line, format!("'{tag}' outside loop"))),
            "break" => Ok(Stmt::Break),
            "continue" => Ok(Stmt::Continue),
            tag if NOT_HERE.contains(&tag) => Err(Fault::unsupported(format!("the tag `{tag}`")).or_at(line)),
            tag => Err(Fault::at(line, format!("Encountered unknown tag '{tag}'."))),
        }
    }

    fn for_loop(&mut self, line: u32) -> Outcome<Stmt> {
        let target = self.target(&["in"], false)?;
        self.expect_keyword("in")?;
        let iterable = self.tuple(false, &["recursive"], false)?;
        let test = if self.skip_name("if") { Some((target.clone(), self.expression()?)) } else { None };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let body = self.block(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if self.skip_name("else") {
            // `break` there leaves the loop around this one.
            self.closed_block("endfor")?
        } else {
            self.next();
            Vec::new()
        };
        let inner = For {
            line,
            target,
            body,
            body_frame: Frame::default(),
            loop_slot: Slot::default(),
            otherwise,
            otherwise_frame: Frame::default(),
            test,
            test_frame: Frame::default(),
            recursive,
            slots: 0,
        };
        Ok(Stmt::For { iterable, inner: Arc::new(inner) })
    }

    fn condition(&mut self) -> Outcome<Stmt> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, &[], false)?;
            let body = self.block(&["elif", "else", "endif"])?;
            branches.push((test, body));
            if self.skip_name("elif") {
                continue;
            }
            let otherwise = if self.skip_name("else") {
                self.closed_block("endif")?
            } else {
                self.next();
                Vec::new()
            };
            return Ok(Stmt::If { branches, otherwise });
        }
    }

    fn set(&mut self, line: u32) -> Outcome<Stmt> {
        let target = self.target(&[], true)?;
        if self.skip_operator("=") {
            let value = self.tuple(true, &[], false)?;
            return Ok(Stmt::Set { line, target, value });
        }
        let filter = self.filter(None, false)?;
        let body = self.closed_block("endset")?;
        Ok(Stmt::SetBlock { line, target, filter, body, frame: Frame::default() })
    }

    fn with(&mut self) -> Outcome<Stmt> {
        let (mut targets, mut values) = (Vec::new(), Vec::new());
        while self.kind() != &TokenKind::BlockEnd {
            if !targets.is_empty() {
                self.expect_operator(",")?;
            }
            targets.push(self.target(&[], false)?);
            self.expect_operator("=")?;
            values.push(self.expression()?);
        }
        let body = self.closed_block("endwith")?;
        Ok(Stmt::With { targets, values, body, frame: Frame::default() })
    }

    fn signature(&mut self, line: u32) -> Outcome<Function> {
        let mut function = Function { line, ..Function::default() };
        self.expect_operator("(")?;
        while !self.is_operator(")") {
            if !function.parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let parameter = self.assignable()?;
            if function.parameters.iter().any(|p: &Name| p.name == parameter.name) {
                return Err(self.fault(format!("duplicate argument '{}' in function definition", parameter.name)));
            }
            if self.skip_operator("=") {
                function.defaults.push(self.expression()?);
            } else if !function.defaults.is_empty() {
                return Err(self.fault("non-default argument follows default argument"));
            }
            function.parameters.push(parameter);
        }
        self.expect_operator(")")?;
        Ok(function)
    }

    fn assignable(&mut self) -> Outcome<Name> {
        let line = self.line();
        let found = self.expect_name()?;
        if ["true", "false", "none", "True", "False", "None"].contains(&&*found) {
            return Err(Fault::at(line, format!("can't assign to '{found}'")));
        }
        Ok(name(found))
    }

    /// What a loop, a `with` or (with attributes of namespaces) a `set` assigns to.
    fn target(&mut self, ends: &[&str], attributes: bool) -> Outcome<Target> {
        let mut targets = Vec::new();
        let mut tuple = false;
        loop {
            if tuple && self.is_tuple_end(ends) {
                break;
            }
            targets.push(self.single_target(attributes)?);
            if !self.skip_operator(",") {
                break;
            }
            tuple = true;
        }
        match targets.pop() {
            Some(only) if !tuple => Ok(only),
            Some(last) => {
                targets.push(last);
                Ok(Target::Tuple(targets))
            }
            None => Err(self.unexpected()),
        }
    }

    fn single_target(&mut self, attributes: bool) -> Outcome<Target> {
        if self.skip_operator("(") {
            let inner = self.deeper(|p| p.target(&[], false))?;
            self.expect_operator(")")?;
            return Ok(inner);
        }
        let name = self.assignable()?;
        if attributes && self.skip_operator(".") {
            return Ok(Target::Attribute(name, self.expect_name()?));
        }
        Ok(Target::Name(name))
    }

    /// `Some` expression where the filters begin with a value or there are any.
    pub(super) fn filter(&mut self, value: Option<Expr>, mut begun: bool) -> Outcome<Option<Expr>> {
        let mut value = value;
        while begun || self.is_operator("|") {
            if !begun {
                self.next();
            }
            begun = false;
            value = Some(self.one_filter(value)?);
        }
        Ok(value)
    }
}
