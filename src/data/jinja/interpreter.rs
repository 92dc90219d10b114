//! Runs the statements of a template.

use super::{
    access,
    ast::{Expr, For, Frame, Load, Piece, Slot, Stmt, Target},
    fault::{Fault, Outcome},
    loops::Loop,
    shared::{self, Shared},
    text,
    value::{Builtin, Macro, Recursion, Value},
};
use jiff::civil::DateTime;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::Arc,
};

/// How many statements and expressions a rendering may run: some seconds' worth, which only an endless template needs.
const MOST_STEPS: u64 = 20_000_000;
/// How deep they may be nested, over all macros.
const DEEPEST: usize = 400;

/// The variables of a function while it runs.
#[derive(Debug, Default)]
pub struct Activation {
    slots: RefCell<Vec<Option<Value>>>,
    around: Option<Shared<Activation>>,
}

impl Activation {
    pub fn new(slots: u16, around: Option<Shared<Self>>) -> Shared<Self> {
        Shared::new(Self { slots: RefCell::new(vec![None; slots.into()]), around })
    }

    fn with<T>(&self, slot: Slot, act: impl FnOnce(&mut Option<Value>) -> T) -> Outcome<T> {
        let mut activation = self;
        for _ in 0..slot.out {
            activation = activation.around.as_deref().ok_or_else(|| Fault::new("a variable without a function"))?;
        }
        let mut slots = activation.slots.borrow_mut();
        let place = slots.get_mut(usize::from(slot.index)).ok_or_else(|| Fault::new("a variable without a slot"))?;
        Ok(act(place))
    }

    pub fn get(&self, slot: Slot) -> Outcome<Option<Value>> {
        self.with(slot, |place| place.clone())
    }

    pub fn set(&self, slot: Slot, value: Option<Value>) -> Outcome<()> {
        // The old value is dropped outside, since dropping it may come back here.
        self.with(slot, |place| std::mem::replace(place, value)).map(drop)
    }
}

/// What a statement says about the loop it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Next,
    Break,
    Continue,
}

pub struct Interpreter<'a> {
    variables: &'a HashMap<Arc<str>, Value>,
    pub now: DateTime,
    steps: u64,
    depth: usize,
    /// Functions with macros of their own, which hold each other.
    cycles: Vec<Shared<Activation>>,
    /// Whether something was read that a template can change while it runs.
    pub read_state: bool,
}

impl Drop for Interpreter<'_> {
    fn drop(&mut self) {
        for activation in self.cycles.drain(..) {
            let slots = std::mem::take(&mut *activation.slots.borrow_mut());
            drop(slots);
        }
    }
}

impl<'a> Interpreter<'a> {
    pub fn new(variables: &'a HashMap<Arc<str>, Value>, now: DateTime) -> Self {
        Self { variables, now, steps: 0, depth: 0, cycles: Vec::new(), read_state: false }
    }

    /// Counts a step and goes one level deeper; [`Interpreter::leave`] comes back.
    pub fn enter(&mut self) -> Outcome<()> {
        shared::complete()?;
        self.steps += 1;
        if self.steps > MOST_STEPS {
            return Err(Fault::unsupported(format!("templates that take more than {MOST_STEPS} steps")));
        }
        if self.depth >= DEEPEST {
            return Err(Fault::unsupported("macros and blocks within each other this deep"));
        }
        self.depth += 1;
        Ok(())
    }

    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Sets the variables of a frame to what they begin with.
    pub fn open(&mut self, frame: &Frame, env: &Shared<Activation>) -> Outcome<()> {
        for (index, load) in &frame.0 {
            let value = match load {
                Load::Parameter => continue,
                Load::Resolve(name) => self.variables.get(name).cloned().or_else(|| global(name)),
                Load::Alias(slot) => env.get(*slot)?,
                Load::Undefined => None,
            };
            env.set(Slot { out: 0, index: *index }, value)?;
        }
        Ok(())
    }

