//! The arguments of a call, bound to parameters as Python binds them.

use super::{
    fault::{Fault, Outcome},
    value::Value,
};
use std::sync::Arc;

#[derive(Debug, Clone, Default)]
pub struct Args {
    pub positional: Vec<Value>,
    pub named: Vec<(Arc<str>, Value)>,
}

impl Args {
    pub fn positional(positional: Vec<Value>) -> Self {
        Self { positional, named: Vec::new() }
    }

    /// The value for each of `names`; `None` where none is given. `what` is for messages.
    ///
    /// # Errors
    /// More arguments than names, a name that is not one of them, or one that is given twice.
    pub fn bind<const N: usize>(&self, what: &str, names: [&str; N]) -> Outcome<[Option<Value>; N]> {
        if self.positional.len() > N {
            let n = self.positional.len();
            return Err(Fault::new(format!("{what} takes at most {N} arguments and {n} were given")));
        }
        let mut out: [Option<Value>; N] = std::array::from_fn(|i| self.positional.get(i).cloned());
        for (name, value) in &self.named {
            let Some(i) = names.iter().position(|n| *n == &**name) else {
                return Err(Fault::new(format!("{what} got an unexpected keyword argument '{name}'")));
            };
            if out[i].replace(value.clone()).is_some() {
                return Err(Fault::new(format!("{what} got multiple values for argument '{name}'")));
            }
        }
        Ok(out)
    }

    /// [`Args::bind`] for what takes no names.
    pub fn bind_positional<const N: usize>(&self, what: &str) -> Outcome<[Option<Value>; N]> {
        match self.named.first() {
            Some((name, _)) => Err(Fault::new(format!("{what} takes no keyword arguments, found '{name}'"))),
            None => self.bind(what, [""; N]),
        }
    }
}

/// The argument, or a fault that says it is missing.
pub fn required(value: Option<Value>, what: &str, name: &str) -> Outcome<Value> {
    value.ok_or_else(|| Fault::new(format!("{what} is missing the argument '{name}'")))
}

/// An integer as Python's `__index__` takes it.
pub fn index(value: &Value) -> Outcome<i128> {
    match value {
        Value::Undefined(message) => Err(Fault::new(&**message)),
        _ => value
            .as_int()
            .ok_or_else(|| Fault::new(format!("'{}' object cannot be interpreted as an integer", value.kind()))),
    }
}

/// A text, and no other value.
pub fn text_of<'v>(value: &'v Value, what: &str) -> Outcome<&'v Arc<str>> {
    match value {
        Value::Undefined(message) => Err(Fault::new(&**message)),
        _ => value.as_text().ok_or_else(|| Fault::new(format!("{what} must be str, not {}", value.kind()))),
    }
}

/// An integer, absent where the argument is or is None.
pub fn optional_index(value: Option<&Value>) -> Outcome<Option<i128>> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => index(value).map(Some),
    }
}
