//! Python's values, as far as a template can meet them.

use super::{
    ast::{For, Function},
    fault::{Fault, Outcome},
    interpreter::Activation,
    loops::Loop,
    shared::{self, Shared},
    text,
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
};

/// The value of an expression.
#[derive(Debug, Clone)]
pub enum Value {
    /// Jinja2's `Undefined` and what it says when it is used.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
    /// A text that counts as escaped (`|safe`, `|escape`).
    Markup(Arc<str>),
    List(Shared<Vec<Value>>),
    Tuple(Shared<Vec<Value>>),
    /// What `groupby` makes: a tuple whose items are called `grouper` and `list`.
    Group(Shared<Vec<Value>>),
    Dict(Shared<Dict>),
    /// `dict.keys()` and its like.
    View(View, Shared<Vec<Value>>),
    Range(Range),
    /// An iterator, which can be passed through once.
    Iterator(Shared<RefCell<Pending>>),
    Namespace(Shared<RefCell<Dict>>),
    Macro(Shared<Macro>),
    Loop(Shared<Loop>),
    /// A method of a value.
    Method(Shared<(Value, &'static str)>),
    Builtin(Builtin),
    Cycler(Shared<(Vec<Value>, Cell<usize>)>),
    Joiner(Shared<(Arc<str>, Cell<bool>)>),
}

/// The global functions of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    Range,
    Dict,
    DictFromKeys,
    Namespace,
    Cycler,
    Joiner,
    Lipsum,
    RaiseException,
    StrftimeNow,
}

/// Which part of a dict a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    Keys,
    Values,
    Items,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub start: i128,
    pub stop: i128,
    pub step: i128,
}

impl Range {
    pub fn len(self) -> usize {
        let distance = if self.step > 0 { self.stop - self.start } else { self.start - self.stop };
        if distance <= 0 { 0 } else { ((distance - 1) / self.step.abs() + 1) as usize }
    }

    pub fn get(self, i: usize) -> i128 {
        self.start + i as i128 * self.step
    }
}

/// What an iterator still holds, and the fault that it ends in.
#[derive(Debug, Default)]
pub struct Pending {
    pub items: VecDeque<Value>,
    pub fault: Option<Fault>,
}

/// A dict with its order.
#[derive(Debug, Clone, Default)]
pub struct Dict(pub Vec<(Value, Value)>);

impl Dict {
    pub fn get(&self, key: &Value) -> Option<&Value> {
        self.0.iter().find(|(k, _)| k.equals(key)).map(|(_, v)| v)
    }

    pub fn get_str(&self, key: &str) -> Option<&Value> {
        let is = |k: &Value| matches!(k, Value::Str(k) | Value::Markup(k) if &**k == key);
        self.0.iter().find(|(k, _)| is(k)).map(|(_, v)| v)
    }

    /// A key that is there keeps its place.
    pub fn insert(&mut self, key: Value, value: Value) {
        match self.0.iter_mut().find(|(k, _)| k.equals(&key)) {
            Some((_, old)) => *old = value,
            None => self.0.push((key, value)),
        }
    }
}

/// A macro, or the caller of a call block, with the variables around its definition.
#[derive(Debug)]
pub struct Macro {
    pub function: Arc<Function>,
    pub around: Shared<Activation>,
}

/// The function of a recursive loop with the variables around it.
#[derive(Debug, Clone)]
pub struct Recursion {
    pub inner: Arc<For>,
    pub around: Shared<Activation>,
}

impl Value {
    pub fn str(text: impl Into<Arc<str>>) -> Self {
        Self::Str(text.into())
    }

    pub fn undefined(message: impl Into<Rc<str>>) -> Self {
        Self::Undefined(message.into())
    }

    pub fn list(items: Vec<Value>) -> Self {
        Self::List(Shared::new(items))
    }

    pub fn tuple(items: Vec<Value>) -> Self {
        Self::Tuple(Shared::new(items))
    }

