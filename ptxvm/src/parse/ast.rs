//! A PTX module as written, with registers already resolved to numbers.

use std::collections::HashMap;

/// A PTX scalar or packed type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub(crate) enum Ty {
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    B8,
    B16,
    B32,
    B64,
    B128,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
    Pred,
}

impl Ty {
    /// `u32` (no dot) to its type.
    pub fn parse(name: &str) -> Option<Ty> {
        use Ty::*;
        Some(match name {
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "b128" => B128,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => Bf16,
            "bf16x2" => Bf16x2,
            "tf32" => Tf32,
            "f32" => F32,
            "f64" => F64,
            "pred" => Pred,
            _ => return None,
        })
    }

    /// Size in bits; a predicate counts 1.
    pub fn bits(self) -> u32 {
        use Ty::*;
        match self {
            U8 | S8 | B8 => 8,
            U16 | S16 | B16 | F16 | Bf16 => 16,
            U32 | S32 | B32 | F32 | F16x2 | Bf16x2 | Tf32 => 32,
            U64 | S64 | B64 | F64 => 64,
            B128 => 128,
            Pred => 1,
        }
    }

    /// Size in bytes.
    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    pub fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub fn float(self) -> bool {
        matches!(self, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::Tf32 | Ty::F32 | Ty::F64)
    }
}

/// State spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// A module variable or a variable inside a kernel.
#[derive(Debug, Clone)]
pub(crate) struct Var {
    pub name: String,
    pub space: Space,
    pub align: u64,
    /// Size in bytes; 0 for `extern .shared x[]`.
    pub size: u64,
    /// Initial bytes, if any are given; shorter than `size` means zeros follow.
    pub init: Option<Vec<u8>>,
}

/// Number of a register within its kernel.
pub(crate) type RegId = u32;

/// One operand.
#[derive(Debug, Clone)]
pub(crate) enum Operand {
    Reg(RegId),
    Special(String),
    Int(u64),
    F32(u32),
    F64(u64),
    /// A variable's address, or a label.
    Sym(String, i64),
    /// `[base + offset]`; the base is a register, a symbol or a number.
    Mem(Box<Operand>, i64),
    Vector(Vec<Operand>),
    /// `p|q`
    Pair(Box<Operand>, Box<Operand>),
    Not(Box<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
    /// `_`
    Sink,
}

/// One instruction as written.
#[derive(Debug, Clone)]
pub(crate) struct Stmt {
    pub line: u32,
    /// Byte range of its text.
    pub text: (usize, usize),
    /// Index into [`Body::locs`].
    pub loc: Option<u32>,
    pub guard: Option<(RegId, bool)>,
    /// `["ld", "global", "u32"]`
    pub op: Vec<String>,
    pub args: Vec<Operand>,
    /// The `{ }` scope that it stands in, for label lookup.
    pub scope: u32,
}

/// A `.loc`: file number, line, and the call site if the code was inlined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Loc {
    pub file: u32,
    pub line: u32,
    pub inlined: Option<(u32, u32)>,
}

/// A kernel's (or function's) insides.
#[derive(Debug, Clone, Default)]
pub(crate) struct Body {
    pub regs: Vec<Ty>,
    pub vars: Vec<Var>,
    pub stmts: Vec<Stmt>,
    /// (scope, name) to the statement that follows the label.
    pub labels: HashMap<(u32, String), u32>,
    /// (scope, name) to the label names of a `.branchtargets` list.
    pub tables: HashMap<(u32, String), Vec<String>>,
    /// Parent of each scope; scope 0 is the body itself.
    pub parents: Vec<u32>,
    pub locs: Vec<Loc>,
}

/// A kernel as written.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub name: String,
    pub line: u32,
    pub params: Vec<Var>,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub min_blocks: Option<u32>,
    pub body: Body,
}

/// A whole file.
#[derive(Debug, Clone, Default)]
pub(crate) struct File {
    pub version: String,
    pub target: String,
    pub vars: Vec<Var>,
    pub entries: Vec<Entry>,
    /// Names of functions that exist (called ones are refused at the call).
    pub files: HashMap<u32, String>,
}