    /// Runs statements, which append to `out`.
    pub fn run(&mut self, statements: &[Stmt], env: &Shared<Activation>, out: &mut String) -> Outcome<Flow> {
        for statement in statements {
            self.enter()?;
            let flow = self.statement(statement, env, out)?;
            self.leave();
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, statement: &Stmt, env: &Shared<Activation>, out: &mut String) -> Outcome<Flow> {
        match statement {
            Stmt::Output(pieces) => self.output(pieces, env, out)?,
            Stmt::Set { line, target, value } => {
                let value = self.eval(value, env)?;
                assign(target, value, env).map_err(|f| f.or_at(*line))?;
            }
            Stmt::SetBlock { line, target, filter, body, frame } => {
                let mut text = String::new();
                self.open(frame, env)?;
                let flow = self.run(body, env, &mut text)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                shared::built(text.len())?;
                let value = self.filtered(filter.as_ref(), Value::str(text), env)?;
                assign(target, value, env).map_err(|f| f.or_at(*line))?;
            }
            Stmt::For { iterable, inner } => return self.for_loop(iterable, inner, env, out),
            Stmt::If { branches, otherwise } => {
                for (test, body) in branches {
                    if self.eval(test, env)?.is_true() {
                        return self.run(body, env, out);
                    }
                }
                return self.run(otherwise, env, out);
            }
            Stmt::Macro { name, function } => {
                if !self.cycles.last().is_some_and(|last| Shared::ptr_eq(last, env)) {
                    self.cycles.push(env.clone());
                }
                let value = Value::Macro(Shared::new(Macro { function: function.clone(), around: env.clone() }));
                env.set(name.slot, Some(value))?;
            }
            Stmt::Call { call, function } => {
                let caller = Value::Macro(Shared::new(Macro { function: function.clone(), around: env.clone() }));
                let value = self.eval_call(call, Some(caller), env).map_err(|f| f.or_at(call.line))?;
                out.push_str(&value.text()?);
            }
            Stmt::Generation(function) => {
                let body = Macro { function: function.clone(), around: env.clone() };
                out.push_str(&self.call_macro(&body, Default::default())?);
            }
            Stmt::FilterBlock { filter, body, frame } => {
                let mut text = String::new();
                self.open(frame, env)?;
                let flow = self.run(body, env, &mut text)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                out.push_str(&self.filtered(Some(filter), Value::str(text), env)?.text()?);
            }
            Stmt::With { targets, values, body, frame } => {
                self.open(frame, env)?;
                for (target, value) in targets.iter().zip(values) {
                    let value = self.eval(value, env)?;
                    assign(target, value, env)?;
                }
                return self.run(body, env, out);
            }
            Stmt::Break => return Ok(Flow::Break),
            Stmt::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn output(&mut self, pieces: &[Piece], env: &Shared<Activation>, out: &mut String) -> Outcome<()> {
        for piece in pieces {
            match piece {
                Piece::Data(data) => out.push_str(data),
                Piece::Expr(expr) => {
                    let value = self.eval(expr, env)?;
                    let written = value.text().and_then(|text| {
                        out.push_str(&text);
                        text::bounded(out.len())
                    });
                    written.map_err(|f| f.or_at(expr.line))?;
                }
            }
        }
        Ok(())
    }

    /// The value behind a chain of filters that has none of its own.
    fn filtered(&mut self, filter: Option<&Expr>, value: Value, env: &Shared<Activation>) -> Outcome<Value> {
        match filter {
            Some(filter) => self.eval_filter_chain(filter, value, env),
            None => Ok(value),
        }
    }

    fn for_loop(
        &mut self,
        iterable: &Expr,
        inner: &Arc<For>,
        env: &Shared<Activation>,
        out: &mut String,
    ) -> Outcome<Flow> {
        let value = self.eval(iterable, env)?;
        if inner.recursive {
            let recursion = Recursion { inner: inner.clone(), around: env.clone() };
            out.push_str(&self.recurse(&recursion, &value, 0)?);
            return Ok(Flow::Next);
        }
        self.turns(inner, &value, env, None, 0, out).map_err(|f| f.or_at(inner.line))
    }

    /// What a recursive loop writes for the items of `value`.
    pub fn recurse(&mut self, recursion: &Recursion, value: &Value, depth: usize) -> Outcome<String> {
        self.enter()?;
        let inner = &recursion.inner;
        let env = Activation::new(inner.slots, Some(recursion.around.clone()));
        let mut out = String::new();
        let flow = self.turns(inner, value, &env, Some(recursion), depth, &mut out);
        flow.map_err(|f| f.or_at(inner.line))?;
        self.leave();
        Ok(out)
    }

    fn turns(
        &mut self,
        inner: &For,
        value: &Value,
        env: &Shared<Activation>,
        recursion: Option<&Recursion>,
        depth: usize,
        out: &mut String,
    ) -> Outcome<Flow> {
        let test_env = recursion.map_or(env, |r| &r.around);
        let mut pending = access::items(value)?.into_iter();
        let known = match inner.test {
            None => Some(pending.by_ref().collect()),
            Some(_) => self.passing(inner, pending.as_slice(), test_env)?,
        };
        let complete = known.is_some();
        let state = Shared::new(Loop {
            items: RefCell::new(known.unwrap_or_default()),
            complete: Cell::new(complete),
            index: Cell::new(0),
            depth,
            changed: RefCell::new(None),
            recursion: recursion.cloned(),
        });
        let mut finished_a_turn = false;
        for i in 0.. {
            if !complete {
                let Some(next) = self.next_passing(inner, &mut pending, test_env)? else { break };
                state.items.borrow_mut().push(next);
            }
            let Some(item) = state.items.borrow().get(i).cloned() else { break };
            state.index.set(i);
            self.open(&inner.body_frame, env)?;
            env.set(inner.loop_slot, Some(Value::Loop(state.clone())))?;
            assign(&inner.target, item, env)?;
            match self.run(&inner.body, env, out)? {
                Flow::Break => break,
                Flow::Continue => {}
                Flow::Next => finished_a_turn = true,
            }
        }
        // As Jinja2 has it: `else` is run if no turn came to its end, be it for want of items or by `continue` and `break`.
        if !finished_a_turn && !inner.otherwise.is_empty() {
            self.open(&inner.otherwise_frame, env)?;
            return self.run(&inner.otherwise, env, out);
        }
        Ok(Flow::Next)
    }

    /// The items that pass the loop's condition; `None` if that depends on what the body may change.
    fn passing(&mut self, inner: &For, items: &[Value], env: &Shared<Activation>) -> Outcome<Option<Vec<Value>>> {
        let read_before = std::mem::take(&mut self.read_state);
        let mut out = Vec::new();
        for item in items {
            match self.passes(inner, item, env) {
                Ok(true) => out.push(item.clone()),
                Ok(false) => {}
                // A fault counts only when the loop comes to it.
                Err(_) => self.read_state = true,
            }
            if self.read_state {
                return Ok(None);
            }
        }
        self.read_state = read_before;
        Ok(Some(out))
    }

    fn next_passing(
        &mut self,
        inner: &For,
        pending: &mut std::vec::IntoIter<Value>,
        env: &Shared<Activation>,
    ) -> Outcome<Option<Value>> {
        for item in pending {
            if self.passes(inner, &item, env)? {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    fn passes(&mut self, inner: &For, item: &Value, env: &Shared<Activation>) -> Outcome<bool> {
        let Some((target, test)) = &inner.test else { return Ok(true) };
        self.open(&inner.test_frame, env)?;
        assign(target, item.clone(), env)?;
        Ok(self.eval(test, env)?.is_true())
    }
}

fn global(name: &str) -> Option<Value> {
    let builtin = match name {
        "range" => Builtin::Range,
        "dict" => Builtin::Dict,
        "namespace" => Builtin::Namespace,
        "cycler" => Builtin::Cycler,
        "joiner" => Builtin::Joiner,
        "lipsum" => Builtin::Lipsum,
        "raise_exception" => Builtin::RaiseException,
        "strftime_now" => Builtin::StrftimeNow,
        _ => return None,
    };
    Some(Value::Builtin(builtin))
}

fn assign(target: &Target, value: Value, env: &Shared<Activation>) -> Outcome<()> {
    match target {
        Target::Name(name) => env.set(name.slot, Some(value)),
        Target::Attribute(name, attribute) => match env.get(name.slot)? {
            Some(Value::Namespace(_)) if attribute.starts_with('_') => Err(Fault::new(format!(
                "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{attribute}'."
            ))),
            Some(Value::Namespace(map)) => {
                map.borrow_mut().insert(Value::Str(attribute.clone()), value);
                Ok(())
            }
            _ => Err(Fault::new("cannot assign attribute on non-namespace object")),
        },
        Target::Tuple(targets) => {
            let items = access::items(&value)?;
            if items.len() != targets.len() {
                let (n, m) = (targets.len(), items.len());
                return Err(Fault::new(format!("cannot unpack: expected {n} values, got {m}")));
            }
            targets.iter().zip(items).try_for_each(|(target, item)| assign(target, item, env))
        }
    }
}
