//! The variable `loop`.

use super::{
    args::Args,
    fault::{Fault, Outcome},
    shared::Shared,
    value::{Recursion, Value},
};
use std::cell::{Cell, RefCell};

/// What a template may ask of the loop that it is in.
#[derive(Debug)]
pub struct Loop {
    /// All items; those that the condition behind `if` has let pass so far, if there is one.
    pub items: RefCell<Vec<Value>>,
    /// Whether `items` are all there are.
    pub complete: Cell<bool>,
    /// Index of the current item.
    pub index: Cell<usize>,
    pub depth: usize,
    pub changed: RefCell<Option<Vec<Value>>>,
    /// The function of a recursive loop.
    pub recursion: Option<Recursion>,
}

impl Loop {
    /// How many items the loop passes.
    ///
    /// # Errors
    /// The loop has a condition, which may depend on what its body does.
    pub fn length(&self) -> Outcome<usize> {
        if self.complete.get() {
            return Ok(self.items.borrow().len());
        }
        Err(Fault::unsupported("the length of a loop with a condition"))
    }

    pub fn attribute(&self, name: &str) -> Outcome<Option<Value>> {
        let index = self.index.get();
        let int = |n: usize| Ok(Some(Value::Int(n as i128)));
        match name {
            "index" => int(index + 1),
            "index0" => int(index),
            "first" => Ok(Some(Value::Bool(index == 0))),
            "length" => int(self.length()?),
            "revindex" => int(self.length()? - index),
            "revindex0" => int(self.length()? - index - 1),
            "last" => Ok(Some(Value::Bool(index + 1 == self.length()?))),
            "depth" => int(self.depth + 1),
            "depth0" => int(self.depth),
            "previtem" if index == 0 => Ok(Some(Value::undefined("there is no previous item"))),
            "previtem" => Ok(self.items.borrow().get(index - 1).cloned()),
            "nextitem" => {
                self.length()?;
                let next = self.items.borrow().get(index + 1).cloned();
                Ok(Some(next.unwrap_or_else(|| Value::undefined("there is no next item"))))
            }
            _ => Ok(None),
        }
    }

    pub fn method(&self, value: &Value, name: &str) -> Option<Value> {
        let known = ["cycle", "changed"].into_iter().find(|m| *m == name)?;
        Some(Value::Method(Shared::new((value.clone(), known))))
    }

    pub fn call_method(&self, name: &str, given: &Args) -> Outcome<Value> {
        if let Some((name, _)) = given.named.first() {
            return Err(Fault::new(format!("loop.{name} got an unexpected keyword argument")));
        }
        if name == "cycle" {
            let n = given.positional.len();
            return match n {
                0 => Err(Fault::new("no items for cycling given")),
                _ => Ok(given.positional[self.index.get() % n].clone()),
            };
        }
        let mut last = self.changed.borrow_mut();
        let same = last.as_ref().is_some_and(|old| {
            old.len() == given.positional.len() && old.iter().zip(&given.positional).all(|(a, b)| a.equals(b))
        });
        *last = Some(given.positional.clone());
        Ok(Value::Bool(!same))
    }
}
