//! Arithmetic, logic, comparison and moves.

use super::inst::{CarryOp, Cmp, Kind, Logic, Mods, NONE, Pred, Testp};
use super::{Decoder, Place};
use crate::count::Class;
use crate::error::Error;
use crate::exec::alu::Alu;
use crate::parse::ast::{Operand, Ty};
use crate::regs::Slot;

/// An operation with the type of its result and of each operand.
struct Shape {
    op: Alu,
    d: Ty,
    args: [Ty; 3],
    n: usize,
    imm: u32,
}

fn shape(op: Alu, d: Ty, args: &[Ty]) -> Shape {
    let mut all = [Ty::B32; 3];
    all[..args.len()].copy_from_slice(args);
    Shape { op, d, args: all, n: args.len(), imm: 0 }
}

/// Picks by type: `u16 s16 u32 s32 u64 s64`; `b` types read as unsigned.
fn by_int(ty: Ty, ops: [Alu; 6]) -> Option<Alu> {
    Some(match ty {
        Ty::U16 | Ty::B16 => ops[0],
        Ty::S16 => ops[1],
        Ty::U32 | Ty::B32 => ops[2],
        Ty::S32 => ops[3],
        Ty::U64 | Ty::B64 => ops[4],
        Ty::S64 => ops[5],
        _ => return None,
    })
}

/// Picks by width: 16, 32, 64.
fn by_width(ty: Ty, ops: [Alu; 3]) -> Option<Alu> {
    by_int(ty, [ops[0], ops[0], ops[1], ops[1], ops[2], ops[2]])
}

/// Picks by narrow float format: `f16 f16x2 bf16 bf16x2`.
fn by_half(ty: Ty, ops: [Alu; 4]) -> Option<Alu> {
    Some(match ty {
        Ty::F16 => ops[0],
        Ty::F16x2 => ops[1],
        Ty::Bf16 => ops[2],
        Ty::Bf16x2 => ops[3],
        _ => return None,
    })
}

fn rounding(words: &[String]) -> u32 {
    words
        .iter()
        .find_map(|w| match w.as_str() {
            "rz" => Some(1),
            "rm" => Some(2),
            "rp" => Some(3),
            _ => None,
        })
        .unwrap_or(0)
}

/// Words that change nothing here.
const SILENT: &[&str] =
    &["rn", "approx", "full", "ftz", "sat", "rz", "rm", "rp", "lo", "hi", "wide", "NaN", "relu", "noftz"];

