//! Loads, stores, atomics, asynchronous copies, matrix loads and stores.

use super::inst::{Access, AtomOp, ConstRow, Kind, NONE, Pred};
use super::{Decoder, PARAM_WINDOW, Place, SHARED_WINDOW};
use crate::count::Class;
use crate::error::Error;
use crate::parse::ast::{Operand, Space, Ty};

/// What the words of a memory opcode say.
struct Words {
    space: Option<Space>,
    count: u32,
    strong: bool,
    cache_hint: bool,
}

impl Decoder<'_> {
    fn words(&self, words: &[String]) -> Result<Words, Error> {
        let mut w = Words { space: None, count: 1, strong: false, cache_hint: false };
        for word in words {
            match word.as_str() {
                "global" => w.space = Some(Space::Global),
                "shared" | "shared::cta" => w.space = Some(Space::Shared),
                "local" => w.space = Some(Space::Local),
                "const" => w.space = Some(Space::Const),
                "param" | "param::entry" | "param::func" => w.space = Some(Space::Param),
                "v2" => w.count = 2,
                "v4" => w.count = 4,
                "v8" => w.count = 8,
                "volatile" | "relaxed" | "acquire" | "release" | "acq_rel" | "mmio" => w.strong = true,
                "weak" | "cta" | "gpu" | "sys" | "cluster" | "nc" | "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" => {}
                "L2::cache_hint" => w.cache_hint = true,
                _ if word.starts_with("L1::") || word.starts_with("L2::") => {}
                _ => return self.error(format!("unsupported modifier .{word}")),
            }
        }
        Ok(w)
    }

    /// The address operand in `space`.
    fn access(&mut self, op: &Operand, space: Space) -> Result<Access, Error> {
        let Operand::Mem(base, offset) = op else { return self.error("an address in [ ] is expected") };
        let mut acc = Access {
            space,
            size: 4,
            count: 1,
            regs: [NONE; 8],
            width: 32,
            signed: false,
            base: NONE,
            base32: false,
            offset: *offset,
            strong: false,
        };
        match &**base {
            Operand::Reg(r) => {
                acc.base32 = self.reg_bits(*r) != 64;
                if acc.base32 && !matches!(space, Space::Shared | Space::Local | Space::Param) {
                    return self.error("a 64-bit address is expected");
                }
                acc.base = self.row(*r);
            }
            Operand::Int(v) => acc.base = self.constant(ConstRow::Imm64(*v)),
            Operand::Sym(name, _) => match self.place(name)? {
                Place::At(at_space, at) => {
                    acc.base = self.constant(ConstRow::Imm64(at));
                    // Parameters of calls live in local memory.
                    acc.space = match (space, at_space) {
                        (Space::Param, Space::Local) => Space::Local,
                        (Space::Generic, s) => s,
                        (s, t) if s == t => s,
                        _ => return self.error(format!("{name} lies in another state space")),
                    };
                }
                Place::Module(i) => acc.base = self.constant(ConstRow::Var(i, 0)),
            },
            _ => return self.error("an address in [ ] is expected"),
        }
        Ok(acc)
    }

    fn registers(&mut self, op: &Operand, acc: &mut Access, ty: Ty, store: bool) -> Result<(), Error> {
        let single = std::slice::from_ref(op);
        let list = match op {
            Operand::Vector(v) => v.as_slice(),
            _ => single,
        };
        if list.len() != acc.count as usize {
            return self.error(format!("{} registers expected", acc.count));
        }
        acc.size = ty.bytes();
        acc.signed = ty.signed();
        acc.width = ty.bits().max(16);
        let mut width = None;
        for (i, item) in list.iter().enumerate() {
            acc.regs[i] = match item {
                Operand::Sink if !store => NONE,
                Operand::Reg(r) => {
                    if self.body.regs[*r as usize] == Ty::Pred {
                        return self.error("a predicate where a number is expected");
                    }
                    let bits = self.reg_bits(*r);
                    if bits < ty.bits() || width.is_some_and(|w| w != bits) {
                        return self.error("registers of the wrong width");
                    }
                    width = Some(bits);
                    self.row(*r)
                }
                other if store => {
                    if width.is_some_and(|w| w != acc.width) {
                        return self.error("registers of the wrong width");
                    }
                    width = Some(acc.width);
                    self.src(other, ty)?
                }
                _ => return self.error("a register is expected"),
            };
        }
        acc.width = width.unwrap_or(acc.width);
        Ok(())
    }

    fn memory_type(&self) -> Result<Ty, Error> {
        match self.ty()? {
            Ty::Pred | Ty::B128 => self.error("unsupported type"),
            t => Ok(t),
        }
    }

    pub(super) fn memory(&mut self) -> Result<Option<Kind>, Error> {
        let op = &self.stmt.op;
        Ok(Some(match op[0].as_str() {
            "ld" | "ldu" => self.load()?,
            "st" => self.store()?,
            "atom" | "red" => self.atom()?,
            "cp" => self.copy()?,
            "ldmatrix" | "stmatrix" => self.matrix()?,
            "cvta" => {
                self.expect_args(2)?;
                self.class = Class::Move;
                let to = self.has("to");
                let space = self.words(&op[1 + to as usize..op.len() - 1])?.space;
                let d = self.dst_at(0, 64)?;
                let a = self.src_at(1, Ty::B64)?;
                let base = match space {
                    Some(Space::Shared) => SHARED_WINDOW,
                    Some(Space::Local) => super::LOCAL_WINDOW,
                    Some(Space::Param) => PARAM_WINDOW,
                    Some(_) => 0,
                    None => return self.error("state space expected"),
                };
                Kind::Cvta { d, a, add: if to { base.wrapping_neg() } else { base } }
            }
            "isspacep" => {
                self.expect_args(2)?;
                self.class = Class::Compare;
                let Some(space) = self.words(&op[1..])?.space else { return self.error("state space expected") };
                let p = self.pred_dst(self.arg(0)?)?;
                Kind::IsSpace { p, a: self.src_at(1, Ty::B64)?, space }
            }
            "prefetch" | "prefetchu" | "discard" | "applypriority" => Kind::Nop,
            _ => return Ok(None),
        }))
    }

    fn class_of(space: Space, store: bool) -> Class {
        match (space, store) {
            (Space::Shared, false) => Class::LoadShared,
            (Space::Shared, true) => Class::StoreShared,
            (Space::Local, _) => Class::Local,
            (Space::Const, _) => Class::Constant,
            (Space::Param, _) => Class::Param,
            (_, false) => Class::LoadGlobal,
            (_, true) => Class::StoreGlobal,
        }
    }

    fn vector_fits(&self, acc: &Access) -> Result<(), Error> {
        if acc.size * acc.count > 32 { self.error("vector access of more than 32 bytes") } else { Ok(()) }
    }

    fn load(&mut self) -> Result<Kind, Error> {
        let op = &self.stmt.op;
        let ty = self.memory_type()?;
        let w = self.words(&op[1..op.len() - 1])?;
        self.expect_args(2 + w.cache_hint as usize)?;
        let mut acc = self.access(self.arg(1)?, w.space.unwrap_or(Space::Generic))?;
        acc.count = w.count;
        acc.strong = w.strong;
        self.registers(self.arg(0)?, &mut acc, ty, false)?;
        self.vector_fits(&acc)?;
        self.class = Self::class_of(acc.space, false);
        let by_name = matches!(self.arg(1)?, Operand::Mem(b, _) if matches!(**b, Operand::Sym(..)));
        Ok(if acc.space == Space::Param && by_name { Kind::LdParam(Box::new(acc)) } else { Kind::Ld(Box::new(acc)) })
    }

    fn store(&mut self) -> Result<Kind, Error> {
        let op = &self.stmt.op;
        let ty = self.memory_type()?;
        let w = self.words(&op[1..op.len() - 1])?;
        self.expect_args(2 + w.cache_hint as usize)?;
        let mut acc = self.access(self.arg(0)?, w.space.unwrap_or(Space::Generic))?;
        acc.count = w.count;
        acc.strong = w.strong;
        self.registers(self.arg(1)?, &mut acc, ty, true)?;
        self.vector_fits(&acc)?;
        if matches!(acc.space, Space::Const | Space::Param) {
            return self.error("this state space is read-only");
        }
        self.class = Self::class_of(acc.space, true);
        Ok(Kind::St(Box::new(acc)))
    }

    fn atom(&mut self) -> Result<Kind, Error> {
        self.class = Class::Atomic;
        let op = &self.stmt.op;
        let ty = self.memory_type()?;
        let (mut which, mut rest) = (None, Vec::new());
        for w in &op[1..op.len() - 1] {
            which = Some(match w.as_str() {
                "add" => AtomOp::Add,
                "min" => AtomOp::Min,
                "max" => AtomOp::Max,
                "and" => AtomOp::And,
                "or" => AtomOp::Or,
                "xor" => AtomOp::Xor,
                "exch" => AtomOp::Exch,
                "cas" => AtomOp::Cas,
                "inc" => AtomOp::Inc,
                "dec" => AtomOp::Dec,
                "noftz" => continue,
                _ => {
                    rest.push(w.clone());
                    continue;
                }
            });
        }
        let Some(which) = which else { return self.error("unknown atomic operation") };
        let w = self.words(&rest)?;
        if w.count != 1 {
            return self.error("vector atomics are not supported");
        }
        let fits = match which {
            AtomOp::Add => ty != Ty::B32 && ty != Ty::B64,
            AtomOp::Min | AtomOp::Max => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64),
            AtomOp::Inc | AtomOp::Dec => ty == Ty::U32,
            AtomOp::And | AtomOp::Or | AtomOp::Xor => matches!(ty, Ty::B32 | Ty::B64),
            AtomOp::Exch | AtomOp::Cas => matches!(ty, Ty::B16 | Ty::B32 | Ty::B64 | Ty::U32 | Ty::S32 | Ty::U64),
        };
        if !fits || ty.bits() < 16 || (ty.bits() == 16 && !ty.float() && which != AtomOp::Cas) {
            return self.error("unsupported type for this atomic operation");
        }
        let returns = op[0] == "atom";
        let (at, values) = (returns as usize, 1 + (which == AtomOp::Cas) as usize);
        self.expect_args(at + 1 + values + w.cache_hint as usize)?;
        let d = if returns && !matches!(self.arg(0)?, Operand::Sink) { self.dst_at(0, ty.bits())? } else { NONE };
        let mut acc = self.access(self.arg(at)?, w.space.unwrap_or(Space::Generic))?;
        if !matches!(acc.space, Space::Global | Space::Shared | Space::Generic) {
            return self.error("atomics work on global and shared memory");
        }
        acc.size = ty.bytes();
        acc.width = ty.bits();
        let b = self.src_at(at + 1, ty)?;
        let c = if which == AtomOp::Cas { self.src_at(at + 2, ty)? } else { NONE };
        Ok(Kind::Atom { op: which, ty, acc: Box::new(acc), d, b, c })
    }

    fn copy(&mut self) -> Result<Kind, Error> {
        let op = &self.stmt.op;
        if op.get(1).is_none_or(|w| w != "async") {
            return self.error("unsupported copy");
        }
        self.class = Class::AsyncWait;
        match op.get(2).map(String::as_str) {
            Some("commit_group") => return Ok(Kind::CpCommit),
            Some("wait_all") => return Ok(Kind::CpWaitAll),
            Some("wait_group") => {
                let Operand::Int(n) = self.arg(0)? else { return self.error("a number is expected") };
                return Ok(Kind::CpWait((*n).min(u32::MAX as u64) as u32));
            }
            Some("ca" | "cg") => {}
            _ => return self.error("unsupported copy"),
        }
        self.class = Class::AsyncCopy;
        let hint = self.words(&op[3..])?.cache_hint as usize;
        if !self.has("global") || !(self.has("shared") || self.has("shared::cta")) {
            return self.error("cp.async goes from global to shared memory");
        }
        let dst = self.access(self.arg(0)?, Space::Shared)?;
        let src = self.access(self.arg(1)?, Space::Global)?;
        let Operand::Int(size) = self.arg(2)? else { return self.error("a number is expected as size") };
        if !matches!((size, op[2].as_str()), (16, _) | (4 | 8, "ca")) {
            return self.error("cp.async copies 4, 8 or 16 bytes (.cg: 16)");
        }
        let n = self.stmt.args.len() - hint;
        let (mut src_size, mut ignore) = (NONE, Pred { at: 0, not: true });
        if n == 4 {
            match self.arg(3)? {
                Operand::Reg(r) if self.body.regs[*r as usize] == Ty::Pred => ignore = self.pred(self.arg(3)?)?,
                Operand::Not(_) => ignore = self.pred(self.arg(3)?)?,
                _ => src_size = self.src_at(3, Ty::U32)?,
            }
        } else if n != 3 {
            return self.error("3 or 4 operands expected");
        }
        Ok(Kind::CpAsync { dst: Box::new(dst), src: Box::new(src), size: *size as u32, src_size, ignore })
    }

    fn matrix(&mut self) -> Result<Kind, Error> {
        self.class = Class::Matrix;
        let op = &self.stmt.op;
        let store = op[0] == "stmatrix";
        let mut count = None;
        for w in &op[1..] {
            match w.as_str() {
                "sync" | "aligned" | "m8n8" | "trans" | "shared" | "shared::cta" | "b16" => {}
                "x1" => count = Some(1),
                "x2" => count = Some(2),
                "x4" => count = Some(4),
                _ => return self.error(format!("unsupported modifier .{w}")),
            }
        }
        let Some(count) = count else { return self.error(".x1, .x2 or .x4 expected") };
        self.expect_args(2)?;
        let (regs, address) = if store { (self.arg(1)?, self.arg(0)?) } else { (self.arg(0)?, self.arg(1)?) };
        let mut acc = self.access(address, Space::Shared)?;
        acc.count = count;
        self.registers(regs, &mut acc, Ty::B32, store)?;
        let (acc, trans) = (Box::new(acc), self.has("trans"));
        Ok(if store { Kind::StMatrix { acc, trans } } else { Kind::LdMatrix { acc, trans } })
    }
}
