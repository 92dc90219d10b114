//! Jinja2's templates with Python's values, as far as chat templates use them.
//!
//! A chat template is a program for transformers' environment: Jinja2 over Python's texts, numbers, lists and dicts. An
//! engine with values of its own renders most templates alike and some differently without a word (`x.items` of a dict
//! that has a key of that name, `True` and `None` in a text, `a < b < c`, `7 % -3`, what a variable is that a loop
//! assigns). So this one follows Jinja2 and Python step by step, and what it does not have is an error that names it.
//!
//! [`lexer`] makes tokens, [`parser`] the tree ([`ast`]), [`scope`] says which variable a name means, [`interpreter`] and
//! [`eval`] run the tree; [`value`], [`operators`], [`access`], [`methods`], [`mod@format`] and [`text`] are Python, [`filters`]
//! and [`predicates`] Jinja2's filters and tests, [`dumps`] and [`strftime`] what transformers adds; [`shared`]
//! keeps what a stranger's template can cost within bounds.

mod access;
mod args;
mod ast;
mod dumps;
mod eval;
mod fault;
mod filters;
mod format;
mod interpreter;
mod lexer;
mod loops;
mod methods;
mod operators;
mod parser;
mod predicates;
mod scope;
mod shared;
mod strftime;
#[cfg(test)]
mod tests;
mod text;
mod value;
mod walk;

pub use fault::Fault;
pub use value::Value;

use interpreter::{Activation, Interpreter};
use jiff::civil::DateTime;
use std::{collections::HashMap, sync::Arc};

/// The variables of a rendering by their names.
pub type Variables = HashMap<Arc<str>, Value>;

/// A parsed template, which can be rendered by several threads at once.
#[derive(Debug)]
pub struct Template {
    body: Vec<ast::Stmt>,
    frame: ast::Frame,
    slots: u16,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// What Jinja2 refuses before it renders, and tags that irori does not have.
    pub fn parse(source: &str) -> Result<Self, Fault> {
        let source = lexer::normalised(source);
        let mut body = parser::parse(&lexer::tokens(&source)?)?;
        let (frame, slots) = scope::resolve(&mut body)?;
        Ok(Self { body, frame, slots })
    }

    /// The text of the template with these variables; `strftime_now` is the local time.
    ///
    /// # Errors
    /// What Jinja2, Python or the template itself raise; what irori does not render.
    pub fn render(&self, variables: &Variables) -> Result<String, Fault> {
        self.render_at(variables, strftime::now())
    }

    /// [`Template::render`] at a given time.
    pub fn render_at(&self, variables: &Variables, now: DateTime) -> Result<String, Fault> {
        shared::begin();
        let mut interpreter = Interpreter::new(variables, now);
        let env = Activation::new(self.slots, None);
        let mut out = String::new();
        interpreter.open(&self.frame, &env)?;
        interpreter.run(&self.body, &env, &mut out)?;
        shared::complete()?;
        Ok(out)
    }
}
