//! The decoded form of a kernel: flat instructions whose operands are row numbers; no names are left.

use crate::count::Class;
use crate::exec::alu::Alu;
use crate::float::Round;
use crate::parse::ast::{Loc, Space, Ty};
use crate::regs::Slot;

/// "No row": an operand that is thrown away.
pub(crate) const NONE: Slot = Slot::MAX;
/// "Back to nobody": the end of the kernel as a reconvergence point.
pub(crate) const END: u32 = u32::MAX;

/// A predicate as a source: its index (0 is constant true) and whether it is negated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pred {
    pub at: u16,
    pub not: bool,
}

impl Pred {
    pub const TRUE: Pred = Pred { at: 0, not: false };
}

/// A kernel parameter.
#[derive(Debug, Clone)]
pub(crate) struct Param {
    pub offset: u32,
    pub size: u32,
    pub align: u32,
}

/// What a constant row holds; filled in at launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ConstRow {
    /// The low 32 bits in every lane.
    Imm32(u32),
    /// Two rows.
    Imm64(u64),
    /// Address of module variable `.0` plus an offset; two rows.
    Var(u32, i64),
    Special(Special),
}

/// Special registers that are rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Lane,
    Warp,
    Nwarp,
    LaneMask(LaneMask),
    DynamicShared,
    TotalShared,
    Zero,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LaneMask {
    Eq,
    Lt,
    Le,
    Gt,
    Ge,
}

/// Comparison operators of `setp` and `set`; the `u` ones are true when an operand is NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// How `setp` combines with its third operand, and the operations on predicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logic {
    /// The first operand alone.
    First,
    And,
    Or,
    Xor,
    /// Negation of the first.
    Not,
}

/// `.ftz` and `.sat` of an f32 operation, done around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mods {
    pub ftz: bool,
    pub sat: bool,
}

/// Multi-word arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CarryOp {
    Add,
    Sub,
    MadLo,
    MadHiU,
    MadHiS,
}

/// Classes of `testp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Testp {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// A conversion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cvt {
    pub to: Ty,
    pub from: Ty,
    /// Rounding of a float result.
    pub round: Round,
    /// Round to an integral value first (`.rni`, …); always set for float to integer.
    pub integral: Option<Round>,
    pub sat: bool,
    pub ftz: bool,
    pub relu: bool,
    /// `.rna` for tf32.
    pub away: bool,
    /// The source register is 64 bits wide.
    pub wide_src: bool,
    /// Width of the destination register: narrower results are extended to it.
    pub dst_bits: u32,
}

/// What every access to memory needs.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub space: Space,
    /// Bytes of one element.
    pub size: u32,
    /// Elements (`.v2`, `.v4`).
    pub count: u32,
    /// Registers of the elements; [`NONE`] where the result is dropped.
    pub regs: [Slot; 8],
    /// Register width in bits (16, 32, 64).
    pub width: u32,
    /// Sign-extend on load.
    pub signed: bool,
    /// Row pair with 64-bit addresses.
    pub base: Slot,
    /// `base` is a 32-bit row (allowed for shared).
    pub base32: bool,
    pub offset: i64,
    /// `.volatile`, `.relaxed`, `.acquire`, `.release`: exempt from race detection.
    pub strong: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReduxOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
}

/// `bar`/`barrier` flavours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarOp {
    Sync,
    Arrive,
    /// `.red.popc.u32` into a row, `.red.and/or.pred` into a predicate.
    Popc(Slot),
    RedAnd(u16),
    RedOr(u16),
}

/// Input types of `mma.sync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MmaTy {
    Bf16,
    F16,
    Tf32,
    S8,
    U8,
}

/// `mma.sync.m16n8kK`
#[derive(Debug, Clone)]
pub(crate) struct Mma {
    pub k: u32,
    pub a_ty: MmaTy,
    pub b_ty: MmaTy,
    /// The accumulator is f16 pairs.
    pub half_acc: bool,
    pub d: [Slot; 4],
    pub a: [Slot; 4],
    pub b: [Slot; 2],
    pub c: [Slot; 4],
}