impl Decoder<'_> {
    /// Integer and float arithmetic of the regular kind: one result, operands by type.
    fn regular(&self) -> Result<Option<Shape>, Error> {
        use Alu::*;
        let op = &self.stmt.op;
        let base = op[0].as_str();
        let Some(ty) = op.last().and_then(|w| Ty::parse(w)) else { return Ok(None) };
        let m = self.mods();
        let has = |w: &str| m.iter().any(|x| x == w);
        let (hi, wide, nan, relu) = (has("hi"), has("wide"), has("NaN"), has("relu"));
        let rnd = rounding(m);
        let double = if ty.bits() == 16 && !ty.float() {
            if ty.signed() { Ty::S32 } else { Ty::U32 }
        } else if ty.signed() {
            Ty::S64
        } else {
            Ty::U64
        };
        let same2 = |o: Option<Alu>| o.map(|o| shape(o, ty, &[ty, ty]));
        let same3 = |o: Option<Alu>| o.map(|o| shape(o, ty, &[ty, ty, ty]));
        let same1 = |o: Option<Alu>| o.map(|o| shape(o, ty, &[ty]));
        let directed = |o: Alu, n: usize| Some(Shape { imm: rnd, ..shape(o, ty, &[ty, ty, ty][..n]) });
        let f64_near = || if rnd == 0 { Ok(()) } else { self.error("f64 arithmetic is supported in .rn only") };
        let made = match (base, ty) {
            ("add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt", Ty::F64) => {
                f64_near()?;
                match base {
                    "add" => same2(Some(AddF64)),
                    "sub" => same2(Some(SubF64)),
                    "mul" => same2(Some(MulF64)),
                    "div" => same2(Some(DivF64)),
                    "rcp" => same1(Some(RcpF64)),
                    "sqrt" => same1(Some(SqrtF64)),
                    _ => same3(Some(FmaF64)),
                }
            }
            ("add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt", Ty::F32) if rnd != 0 => match base {
                "add" => directed(AddF32R, 2),
                "sub" => directed(SubF32R, 2),
                "mul" => directed(MulF32R, 2),
                "div" => directed(DivF32R, 2),
                "rcp" => directed(RcpF32R, 1),
                "sqrt" => directed(SqrtF32R, 1),
                _ => directed(FmaF32R, 3),
            },
            ("add", Ty::F32) => same2(Some(AddF32)),
            ("sub", Ty::F32) => same2(Some(SubF32)),
            ("mul", Ty::F32) => same2(Some(MulF32)),
            ("div", Ty::F32) => same2(Some(DivF32)),
            ("fma" | "mad", Ty::F32) => same3(Some(FmaF32)),
            ("rcp", Ty::F32) => same1(Some(RcpF32)),
            ("sqrt", Ty::F32) => same1(Some(SqrtF32)),
            ("rsqrt", Ty::F32) => same1(Some(RsqrtF32)),
            ("rsqrt", Ty::F64) => same1(Some(RsqrtF64)),
            ("ex2", Ty::F32) => same1(Some(Ex2F32)),
            ("lg2", Ty::F32) => same1(Some(Lg2F32)),
            ("sin", Ty::F32) => same1(Some(SinF32)),
            ("cos", Ty::F32) => same1(Some(CosF32)),
            ("tanh", Ty::F32) => same1(Some(TanhF32)),
            ("ex2", _) => same1(by_half(ty, [Ex2F16, Ex2F16x2, Ex2Bf16, Ex2Bf16x2])),
            ("tanh", _) => same1(by_half(ty, [TanhF16, TanhF16x2, TanhBf16, TanhBf16x2])),
            ("copysign", Ty::F32) => same2(Some(CopysignF32)),
            ("copysign", Ty::F64) => same2(Some(CopysignF64)),
            ("min", Ty::F32) => same2(Some(if nan { MinNanF32 } else { MinF32 })),
            ("max", Ty::F32) => same2(Some(if nan { MaxNanF32 } else { MaxF32 })),
            ("min", Ty::F64) => same2(Some(MinF64)),
            ("max", Ty::F64) => same2(Some(MaxF64)),
            ("neg", Ty::F32) => same1(Some(NegF32)),
            ("neg", Ty::F64) => same1(Some(NegF64)),
            ("abs", Ty::F32) => same1(Some(AbsF32)),
            ("abs", Ty::F64) => same1(Some(AbsF64)),
            ("neg", _) if ty.float() => same1(by_half(ty, [NegHalf, NegHalf2, NegHalf, NegHalf2])),
            ("abs", _) if ty.float() => same1(by_half(ty, [AbsHalf, AbsHalf2, AbsHalf, AbsHalf2])),
            ("add", _) if ty.float() => same2(by_half(ty, [AddF16, AddF16x2, AddBf16, AddBf16x2])),
            ("sub", _) if ty.float() => same2(by_half(ty, [SubF16, SubF16x2, SubBf16, SubBf16x2])),
            ("mul", _) if ty.float() => same2(by_half(ty, [MulF16, MulF16x2, MulBf16, MulBf16x2])),
            ("fma", _) if relu => same3(by_half(ty, [FmaReluF16, FmaReluF16x2, FmaReluBf16, FmaReluBf16x2])),
            ("fma", _) => same3(by_half(ty, [FmaF16, FmaF16x2, FmaBf16, FmaBf16x2])),
            ("min", _) if ty.float() && nan => same2(by_half(ty, [MinNanF16, MinNanF16x2, MinNanBf16, MinNanBf16x2])),
            ("max", _) if ty.float() && nan => same2(by_half(ty, [MaxNanF16, MaxNanF16x2, MaxNanBf16, MaxNanBf16x2])),
            ("min", _) if ty.float() => same2(by_half(ty, [MinF16, MinF16x2, MinBf16, MinBf16x2])),
            ("max", _) if ty.float() => same2(by_half(ty, [MaxF16, MaxF16x2, MaxBf16, MaxBf16x2])),
            ("add", Ty::S32) if has("sat") => same2(Some(AddSat)),
            ("sub", Ty::S32) if has("sat") => same2(Some(SubSat)),
            ("add", _) => same2(by_width(ty, [Add16, Add32, Add64])),
            ("sub", _) => same2(by_width(ty, [Sub16, Sub32, Sub64])),
            ("mul", _) if wide => by_int(ty, [MulWideU16, MulWideS16, MulWideU32, MulWideS32, Mul64, Mul64])
                .filter(|_| ty.bits() < 64)
                .map(|o| shape(o, double, &[ty, ty])),
            ("mul", _) if hi => same2(by_int(ty, [MulHiU16, MulHiS16, MulHiU32, MulHiS32, MulHiU64, MulHiS64])),
            ("mul", _) => same2(by_width(ty, [Mul16, Mul32, Mul64])),
            ("mad", _) if wide => by_int(ty, [MadWideU16, MadWideS16, MadWideU32, MadWideS32, Mad64, Mad64])
                .filter(|_| ty.bits() < 64)
                .map(|o| shape(o, double, &[ty, ty, double])),
            ("mad", _) if hi => same3(match ty {
                Ty::U32 => Some(MadHiU32),
                Ty::S32 => Some(MadHiS32),
                Ty::U64 => Some(MadHiU64),
                Ty::S64 => Some(MadHiS64),
                _ => None,
            }),
            ("mad", _) => same3(by_width(ty, [Mad16, Mad32, Mad64])),
            ("mul24", Ty::U32) if !hi => same2(Some(Mul24U)),
            ("mul24", Ty::S32) if !hi => same2(Some(Mul24S)),
            ("sad", Ty::U32) => same3(Some(SadU32)),
            ("sad", Ty::S32) => same3(Some(SadS32)),
            ("div", _) => same2(by_int(ty, [DivU16, DivS16, DivU32, DivS32, DivU64, DivS64])),
            ("rem", _) => same2(by_int(ty, [RemU16, RemS16, RemU32, RemS32, RemU64, RemS64])),
            ("min", _) => same2(by_int(ty, [MinU16, MinS16, MinU32, MinS32, MinU64, MinS64])),
            ("max", _) => same2(by_int(ty, [MaxU16, MaxS16, MaxU32, MaxS32, MaxU64, MaxS64])),
            ("abs", _) => same1(by_width(ty, [Abs16, Abs32, Abs64])),
            ("neg", _) => same1(by_width(ty, [Neg16, Neg32, Neg64])),
            ("and", _) => same2(by_width(ty, [And32, And32, And64])),
            ("or", _) => same2(by_width(ty, [Or32, Or32, Or64])),
            ("xor", _) => same2(by_width(ty, [Xor32, Xor32, Xor64])),
            ("not", _) => same1(by_width(ty, [Not16, Not32, Not64])),
            ("cnot", _) => same1(by_width(ty, [Cnot32, Cnot32, Cnot64])),
            ("shl", _) => by_width(ty, [Shl16, Shl32, Shl64]).map(|o| shape(o, ty, &[ty, Ty::U32])),
            ("shr", _) => {
                by_int(ty, [ShrU16, ShrS16, ShrU32, ShrS32, ShrU64, ShrS64]).map(|o| shape(o, ty, &[ty, Ty::U32]))
            }
            ("shf", Ty::B32) => {
                let o = match (has("l"), has("wrap")) {
                    (true, true) => ShfLWrap,
                    (true, false) => ShfLClamp,
                    (false, true) => ShfRWrap,
                    (false, false) => ShfRClamp,
                };
                same3(Some(o))
            }
            ("popc", Ty::B32) => Some(shape(Popc32, Ty::U32, &[ty])),
            ("popc", Ty::B64) => Some(shape(Popc64, Ty::U32, &[ty])),
            ("clz", Ty::B32) => Some(shape(Clz32, Ty::U32, &[ty])),
            ("clz", Ty::B64) => Some(shape(Clz64, Ty::U32, &[ty])),
            ("brev", Ty::B32) => same1(Some(Brev32)),
            ("brev", Ty::B64) => same1(Some(Brev64)),
            ("bfind", _) => by_int(ty, [BfindU32, BfindS32, BfindU32, BfindS32, BfindU64, BfindS64])
                .filter(|_| ty.bits() >= 32)
                .map(|o| Shape { imm: has("shiftamt") as u32, ..shape(o, Ty::U32, &[ty]) }),
            ("bfe", _) => by_int(ty, [BfeU32, BfeS32, BfeU32, BfeS32, BfeU64, BfeS64])
                .filter(|_| ty.bits() >= 32)
                .map(|o| shape(o, ty, &[ty, Ty::U32, Ty::U32])),
            ("bmsk", Ty::B32) if has("clamp") => same2(Some(Bmsk)),
            _ => None,
        };
        if made.is_some() {
            let known = |w: &String| {
                SILENT.contains(&w.as_str()) || matches!(w.as_str(), "l" | "r" | "wrap" | "clamp" | "shiftamt")
            };
            if let Some(w) = m.iter().find(|w| !known(w)) {
                return self.error(format!("unsupported modifier .{w}"));
            }
        }
        Ok(made)
    }

    fn finish(&mut self, s: Shape) -> Result<Kind, Error> {
        self.expect_args(1 + s.n)?;
        let d = self.dst_at(0, s.d.bits().max(16))?;
        let mut rows = [NONE; 3];
        for (i, ty) in s.args[..s.n].iter().enumerate() {
            rows[i] = self.src_at(i + 1, *ty)?;
        }
        let [a, b, c] = rows;
        let float = self.ty().is_ok_and(|t| t == Ty::F32);
        let mods = Mods { ftz: self.has("ftz") && float, sat: self.has("sat") && float };
        if mods != Mods::default() {
            return Ok(Kind::AluMod { op: s.op, d, a, b, c, imm: s.imm, mods });
        }
        if self.has("ftz") && !float && self.ty().is_ok_and(|t| t != Ty::F64) {
            return self.error("unsupported .ftz");
        }
        if self.has("sat") && s.op != Alu::AddSat && s.op != Alu::SubSat {
            return self.error("unsupported .sat");
        }
        Ok(Kind::Alu { op: s.op, d, a, b, c, imm: s.imm })
    }

    pub(super) fn expect_args(&self, n: usize) -> Result<(), Error> {
        if self.stmt.args.len() == n {
            return Ok(());
        }
        self.error(format!("{n} operands expected, found {}", self.stmt.args.len()))
    }

    fn plain(op: Alu, d: Slot, a: Slot, b: Slot, c: Slot, imm: u32) -> Kind {
        Kind::Alu { op, d, a, b, c, imm }
    }

    pub(super) fn alu(&mut self) -> Result<Option<Kind>, Error> {
        let op = &self.stmt.op;
        let base = op[0].as_str();
        let last = op.last().map_or("", String::as_str);
        self.class = match (base, Ty::parse(last)) {
            ("mov" | "cvta", _) => Class::Move,
            ("setp" | "set" | "selp" | "testp", _) => Class::Compare,
            ("ex2" | "lg2" | "sin" | "cos" | "tanh" | "rsqrt", _) => Class::Special,
            ("rcp" | "sqrt", _) if self.has("approx") => Class::Special,
            ("cvt", _) => Class::Convert,
            (_, Some(Ty::Pred)) => Class::Compare,
            (_, Some(Ty::F32)) => Class::Float32,
            (_, Some(Ty::F64)) => Class::Float64,
            (_, Some(t)) if t.float() => Class::Half,
            _ => Class::Integer,
        };
        Ok(Some(match base {
            "mov" => self.mov()?,
            "cvt" => self.cvt()?,
            "setp" => self.setp()?,
            "set" => self.set()?,
            "selp" => {
                self.expect_args(4)?;
                let ty = self.ty()?;
                let bits = ty.bits().max(16);
                let (d, a, b) = (self.dst_at(0, bits)?, self.src_at(1, ty)?, self.src_at(2, ty)?);
                let p = self.pred(self.arg(3)?)?;
                Kind::Selp { wide: bits == 64, d, a, b, p }
            }
            "and" | "or" | "xor" | "not" if last == "pred" => {
                let logic = match base {
                    "and" => Logic::And,
                    "or" => Logic::Or,
                    "xor" => Logic::Xor,
                    _ => Logic::Not,
                };
                self.expect_args(if base == "not" { 2 } else { 3 })?;
                let d = self.pred_dst(self.arg(0)?)?;
                let a = self.pred(self.arg(1)?)?;
                let b = if base == "not" { Pred::TRUE } else { self.pred(self.arg(2)?)? };
                Kind::Pred { op: logic, d, a, b }
            }
            "add" | "sub" | "mad" if self.has("cc") => self.carry(false, true)?,
            "addc" | "subc" | "madc" => self.carry(true, self.has("cc"))?,
            "lop3" => {
                self.expect_args(5)?;
                let d = self.dst_at(0, 32)?;
                let (a, b, c) = (self.src_at(1, Ty::B32)?, self.src_at(2, Ty::B32)?, self.src_at(3, Ty::B32)?);
                let Operand::Int(table) = self.arg(4)? else { return self.error("lop3's table must be a number") };
                Self::plain(Alu::Lop3, d, a, b, c, *table as u32 & 0xff)
            }
            "prmt" => {
                self.expect_args(4)?;
                // The mode stands after the type: prmt.b32.f4e.
                let mode = match last {
                    "b32" => 0,
                    "f4e" => 1,
                    "b4e" => 2,
                    "rc8" => 3,
                    "ecl" => 4,
                    "ecr" => 5,
                    "rc16" => 6,
                    _ => return self.error("unknown prmt mode"),
                };
                let d = self.dst_at(0, 32)?;
                let (a, b, c) = (self.src_at(1, Ty::B32)?, self.src_at(2, Ty::B32)?, self.src_at(3, Ty::B32)?);
                Self::plain(if mode == 0 { Alu::Prmt } else { Alu::PrmtMode }, d, a, b, c, mode)
            }
            "bfi" => {
                self.expect_args(5)?;
                let ty = self.ty()?;
                let (d, a, b) = (self.dst_at(0, ty.bits())?, self.src_at(1, ty)?, self.src_at(2, ty)?);
                let (pos, len) = (self.src_at(3, Ty::U32)?, self.src_at(4, Ty::U32)?);
                Kind::Bfi { wide: ty.bits() == 64, d, a, b, pos, len }
            }
            "dp4a" => {
                self.expect_args(4)?;
                let signed = |w: Option<&String>| w.is_some_and(|w| w == "s32");
                let (x, y) = (signed(op.get(1)), signed(op.get(2)));
                let o = match (x, y) {
                    (true, true) => Alu::Dp4aSS,
                    (true, false) => Alu::Dp4aSU,
                    (false, true) => Alu::Dp4aUS,
                    (false, false) => Alu::Dp4aUU,
                };
                let d = self.dst_at(0, 32)?;
                let (a, b, c) = (self.src_at(1, Ty::B32)?, self.src_at(2, Ty::B32)?, self.src_at(3, Ty::B32)?);
                Self::plain(o, d, a, b, c, 0)
            }
            "testp" => {
                self.expect_args(2)?;
                let what = match op.get(1).map(String::as_str) {
                    Some("finite") => Testp::Finite,
                    Some("infinite") => Testp::Infinite,
                    Some("number") => Testp::Number,
                    Some("notanumber") => Testp::NotANumber,
                    Some("normal") => Testp::Normal,
                    Some("subnormal") => Testp::Subnormal,
                    _ => return self.error("unknown testp"),
                };
                let ty = self.ty()?;
                let p = self.pred_dst(self.arg(0)?)?;
                Kind::Testp { what, wide: ty == Ty::F64, p, a: self.src_at(1, ty)? }
            }
            _ => match self.regular()? {
                Some(shape) => self.finish(shape)?,
                None => return Ok(None),
            },
        }))
    }

    fn carry(&mut self, cin: bool, cout: bool) -> Result<Kind, Error> {
        let ty = self.ty()?;
        let wide = match ty {
            Ty::U32 | Ty::S32 | Ty::B32 => false,
            Ty::U64 | Ty::S64 | Ty::B64 => true,
            _ => return self.error("carry arithmetic is for 32 and 64 bits"),
        };
        let op = match (&self.stmt.op[0][..3], self.has("hi"), ty.signed()) {
            ("add", ..) => CarryOp::Add,
            ("sub", ..) => CarryOp::Sub,
            (_, false, _) => CarryOp::MadLo,
            (_, true, false) => CarryOp::MadHiU,
            (_, true, true) => CarryOp::MadHiS,
        };
        let three = !matches!(op, CarryOp::Add | CarryOp::Sub);
        self.expect_args(if three { 4 } else { 3 })?;
        let d = self.dst_at(0, ty.bits())?;
        let (a, b) = (self.src_at(1, ty)?, self.src_at(2, ty)?);
        let c = if three { self.src_at(3, ty)? } else { a };
        Ok(Kind::Carry { op, wide, cin, cout, d, a, b, c })
    }

    fn mov(&mut self) -> Result<Kind, Error> {
        self.expect_args(2)?;
        let ty = self.ty()?;
        let (to, from) = (self.arg(0)?, self.arg(1)?);
        if ty == Ty::Pred {
            let d = self.pred_dst(to)?;
            let a = self.pred(from)?;
            return Ok(Kind::Pred { op: Logic::First, d, a, b: Pred::TRUE });
        }
        let bits = ty.bits().max(16);
        if bits > 64 {
            return self.error("128-bit moves are not supported");
        }
        match (to, from) {
            (_, Operand::Vector(parts)) => {
                let part = self.part_type(bits, parts.len())?;
                let rows = parts.iter().map(|p| self.src(p, part)).collect::<Result<Vec<_>, _>>()?;
                let d = self.dst(to, bits)?;
                Ok(Kind::Pack { d, wide: bits == 64, parts: rows.into(), bits: part.bits() })
            }
            (Operand::Vector(parts), _) => {
                let part = self.part_type(bits, parts.len())?;
                let rows = parts
                    .iter()
                    .map(|p| if matches!(p, Operand::Sink) { Ok(NONE) } else { self.dst(p, part.bits().max(16)) })
                    .collect::<Result<Vec<_>, _>>()?;
                let a = self.src(from, ty)?;
                Ok(Kind::Unpack { a, wide: bits == 64, parts: rows.into(), bits: part.bits() })
            }
            (_, Operand::Special(name))
                if matches!(
                    name.as_str(),
                    "%clock" | "%clock64" | "%globaltimer" | "%clock_hi" | "%globaltimer_lo"
                ) =>
            {
                let d = self.dst(to, bits)?;
                Ok(Kind::Clock { d, wide: bits == 64 })
            }
            _ => {
                // `mov.u64 %rd, name` for a parameter gives its address in parameter space.
                if let Operand::Sym(name, _) = from {
                    let _: Place = self.place(name)?;
                }
                let a = self.src(from, ty)?;
                let d = self.dst(to, bits)?;
                let op = match bits {
                    16 => Alu::Mov16,
                    64 => Alu::Mov64,
                    _ => Alu::Mov32,
                };
                Ok(Self::plain(op, d, a, NONE, NONE, 0))
            }
        }
    }

    fn part_type(&self, bits: u32, parts: usize) -> Result<Ty, Error> {
        match (bits, parts) {
            (64, 2) => Ok(Ty::B32),
            (64, 4) | (32, 2) => Ok(Ty::B16),
            (32, 4) | (16, 2) | (64, 8) => Ok(Ty::B8),
            _ => self.error("parts do not make up the whole"),
        }
    }

    fn comparison(&self) -> Result<(Cmp, Logic), Error> {
        let (mut cmp, mut logic) = (None, Logic::First);
        for w in self.mods() {
            let c = match w.as_str() {
                "eq" => Cmp::Eq,
                "ne" => Cmp::Ne,
                "lt" | "lo" => Cmp::Lt,
                "le" | "ls" => Cmp::Le,
                "gt" | "hi" => Cmp::Gt,
                "ge" | "hs" => Cmp::Ge,
                "equ" => Cmp::Equ,
                "neu" => Cmp::Neu,
                "ltu" => Cmp::Ltu,
                "leu" => Cmp::Leu,
                "gtu" => Cmp::Gtu,
                "geu" => Cmp::Geu,
                "num" => Cmp::Num,
                "nan" => Cmp::Nan,
                "and" => {
                    logic = Logic::And;
                    continue;
                }
                "or" => {
                    logic = Logic::Or;
                    continue;
                }
                "xor" => {
                    logic = Logic::Xor;
                    continue;
                }
                // `set.cmp.dtype.stype`
                _ if w == "ftz" || Ty::parse(w).is_some() => continue,
                _ => return self.error(format!("unknown comparison .{w}")),
            };
            cmp = Some(c);
        }
        match cmp {
            Some(c) => Ok((c, logic)),
            None => self.error("no comparison operator"),
        }
    }

    fn compared_type(&self) -> Result<Ty, Error> {
        let ty = self.ty()?;
        if matches!(ty, Ty::Pred | Ty::U8 | Ty::S8 | Ty::B8 | Ty::B128 | Ty::F16x2 | Ty::Bf16x2 | Ty::Tf32) {
            return self.error("comparison of this type is not supported");
        }
        Ok(ty)
    }

    fn setp(&mut self) -> Result<Kind, Error> {
        let (cmp, logic) = self.comparison()?;
        self.expect_args(if logic == Logic::First { 3 } else { 4 })?;
        let ty = self.compared_type()?;
        let (p, q) = match self.arg(0)? {
            Operand::Pair(p, q) => (self.pred_dst(p)?, self.pred_dst(q)?),
            p => (self.pred_dst(p)?, 0),
        };
        let (a, b) = (self.src_at(1, ty)?, self.src_at(2, ty)?);
        let c = if logic == Logic::First { Pred::TRUE } else { self.pred(self.arg(3)?)? };
        Ok(Kind::Setp { cmp, ty, ftz: self.has("ftz"), p, q, a, b, logic, c })
    }

    fn set(&mut self) -> Result<Kind, Error> {
        let (cmp, logic) = self.comparison()?;
        self.expect_args(if logic == Logic::First { 3 } else { 4 })?;
        let ty = self.compared_type()?;
        let n = self.stmt.op.len();
        let float = match Ty::parse(&self.stmt.op[n - 2]) {
            Some(Ty::F32) => true,
            Some(Ty::U32 | Ty::S32) => false,
            _ => return self.error("set gives u32, s32 or f32"),
        };
        let d = self.dst_at(0, 32)?;
        let (a, b) = (self.src_at(1, ty)?, self.src_at(2, ty)?);
        let c = if logic == Logic::First { Pred::TRUE } else { self.pred(self.arg(3)?)? };
        Ok(Kind::Set { cmp, ty, ftz: self.has("ftz"), float, d, a, b, logic, c })
    }
}
