//! Branches, barriers, and the instructions in which a warp's lanes talk to each other.

use super::Decoder;
use super::inst::{BarOp, END, Kind, Mma, MmaTy, NONE, Pred, ReduxOp, ShflMode, VoteMode};
use crate::count::Class;
use crate::error::Error;
use crate::parse::ast::{Operand, Ty};
use crate::regs::Slot;

impl Decoder<'_> {
    fn scoped<T>(&self, map: &std::collections::HashMap<(u32, String), T>, name: &str) -> Option<(u32, T)>
    where
        T: Clone,
    {
        let mut scope = self.stmt.scope;
        loop {
            if let Some(hit) = map.get(&(scope, name.to_string())) {
                return Some((scope, hit.clone()));
            }
            if scope == 0 {
                return None;
            }
            scope = self.body.parents[scope as usize];
        }
    }

    fn label(&self, name: &str) -> Result<u32, Error> {
        match self.scoped(&self.body.labels, name) {
            Some((_, at)) => Ok(at),
            None => self.error(format!("unknown label {name}")),
        }
    }

    fn mask(&mut self, i: usize) -> Result<Slot, Error> {
        self.src_at(i, Ty::B32)
    }

    /// `d|p` or `d`.
    fn pair(&mut self, i: usize, bits: u32) -> Result<(Slot, u16), Error> {
        match self.arg(i)? {
            Operand::Pair(d, p) => Ok((self.dst(d, bits)?, self.pred_dst(p)?)),
            d => Ok((self.dst(d, bits)?, 0)),
        }
    }

    pub(super) fn control(&mut self) -> Result<Option<Kind>, Error> {
        let op = &self.stmt.op;
        let word = |i: usize| op.get(i).map_or("", String::as_str);
        self.class = match op[0].as_str() {
            "bar" | "barrier" | "membar" | "fence" => Class::Barrier,
            "shfl" | "vote" | "match" | "redux" | "elect" | "activemask" | "movmatrix" => Class::Warp,
            "mma" => Class::Mma,
            _ => Class::Branch,
        };
        Ok(Some(match op[0].as_str() {
            "bra" => match self.arg(0)? {
                Operand::Sym(name, 0) => Kind::Bra { target: self.label(name)?, join: END },
                _ => return self.error("a label is expected"),
            },
            "brx" => {
                let index = self.src_at(0, Ty::U32)?;
                let Operand::Sym(table, 0) = self.arg(1)? else { return self.error("a label table is expected") };
                let Some((_, names)) = self.scoped(&self.body.tables, table) else {
                    return self.error(format!("unknown table {table}"));
                };
                let targets = names.iter().map(|n| self.label(n)).collect::<Result<Vec<_>, _>>()?;
                Kind::Brx { index, targets: targets.into(), join: END }
            }
            "ret" | "exit" => Kind::Exit,
            "trap" | "brkpt" => Kind::Trap,
            "call" => {
                let names: Vec<&str> = self
                    .stmt
                    .args
                    .iter()
                    .filter_map(|a| if let Operand::Sym(n, _) = a { Some(n.as_str()) } else { None })
                    .collect();
                match names.first() {
                    Some(&"__assertfail") => Kind::Trap,
                    // Output of device-side printf is dropped.
                    Some(&"vprintf") => Kind::Nop,
                    _ => return self.error("calls are not supported (let nvcc inline the function)"),
                }
            }
            "nanosleep" | "griddepcontrol" | "pmevent" | "setmaxnreg" => Kind::Nop,
            "createpolicy" => Kind::Nop,
            "membar" | "fence" => Kind::Nop,
            "bar" if word(1) == "warp" => {
                self.expect_args(1)?;
                Kind::WarpSync { mask: self.mask(0)? }
            }
            "bar" | "barrier" => self.barrier()?,
            "shfl" if word(1) == "sync" => {
                self.expect_args(5)?;
                let mode = match word(2) {
                    "up" => ShflMode::Up,
                    "down" => ShflMode::Down,
                    "bfly" => ShflMode::Bfly,
                    "idx" => ShflMode::Idx,
                    _ => return self.error("unknown shfl mode"),
                };
                let (d, p) = self.pair(0, 32)?;
                let (a, b, c) = (self.src_at(1, Ty::B32)?, self.src_at(2, Ty::B32)?, self.src_at(3, Ty::B32)?);
                Kind::Shfl { mode, d, p, a, b, c, mask: self.mask(4)? }
            }
            "vote" if word(1) == "sync" => {
                self.expect_args(3)?;
                let mode = match word(2) {
                    "all" => VoteMode::All,
                    "any" => VoteMode::Any,
                    "uni" => VoteMode::Uni,
                    "ballot" => VoteMode::Ballot,
                    _ => return self.error("unknown vote mode"),
                };
                let (d, p) = if mode == VoteMode::Ballot {
                    (self.dst_at(0, 32)?, 0)
                } else {
                    (NONE, self.pred_dst(self.arg(0)?)?)
                };
                let a = self.pred(self.arg(1)?)?;
                Kind::Vote { mode, d, p, a, mask: self.mask(2)? }
            }
            "match" if word(2) == "sync" => {
                self.expect_args(3)?;
                let ty = self.ty()?;
                let (d, p) = self.pair(0, 32)?;
                let a = self.src_at(1, ty)?;
                Kind::Match { all: word(1) == "all", wide: ty.bits() == 64, d, p, a, mask: self.mask(2)? }
            }
            "redux" if word(1) == "sync" => {
                self.expect_args(3)?;
                let ty = self.ty()?;
                let rop = match word(2) {
                    "add" => ReduxOp::Add,
                    "min" => ReduxOp::Min,
                    "max" => ReduxOp::Max,
                    "and" => ReduxOp::And,
                    "or" => ReduxOp::Or,
                    "xor" => ReduxOp::Xor,
                    _ => return self.error("unknown redux operation"),
                };
                if ty.bits() != 32 || ty.float() {
                    return self.error("redux works on 32-bit integers");
                }
                let d = self.dst_at(0, 32)?;
                let a = self.src_at(1, ty)?;
                Kind::Redux { op: rop, signed: ty.signed(), d, a, mask: self.mask(2)? }
            }
            "elect" => {
                self.expect_args(2)?;
                let (d, p) = self.pair(0, 32)?;
                Kind::Elect { d, p, mask: self.mask(1)? }
            }
            "activemask" => Kind::ActiveMask { d: self.dst_at(0, 32)? },
            "movmatrix" => {
                self.expect_args(2)?;
                Kind::MovMatrix { d: self.dst_at(0, 32)?, a: self.src_at(1, Ty::B32)? }
            }
            "mma" => self.mma()?,
            _ => return Ok(None),
        }))
    }

    fn barrier(&mut self) -> Result<Kind, Error> {
        let op = &self.stmt.op;
        let words: Vec<&str> =
            op[1..].iter().map(String::as_str).filter(|w| !matches!(*w, "cta" | "aligned")).collect();
        let red = words.first() == Some(&"red");
        let first = red as usize;
        let id = self.src_at(first, Ty::U32)?;
        let have = self.stmt.args.len() - first;
        let (with_count, p) = if red {
            let last = self.arg(self.stmt.args.len() - 1)?;
            (have == 3, self.pred(last)?)
        } else {
            (have == 2, Pred::TRUE)
        };
        if have > 2 + red as usize || have < 1 + red as usize {
            return self.error("wrong number of operands");
        }
        let count = if with_count { self.src_at(first + 1, Ty::U32)? } else { NONE };
        let bar = match words.as_slice() {
            ["sync"] => BarOp::Sync,
            ["arrive"] if with_count => BarOp::Arrive,
            ["red", "popc", "u32"] => BarOp::Popc(self.dst_at(0, 32)?),
            ["red", "and", "pred"] => BarOp::RedAnd(self.pred_dst(self.arg(0)?)?),
            ["red", "or", "pred"] => BarOp::RedOr(self.pred_dst(self.arg(0)?)?),
            _ => return self.error("unsupported barrier"),
        };
        Ok(Kind::Bar { op: bar, id, count, p })
    }

    fn mma(&mut self) -> Result<Kind, Error> {
        let op = &self.stmt.op;
        let shape = op.iter().find_map(|w| w.strip_prefix("m16n8k")).and_then(|k| k.parse::<u32>().ok());
        let types: Vec<Ty> = op.iter().filter_map(|w| Ty::parse(w)).collect();
        let known = |w: &String| {
            matches!(w.as_str(), "mma" | "sync" | "aligned" | "row" | "col" | "satfinite")
                || w.starts_with("m16n8k")
                || Ty::parse(w).is_some()
        };
        let (Some(k), [dt, at, bt, ct]) = (shape, types.as_slice()) else {
            return self.error("unsupported mma shape or types");
        };
        let ty = |t: Ty| match t {
            Ty::Bf16 => Some(MmaTy::Bf16),
            Ty::F16 => Some(MmaTy::F16),
            Ty::Tf32 => Some(MmaTy::Tf32),
            Ty::S8 => Some(MmaTy::S8),
            Ty::U8 => Some(MmaTy::U8),
            _ => None,
        };
        let (Some(a_ty), Some(b_ty)) = (ty(*at), ty(*bt)) else { return self.error("unsupported mma types") };
        let half_acc = *dt == Ty::F16;
        let narrow = matches!(a_ty, MmaTy::S8 | MmaTy::U8);
        let good = match a_ty {
            MmaTy::Bf16 => matches!(k, 8 | 16) && b_ty == a_ty && *dt == Ty::F32,
            MmaTy::F16 => matches!(k, 8 | 16) && b_ty == a_ty && matches!(dt, Ty::F32 | Ty::F16),
            MmaTy::Tf32 => matches!(k, 4 | 8) && b_ty == a_ty && *dt == Ty::F32,
            MmaTy::S8 | MmaTy::U8 => matches!(k, 16 | 32) && matches!(b_ty, MmaTy::S8 | MmaTy::U8) && *dt == Ty::S32,
        };
        if !good
            || dt != ct
            || !op.iter().all(known)
            || !self.has("row")
            || !self.has("col")
            || (narrow && self.has("satfinite"))
        {
            return self.error("unsupported mma shape or types");
        }
        self.expect_args(4)?;
        // Registers of A: 16 x k elements over 32 lanes, in units of 32 bits; B has half of that.
        let bytes = match a_ty {
            MmaTy::Tf32 => 4,
            MmaTy::S8 | MmaTy::U8 => 1,
            _ => 2,
        };
        let a_regs = (16 * k * bytes / 128) as usize;
        let acc_regs = if half_acc { 2 } else { 4 };
        let mut m = Mma { k, a_ty, b_ty, half_acc, d: [NONE; 4], a: [NONE; 4], b: [NONE; 2], c: [NONE; 4] };
        self.fragment(0, true, acc_regs, &mut m.d)?;
        self.fragment(1, false, a_regs, &mut m.a)?;
        self.fragment(2, false, a_regs / 2, &mut m.b)?;
        self.fragment(3, false, acc_regs, &mut m.c)?;
        Ok(Kind::Mma(Box::new(m)))
    }

    fn fragment(&mut self, i: usize, dst: bool, n: usize, into: &mut [Slot]) -> Result<(), Error> {
        let arg = self.arg(i)?;
        let single = std::slice::from_ref(arg);
        let list = match arg {
            Operand::Vector(v) => v.as_slice(),
            _ => single,
        };
        if list.len() != n {
            return self.error(format!("{n} registers expected in operand {}", i + 1));
        }
        for (slot, item) in into.iter_mut().zip(list) {
            *slot = if dst { self.dst(item, 32)? } else { self.src(item, Ty::B32)? };
        }
        Ok(())
    }
}