/// An instruction without its guard.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Lane-wise arithmetic; `imm` is lop3's table or prmt's mode.
    Alu {
        op: Alu,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        imm: u32,
    },
    /// The same with `.ftz` or `.sat` around it.
    AluMod {
        op: Alu,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        imm: u32,
        mods: Mods,
    },
    /// `add.cc` and its kin: `cin` reads, `cout` writes the carry.
    Carry {
        op: CarryOp,
        wide: bool,
        cin: bool,
        cout: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    /// Bit-field insert: value, target, position, length.
    Bfi {
        wide: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        pos: Slot,
        len: Slot,
    },
    Testp {
        what: Testp,
        wide: bool,
        p: u16,
        a: Slot,
    },
    Cvt {
        spec: Box<Cvt>,
        d: Slot,
        a: Slot,
    },
    Setp {
        cmp: Cmp,
        ty: Ty,
        ftz: bool,
        p: u16,
        q: u16,
        a: Slot,
        b: Slot,
        logic: Logic,
        c: Pred,
    },
    /// `set`: all ones or zero (or 1.0f) by comparison.
    Set {
        cmp: Cmp,
        ty: Ty,
        ftz: bool,
        float: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        logic: Logic,
        c: Pred,
    },
    Selp {
        wide: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        p: Pred,
    },
    Pred {
        op: Logic,
        d: u16,
        a: Pred,
        b: Pred,
    },
    /// `mov` of parts into a register or back; each part `bits` wide.
    Pack {
        d: Slot,
        wide: bool,
        parts: Box<[Slot]>,
        bits: u32,
    },
    Unpack {
        a: Slot,
        wide: bool,
        parts: Box<[Slot]>,
        bits: u32,
    },
    /// The first row of `a` plus a window base.
    Cvta {
        d: Slot,
        a: Slot,
        add: u64,
    },
    IsSpace {
        p: u16,
        a: Slot,
        space: Space,
    },
    Clock {
        d: Slot,
        wide: bool,
    },
    Ld(Box<Access>),
    St(Box<Access>),
    LdParam(Box<Access>),
    Atom {
        op: AtomOp,
        ty: Ty,
        acc: Box<Access>,
        d: Slot,
        b: Slot,
        c: Slot,
    },
    CpAsync {
        dst: Box<Access>,
        src: Box<Access>,
        size: u32,
        src_size: Slot,
        ignore: Pred,
    },
    CpCommit,
    CpWait(u32),
    CpWaitAll,
    Bar {
        op: BarOp,
        id: Slot,
        count: Slot,
        p: Pred,
    },
    WarpSync {
        mask: Slot,
    },
    Shfl {
        mode: ShflMode,
        d: Slot,
        p: u16,
        a: Slot,
        b: Slot,
        c: Slot,
        mask: Slot,
    },
    Vote {
        mode: VoteMode,
        d: Slot,
        p: u16,
        a: Pred,
        mask: Slot,
    },
    Match {
        all: bool,
        wide: bool,
        d: Slot,
        p: u16,
        a: Slot,
        mask: Slot,
    },
    Redux {
        op: ReduxOp,
        signed: bool,
        d: Slot,
        a: Slot,
        mask: Slot,
    },
    Elect {
        d: Slot,
        p: u16,
        mask: Slot,
    },
    ActiveMask {
        d: Slot,
    },
    LdMatrix {
        acc: Box<Access>,
        trans: bool,
    },
    StMatrix {
        acc: Box<Access>,
        trans: bool,
    },
    MovMatrix {
        d: Slot,
        a: Slot,
    },
    Mma(Box<Mma>),
    Bra {
        target: u32,
        join: u32,
    },
    Brx {
        index: Slot,
        targets: Box<[u32]>,
        join: u32,
    },
    Exit,
    Trap,
    Nop,
}

/// One decoded instruction.
#[derive(Debug, Clone)]
pub(crate) struct Inst {
    pub kind: Kind,
    pub guard: Pred,
    pub class: Class,
    pub line: u32,
    /// Index into [`Code::locs`], or `u32::MAX`.
    pub loc: u32,
    /// Byte range of the text.
    pub text: (u32, u32),
}

/// One decoded kernel.
#[derive(Debug)]
pub(crate) struct Code {
    pub name: String,
    pub insts: Vec<Inst>,
    pub rows: u32,
    pub preds: u32,
    pub consts: Vec<(Slot, ConstRow)>,
    pub params: Vec<Param>,
    pub param_bytes: u32,
    pub static_shared: u32,
    pub local_bytes: u32,
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub min_blocks: Option<u32>,
    pub locs: Vec<Loc>,
}
