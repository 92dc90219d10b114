//! From syntax tree to flat code: names become row numbers, variables addresses, mnemonics operations.

mod alu;
mod cfg;
mod control;
mod convert;
pub(crate) mod inst;
mod memory;

use crate::count::Class;
use crate::error::Error;
use crate::parse::ast::{Body, Entry, Operand, RegId, Space, Stmt, Ty, Var};
use crate::regs::Slot;
use inst::{Code, ConstRow, Inst, Kind, LaneMask, NONE, Param, Pred, Special};
use std::collections::HashMap;

/// Generic addresses of the windows; global memory lies above them.
pub(crate) const SHARED_WINDOW: u64 = 0x1_0000_0000;
pub(crate) const LOCAL_WINDOW: u64 = 0x2_0000_0000;
pub(crate) const PARAM_WINDOW: u64 = 0x3_0000_0000;
/// Size of each window.
pub(crate) const WINDOW: u64 = 0x1_0000_0000;

/// Rows that exec uses as scratch around `.ftz` and `.sat`.
pub(crate) const SCRATCH: Slot = 0;
const SCRATCH_ROWS: u32 = 4;

/// Where a name points.
#[derive(Clone, Copy)]
enum Place {
    /// Offset in its space: shared, local, param.
    At(Space, u64),
    /// Module variable by index.
    Module(u32),
}

pub(crate) struct Decoder<'a> {
    text: &'a str,
    body: &'a Body,
    places: HashMap<&'a str, Place>,
    rows_of: Vec<Slot>,
    preds: u32,
    rows: u32,
    consts: HashMap<ConstRow, Slot>,
    /// The statement at hand.
    stmt: &'a Stmt,
    pub(crate) class: Class,
}

fn round_up(v: u64, align: u64) -> u64 {
    v.div_ceil(align.max(1)) * align.max(1)
}

fn symbols<'a>(op: &'a Operand, out: &mut Vec<&'a str>) {
    match op {
        Operand::Sym(name, _) => out.push(name),
        Operand::Mem(base, _) => symbols(base, out),
        Operand::Vector(list) | Operand::List(list) => list.iter().for_each(|o| symbols(o, out)),
        _ => {}
    }
}

/// Decodes one kernel. `vars` are the module's variables.
pub(crate) fn kernel(text: &str, entry: &Entry, vars: &[Var]) -> Result<Code, Error> {
    let body = &entry.body;
    let too_big = |what: &str| Error::new(entry.line, format!("{}: {what} too large", entry.name));
    let mut places: HashMap<&str, Place> = HashMap::new();
    for (i, v) in vars.iter().enumerate() {
        if v.space != Space::Shared {
            places.insert(&v.name, Place::Module(i as u32));
        }
    }
    let mut used = Vec::new();
    body.stmts.iter().for_each(|s| s.args.iter().for_each(|a| symbols(a, &mut used)));
    used.sort_unstable();
    used.dedup();
    let module_shared =
        vars.iter().filter(|v| v.space == Space::Shared && used.binary_search(&v.name.as_str()).is_ok());
    let own_shared = body.vars.iter().filter(|v| v.space == Space::Shared);
    let (mut shared, mut dynamic_align, mut local) = (0u64, 0u64, 0u64);
    let mut dynamic = Vec::new();
    for v in module_shared.chain(own_shared) {
        if v.size == 0 {
            dynamic.push(v);
            dynamic_align = dynamic_align.max(v.align).max(16);
        } else {
            shared = round_up(shared, v.align);
            places.insert(&v.name, Place::At(Space::Shared, shared));
            shared += v.size;
        }
    }
    if !dynamic.is_empty() {
        shared = round_up(shared, dynamic_align);
    }
    for v in dynamic {
        places.insert(&v.name, Place::At(Space::Shared, shared));
    }
    for v in body.vars.iter().filter(|v| v.space == Space::Local) {
        local = round_up(local, v.align);
        places.insert(&v.name, Place::At(Space::Local, local));
        local += v.size;
    }
    let mut params = Vec::new();
    let mut end = 0u64;
    for p in &entry.params {
        end = round_up(end, p.align);
        places.insert(&p.name, Place::At(Space::Param, end));
        params.push(Param { offset: end as u32, size: p.size as u32, align: p.align as u32 });
        end += p.size;
    }
    if shared > 1 << 20 || local > 1 << 20 || end > 1 << 16 {
        return Err(too_big("shared, local or parameter memory"));
    }
    let nothing = Stmt { line: entry.line, text: (0, 0), loc: None, guard: None, op: vec![], args: vec![], scope: 0 };
    let mut d = Decoder {
        text,
        body,
        places,
        rows_of: vec![NONE; body.regs.len()],
        preds: 1,
        rows: SCRATCH_ROWS,
        consts: HashMap::new(),
        stmt: body.stmts.first().unwrap_or(&nothing),
        class: Class::Integer,
    };
    let mut insts = Vec::with_capacity(body.stmts.len() + 1);
    for stmt in &body.stmts {
        d.stmt = stmt;
        d.class = Class::Integer;
        let guard = match stmt.guard {
            None => Pred::TRUE,
            Some((reg, not)) => Pred { not, ..d.pred_reg(reg)? },
        };
        let kind = d.instruction()?;
        insts.push(Inst {
            kind,
            guard,
            class: d.class,
            line: stmt.line,
            loc: stmt.loc.unwrap_or(u32::MAX),
            text: (stmt.text.0 as u32, stmt.text.1 as u32),
        });
    }
    // Running off the end is an exit.
    let line = body.stmts.last().map_or(entry.line, |s| s.line);
    insts.push(Inst { kind: Kind::Exit, guard: Pred::TRUE, class: Class::Branch, line, loc: u32::MAX, text: (0, 0) });
    cfg::join_points(&mut insts);
    let consts = d.consts.iter().map(|(k, s)| (*s, *k)).collect();
    Ok(Code {
        name: entry.name.clone(),
        insts,
        rows: d.rows,
        preds: d.preds,
        consts,
        params,
        param_bytes: end as u32,
        static_shared: shared as u32,
        local_bytes: round_up(local, 16) as u32,
        max_threads: entry.max_threads,
        required_threads: entry.required_threads,
        min_blocks: entry.min_blocks,
        locs: body.locs.clone(),
    })
}

