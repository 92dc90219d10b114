//! The tree of a template. Names are resolved to slots by [`super::scope`].

use super::{args::Args, fault::Outcome, interpreter::Interpreter, value::Value};
use std::sync::Arc;

/// Where a variable lies: in the slots of the function that is running, or of one around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Slot {
    /// How many functions outwards.
    pub out: u16,
    /// Which slot there.
    pub index: u16,
}

/// What a variable of a frame is when the frame is entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Load {
    /// Given by whoever enters.
    Parameter,
    /// A variable of the render call or a global.
    Resolve(Arc<str>),
    /// The variable of that name in a frame around this one.
    Alias(Slot),
    /// Nothing.
    Undefined,
}

/// The variables of a frame and what they are at its beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame(pub Vec<(u16, Load)>);

/// A name in an expression or a target.
#[derive(Debug, Clone)]
pub struct Name {
    pub name: Arc<str>,
    pub slot: Slot,
}

/// What can be assigned to.
#[derive(Debug, Clone)]
pub enum Target {
    Name(Name),
    /// `namespace.attribute`.
    Attribute(Name, Arc<str>),
    Tuple(Vec<Target>),
}

#[derive(Debug, Clone)]
pub enum Const {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

/// The arguments of a call, a filter or a test.
#[derive(Debug, Clone, Default)]
pub struct CallArgs {
    pub positional: Vec<Expr>,
    pub named: Vec<(Arc<str>, Expr)>,
    pub star: Option<Box<Expr>>,
    pub double_star: Option<Box<Expr>>,
}

/// What a filter does to a value.
pub type FilterFn = fn(&mut Interpreter<'_>, Value, Args) -> Outcome<Value>;
/// What a test says of a value.
pub type TestFn = fn(&Value, &Args) -> Outcome<bool>;

#[derive(Debug, Clone)]
pub struct Filter {
    pub name: Arc<str>,
    /// `None` where there is no such filter, which is an error only if it is reached (in branches, as in Jinja2).
    pub function: Option<FilterFn>,
    /// `None` in a filter block, which filters its body.
    pub value: Option<Box<Expr>>,
    pub args: CallArgs,
}

#[derive(Debug, Clone)]
pub struct Test {
    pub name: Arc<str>,
    pub function: Option<TestFn>,
    pub value: Box<Expr>,
    pub args: CallArgs,
}

#[derive(Debug, Clone)]
pub struct Slice {
    pub value: Expr,
    pub start: Option<Expr>,
    pub stop: Option<Expr>,
    pub step: Option<Expr>,
}

#[derive(Debug, Clone)]
pub enum ExprKind {
    Const(Const),
    Name(Name),
    Tuple(Vec<Expr>),
    List(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Condition { test: Box<Expr>, then: Box<Expr>, otherwise: Option<Box<Expr>> },
    Or(Box<Expr>, Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    Compare(Box<Expr>, Vec<(Compare, Expr)>),
    Concat(Vec<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Attribute(Box<Expr>, Arc<str>),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Slice>),
    Call(Box<Expr>, CallArgs),
    Filter(Filter),
    Test(Test),
}

/// An expression, the line it begins in, and how deep its tree is.
#[derive(Debug, Clone)]
pub struct Expr {
    pub kind: ExprKind,
    pub line: u32,
    pub height: u16,
}

/// A loop. A recursive one is a function of its own.
#[derive(Debug, Clone)]
pub struct For {
    pub line: u32,
    pub target: Target,
    pub body: Vec<Stmt>,
    pub body_frame: Frame,
    /// The variable `loop`.
    pub loop_slot: Slot,
    pub otherwise: Vec<Stmt>,
    pub otherwise_frame: Frame,
    /// The condition behind `if`, with the target as it knows it.
    pub test: Option<(Target, Expr)>,
    pub test_frame: Frame,
    pub recursive: bool,
    /// Slots of the function of a recursive loop.
    pub slots: u16,
}

/// The body of a macro, of a call block or of a generation block: a function with its own variables.
#[derive(Debug, Clone, Default)]
pub struct Function {
    pub line: u32,
    /// Empty for the caller of a call block.
    pub name: Arc<str>,
    pub parameters: Vec<Name>,
    /// Of the last parameters.
    pub defaults: Vec<Expr>,
    pub body: Vec<Stmt>,
    pub frame: Frame,
    pub slots: u16,
    /// The variables `caller`, `kwargs` and `varargs`, where the body uses them.
    pub caller: Option<Slot>,
    pub kwargs: Option<Slot>,
    pub varargs: Option<Slot>,
}

#[derive(Debug, Clone)]
pub enum Piece {
    Data(Arc<str>),
    Expr(Expr),
}

#[derive(Debug, Clone)]
pub enum Stmt {
    Output(Vec<Piece>),
    Set {
        line: u32,
        target: Target,
        value: Expr,
    },
    SetBlock {
        line: u32,
        target: Target,
        filter: Option<Expr>,
        body: Vec<Stmt>,
        frame: Frame,
    },
    /// The iterable stands outside of the loop.
    For {
        iterable: Expr,
        inner: Arc<For>,
    },
    If {
        branches: Vec<(Expr, Vec<Stmt>)>,
        otherwise: Vec<Stmt>,
    },
    Macro {
        name: Name,
        function: Arc<Function>,
    },
    /// `{% call %}`: the call is given the body as `caller`.
    Call {
        call: Expr,
        function: Arc<Function>,
    },
    /// `{% generation %}`: transformers' mark around what the model says.
    Generation(Arc<Function>),
    FilterBlock {
        filter: Expr,
        body: Vec<Stmt>,
        frame: Frame,
    },
    With {
        targets: Vec<Target>,
        values: Vec<Expr>,
        body: Vec<Stmt>,
        frame: Frame,
    },
    Break,
    Continue,
}