    /// A generator of these items, which ends in a fault if there is one.
    pub fn generator(items: impl IntoIterator<Item = Outcome<Value>>) -> Self {
        let mut pending = Pending::default();
        for item in items {
            match item {
                Ok(item) => pending.items.push_back(item),
                Err(fault) => {
                    pending.fault = Some(fault);
                    break;
                }
            }
        }
        Self::Iterator(Shared::new(RefCell::new(pending)))
    }

    /// A value of JSON.
    pub fn from_json(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::None,
            serde_json::Value::Bool(b) => Self::Bool(*b),
            serde_json::Value::Number(n) => {
                let integer = n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from));
                integer.map_or_else(|| Self::Float(n.as_f64().unwrap_or(f64::NAN)), Self::Int)
            }
            serde_json::Value::String(text) => Self::str(text.as_str()),
            serde_json::Value::Array(items) => Self::list(items.iter().map(Self::from_json).collect()),
            serde_json::Value::Object(map) => {
                let pairs = map.iter().map(|(key, value)| (Self::str(key.as_str()), Self::from_json(value)));
                Self::Dict(Shared::new(Dict(pairs.collect())))
            }
        }
    }

    /// The text of a text.
    pub fn as_text(&self) -> Option<&Arc<str>> {
        match self {
            Self::Str(text) | Self::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// The number of an integer or a boolean.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(i) => Some(*i),
            Self::Bool(b) => Some(i128::from(*b)),
            _ => None,
        }
    }

    /// The number of a number or a boolean.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(x) => Some(*x),
            _ => self.as_int().map(|i| i as f64),
        }
    }

    /// Python's name of the type.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Markup(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Group(_) => "_GroupTuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Iterator(_) => "generator",
            Self::Namespace(_) => "Namespace",
            Self::Macro(_) => "Macro",
            Self::Loop(_) => "LoopContext",
            Self::Method(_) => "builtin_function_or_method",
            Self::Builtin(_) => "function",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
        }
    }

    /// Python's truth.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(i) => *i != 0,
            Self::Float(x) => *x != 0.0,
            Self::Str(text) | Self::Markup(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) | Self::Group(items) | Self::View(_, items) => !items.is_empty(),
            Self::Dict(dict) => !dict.0.is_empty(),
            Self::Range(range) => range.len() > 0,
            _ => true,
        }
    }

    /// Python's `==`.
    pub fn equals(&self, other: &Self) -> bool {
        let Some(_visit) = shared::visit_to_compare() else { return false };
        match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Str(a) | Self::Markup(a), Self::Str(b) | Self::Markup(b)) => a == b,
            (Self::List(a), Self::List(b)) | (Self::Tuple(a) | Self::Group(a), Self::Tuple(b) | Self::Group(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(b))
            }
            (Self::Dict(a), Self::Dict(b)) => {
                a.0.len() == b.0.len() && a.0.iter().all(|(k, v)| b.get(k).is_some_and(|w| v.equals(w)))
            }
            (Self::Range(a), Self::Range(b)) => {
                let of = |r: &Range| (r.len(), (r.len() > 0).then_some(r.start), (r.len() > 1).then_some(r.step));
                of(a) == of(b)
            }
            (Self::View(a, x), Self::View(b, y)) if *a != View::Values && *b != View::Values => {
                x.len() == y.len() && x.iter().all(|item| y.iter().any(|other| item.equals(other)))
            }
            (Self::Namespace(a), Self::Namespace(b)) => Shared::ptr_eq(a, b),
            (Self::Macro(a), Self::Macro(b)) => Shared::ptr_eq(a, b),
            (Self::Loop(a), Self::Loop(b)) => Shared::ptr_eq(a, b),
            (Self::Iterator(a), Self::Iterator(b)) => Shared::ptr_eq(a, b),
            (Self::View(_, a), Self::View(_, b)) => Shared::ptr_eq(a, b),
            (Self::Builtin(a), Self::Builtin(b)) => a == b,
            (Self::Method(a), Self::Method(b)) => a.1 == b.1 && a.0.equals(&b.0),
            _ => super::operators::numbers_equal(self, other),
        }
    }

    /// Whether the value can be a key of a dict.
    pub fn check_hashable(&self) -> Outcome<()> {
        let _visit = shared::visit()?;
        match self {
            Self::List(_) | Self::Dict(_) | Self::View(..) => {
                Err(Fault::new(format!("unhashable type: '{}'", self.kind())))
            }
            Self::Tuple(items) | Self::Group(items) => items.iter().try_for_each(Self::check_hashable),
            _ => Ok(()),
        }
    }

    /// `str(value)`, as output statements and `~` write it.
    ///
    /// # Errors
    /// The text would have an address in memory, which is another in each run.
    pub fn text(&self) -> Outcome<Arc<str>> {
        match self {
            Self::Undefined(_) => Ok("".into()),
            Self::Str(text) | Self::Markup(text) => Ok(text.clone()),
            _ => {
                let mut out = String::new();
                self.repr(&mut out)?;
                Ok(out.into())
            }
        }
    }

    /// Appends `repr(value)`.
    ///
    /// # Errors
    /// As [`Value::text`].
    pub fn repr(&self, out: &mut String) -> Outcome<()> {
        let _visit = shared::visit()?;
        match self {
            Self::Undefined(_) => out.push_str("Undefined"),
            Self::None => out.push_str("None"),
            Self::Bool(b) => out.push_str(if *b { "True" } else { "False" }),
            Self::Int(i) => out.push_str(&i.to_string()),
            Self::Float(x) => out.push_str(&text::float(*x)),
            Self::Str(s) => text::repr(s, out),
            Self::Markup(s) => {
                out.push_str("Markup(");
                text::repr(s, out);
                out.push(')');
            }
            Self::List(items) => repr_all("[", items, "]", out)?,
            Self::Tuple(items) | Self::Group(items) => {
                repr_all("(", items, if items.len() == 1 { ",)" } else { ")" }, out)?
            }
            Self::Dict(dict) => dict.repr(out)?,
            Self::View(_, items) => {
                out.push_str(self.kind());
                repr_all("([", items, "])", out)?;
            }
            Self::Range(r) if r.step == 1 => out.push_str(&format!("range({}, {})", r.start, r.stop)),
            Self::Range(r) => out.push_str(&format!("range({}, {}, {})", r.start, r.stop, r.step)),
            Self::Namespace(map) => {
                out.push_str("<Namespace ");
                // Borrowed for writing, so that a namespace within itself is noticed.
                let map = map.try_borrow_mut().map_err(|_| Fault::new("maximum recursion depth exceeded"))?;
                map.repr(out)?;
                out.push('>');
            }
            Self::Loop(state) => out.push_str(&format!("<LoopContext {}/{}>", state.index.get() + 1, state.length()?)),
            Self::Macro(m) if m.function.name.is_empty() => out.push_str("<Macro anonymous>"),
            Self::Macro(m) => {
                out.push_str("<Macro ");
                text::repr(&m.function.name, out);
                out.push('>');
            }
            _ => {
                return Err(Fault::unsupported(format!("the text of a {}, which would be an address", self.kind())));
            }
        }
        text::bounded(out.len())?;
        Ok(())
    }
}

impl Dict {
    fn repr(&self, out: &mut String) -> Outcome<()> {
        out.push('{');
        for (i, (key, value)) in self.0.iter().enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            key.repr(out)?;
            out.push_str(": ");
            value.repr(out)?;
        }
        out.push('}');
        Ok(())
    }
}

fn repr_all(open: &str, items: &[Value], close: &str, out: &mut String) -> Outcome<()> {
    out.push_str(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        item.repr(out)?;
    }
    out.push_str(close);
    Ok(())
}