impl<'a> Decoder<'a> {
    fn error<T>(&self, what: impl AsRef<str>) -> Result<T, Error> {
        let (a, b) = self.stmt.text;
        let text = self.text.get(a..b).unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ");
        Err(Error::new(self.stmt.line, format!("{}: {text}", what.as_ref())))
    }

    fn arg(&self, i: usize) -> Result<&'a Operand, Error> {
        match self.stmt.args.get(i) {
            Some(a) => Ok(a),
            None => self.error("missing operand"),
        }
    }

    /// Words after the first, minus the type at the end.
    fn mods(&self) -> &'a [String] {
        let op: &'a [String] = &self.stmt.op;
        &op[1..op.len().saturating_sub(1).max(1)]
    }

    fn has(&self, word: &str) -> bool {
        self.stmt.op.iter().any(|w| w == word)
    }

    /// The type at the end of the opcode.
    fn ty(&self) -> Result<Ty, Error> {
        match self.stmt.op.last().and_then(|w| Ty::parse(w)) {
            Some(t) => Ok(t),
            None => self.error("unknown type"),
        }
    }

    fn reg_bits(&self, reg: RegId) -> u32 {
        self.body.regs[reg as usize].bits().max(16)
    }

    fn row(&mut self, reg: RegId) -> Slot {
        let slot = self.rows_of[reg as usize];
        if slot != NONE {
            return slot;
        }
        let slot = self.new_rows(self.reg_bits(reg) == 64);
        self.rows_of[reg as usize] = slot;
        slot
    }

    fn new_rows(&mut self, wide: bool) -> Slot {
        if wide {
            self.rows = self.rows.next_multiple_of(2);
        }
        let slot = self.rows;
        self.rows += 1 + wide as u32;
        slot
    }

    fn constant(&mut self, c: ConstRow) -> Slot {
        if let Some(s) = self.consts.get(&c) {
            return *s;
        }
        let slot = self.new_rows(matches!(c, ConstRow::Imm64(_) | ConstRow::Var(..)));
        self.consts.insert(c, slot);
        slot
    }

    fn imm(&mut self, value: u64, bits: u32) -> Slot {
        match bits {
            64 => self.constant(ConstRow::Imm64(value)),
            16 => self.constant(ConstRow::Imm32(value as u16 as u32)),
            _ => self.constant(ConstRow::Imm32(value as u32)),
        }
    }

    fn pred_reg(&mut self, reg: RegId) -> Result<Pred, Error> {
        if self.body.regs[reg as usize] != Ty::Pred {
            return self.error("a predicate is expected");
        }
        if self.rows_of[reg as usize] == NONE {
            if self.preds >= u16::MAX as u32 {
                return self.error("too many predicates");
            }
            self.rows_of[reg as usize] = self.preds;
            self.preds += 1;
        }
        Ok(Pred { at: self.rows_of[reg as usize] as u16, not: false })
    }

    /// A predicate operand; integers 0 and 1 are constants.
    fn pred(&mut self, op: &Operand) -> Result<Pred, Error> {
        match op {
            Operand::Reg(r) => self.pred_reg(*r),
            Operand::Not(inner) => {
                let p = self.pred(inner)?;
                Ok(Pred { not: !p.not, ..p })
            }
            Operand::Int(v) => Ok(Pred { at: 0, not: *v == 0 }),
            _ => self.error("a predicate is expected"),
        }
    }

    /// A predicate destination; predicate 0 (constant true) never is one, so it stands for `_`.
    fn pred_dst(&mut self, op: &Operand) -> Result<u16, Error> {
        match op {
            Operand::Reg(r) => Ok(self.pred_reg(*r)?.at),
            Operand::Sink => Ok(0),
            _ => self.error("a predicate register is expected"),
        }
    }

    /// A source of `bits` (16, 32, 64) as a row; `ty` says how to read literals.
    fn src(&mut self, op: &Operand, ty: Ty) -> Result<Slot, Error> {
        let bits = ty.bits().max(16);
        match op {
            Operand::Reg(r) => {
                if self.body.regs[*r as usize] == Ty::Pred {
                    return self.error("a predicate where a number is expected");
                }
                let have = self.reg_bits(*r);
                if (have == 64) != (bits == 64) {
                    return self.error(format!("a {have}-bit register where {bits} bits are expected"));
                }
                Ok(self.row(*r))
            }
            Operand::Int(v) => {
                let v = match ty {
                    Ty::F32 => (*v as i64 as f32).to_bits() as u64,
                    Ty::F64 => (*v as i64 as f64).to_bits(),
                    _ => *v,
                };
                Ok(self.imm(v, bits))
            }
            Operand::F32(v) => {
                let v = if ty == Ty::F64 { (f32::from_bits(*v) as f64).to_bits() } else { *v as u64 };
                Ok(self.imm(v, bits))
            }
            Operand::F64(v) => {
                let v = if bits == 32 { (f64::from_bits(*v) as f32).to_bits() as u64 } else { *v };
                Ok(self.imm(v, bits))
            }
            Operand::Special(name) => self.special(name, bits),
            Operand::Sym(name, off) => self.address(name, *off, bits),
            _ => self.error("a register or a number is expected"),
        }
    }

    fn src_at(&mut self, i: usize, ty: Ty) -> Result<Slot, Error> {
        let a = self.arg(i)?;
        self.src(a, ty)
    }

    /// A destination of `bits`.
    fn dst(&mut self, op: &Operand, bits: u32) -> Result<Slot, Error> {
        match op {
            Operand::Reg(r) if self.body.regs[*r as usize] != Ty::Pred => {
                let have = self.reg_bits(*r);
                if (have == 64) != (bits == 64) {
                    return self.error(format!("a {have}-bit register where {bits} bits are expected"));
                }
                Ok(self.row(*r))
            }
            // Thrown away, but the operation needs a place to write to.
            Operand::Sink => Ok(self.new_rows(bits == 64)),
            _ => self.error("a register is expected as destination"),
        }
    }

    fn dst_at(&mut self, i: usize, bits: u32) -> Result<Slot, Error> {
        let a = self.arg(i)?;
        self.dst(a, bits)
    }

    fn special(&mut self, name: &str, bits: u32) -> Result<Slot, Error> {
        let axis = |s: &str| match s {
            "x" => Some(0),
            "y" => Some(1),
            "z" => Some(2),
            _ => None,
        };
        let plain = match name {
            "%laneid" => Some(Special::Lane),
            "%warpid" => Some(Special::Warp),
            "%nwarpid" => Some(Special::Nwarp),
            "%lanemask_eq" => Some(Special::LaneMask(LaneMask::Eq)),
            "%lanemask_lt" => Some(Special::LaneMask(LaneMask::Lt)),
            "%lanemask_le" => Some(Special::LaneMask(LaneMask::Le)),
            "%lanemask_gt" => Some(Special::LaneMask(LaneMask::Gt)),
            "%lanemask_ge" => Some(Special::LaneMask(LaneMask::Ge)),
            "%dynamic_smem_size" => Some(Special::DynamicShared),
            "%total_smem_size" => Some(Special::TotalShared),
            "%smid" | "%gridid" => Some(Special::Zero),
            "WARP_SZ" => return Ok(self.imm(32, bits)),
            "%nsmid" => return Ok(self.imm(1, bits)),
            _ => name.rsplit_once('.').and_then(|(reg, a)| {
                let a = axis(a)?;
                Some(match reg {
                    "%tid" => Special::Tid(a),
                    "%ntid" => Special::Ntid(a),
                    "%ctaid" => Special::Ctaid(a),
                    "%nctaid" => Special::Nctaid(a),
                    _ => return None,
                })
            }),
        };
        match plain {
            Some(s) if bits <= 32 => Ok(self.constant(ConstRow::Special(s))),
            _ => self.error(format!("unknown special register or name {name}")),
        }
    }

    fn place(&self, name: &str) -> Result<Place, Error> {
        match self.places.get(name) {
            Some(p) => Ok(*p),
            None => self.error(format!("unknown name {name}")),
        }
    }

    /// The address of a variable, in its own space, as a row.
    fn address(&mut self, name: &str, off: i64, bits: u32) -> Result<Slot, Error> {
        match self.place(name)? {
            Place::At(_, at) => Ok(self.imm(at.wrapping_add(off as u64), bits)),
            Place::Module(i) if bits == 64 => Ok(self.constant(ConstRow::Var(i, off))),
            Place::Module(_) => self.error("a module variable's address has 64 bits"),
        }
    }

    fn instruction(&mut self) -> Result<Kind, Error> {
        if let Some(kind) = self.alu()? {
            return Ok(kind);
        }
        if let Some(kind) = self.memory()? {
            return Ok(kind);
        }
        if let Some(kind) = self.control()? {
            return Ok(kind);
        }
        self.error("unknown or unsupported instruction")
    }
}
