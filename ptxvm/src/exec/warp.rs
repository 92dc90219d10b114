//! The instruction loop of one warp, and how its lanes part and meet.
//!
//! A warp has a current path (program counter, lanes, and the place where the path ends) and a stack of paths that
//! wait. A branch that splits the lanes leaves on the stack the meeting point with all of them and the path not taken
//! yet, and goes on with the other; a path that reaches its end is dropped and the top of the stack continues.

use super::block::Arrival;
use super::{Ctx, Level, Stopped, Warp, alu, cmp, cvt};
use crate::decode::SCRATCH;
use crate::decode::inst::{BarOp, CarryOp, END, Inst, Kind, Logic, Mods, NONE, Pred};
use crate::error::FaultKind;
use crate::float;
use crate::regs::{LANES, Regs, Slot};

/// Why the loop returned.
pub(crate) enum Stop {
    Quantum,
    Barrier(Arrival),
    Done,
}

#[inline(always)]
pub(super) fn pred(r: &Regs, p: Pred) -> u32 {
    r.preds[p.at as usize] ^ if p.not { u32::MAX } else { 0 }
}

impl Warp {
    /// Drops the current path and takes the next one that has live lanes; false: none is left.
    fn pop(&mut self) -> bool {
        while let Some(level) = self.stack.pop() {
            let mask = level.mask & self.live;
            if mask != 0 {
                (self.pc, self.join, self.active) = (level.pc, level.join, mask);
                return true;
            }
        }
        self.active = 0;
        false
    }

    /// Splits the current lanes over several targets that meet at `join`.
    fn split(&mut self, parts: &[(u32, u32)], join: u32) {
        let join = if join == END { self.join } else { join };
        if join != self.join {
            self.stack.push(Level { pc: join, join: self.join, mask: self.active });
        }
        // Lanes that jump to the meeting point itself are there already; if it is this path's own end, they are
        // among the lanes of the level below.
        for &(pc, mask) in parts.iter().filter(|(pc, _)| *pc != join) {
            self.stack.push(Level { pc, join, mask });
        }
        self.pop();
    }
}

impl Ctx<'_> {
    /// Runs at most `quantum` instructions.
    pub fn run<const CHECK: bool>(&mut self, warp: &mut Warp, mut quantum: u32) -> Result<Stop, Stopped> {
        let m = self.m;
        let insts = m.code.insts.as_slice();
        let fast = m.fast;
        loop {
            while warp.pc == warp.join {
                if !warp.pop() {
                    return Ok(Stop::Done);
                }
            }
            if quantum == 0 {
                return Ok(Stop::Quantum);
            }
            quantum -= 1;
            let inst: &Inst = &insts[warp.pc as usize];
            let mask = warp.active & pred(&warp.regs, inst.guard);
            warp.issued += 1;
            self.clock += 1;
            self.count.issued[inst.class as usize] += 1;
            self.count.lanes += mask.count_ones() as u64;
            match &inst.kind {
                Kind::Bra { target, join } => {
                    if mask == warp.active {
                        warp.pc = *target;
                    } else if mask == 0 {
                        warp.pc += 1;
                    } else {
                        self.count.divergent_branches += 1;
                        let mut parts = [(*target, mask), (warp.pc + 1, warp.active & !mask)];
                        if self.rng.next() & 1 == 1 {
                            parts.swap(0, 1);
                        }
                        warp.split(&parts, *join);
                    }
                    continue;
                }
                Kind::Exit => {
                    if CHECK && m.detect.async_copies && mask & warp.copies.in_flight() != 0 {
                        let lane = (mask & warp.copies.in_flight()).trailing_zeros();
                        let what = "the thread ends with cp.async copies in flight";
                        return Err(self.fault(warp, FaultKind::AsyncAtExit, Some(lane), None, what));
                    }
                    warp.live &= !mask;
                    warp.active &= !mask;
                    warp.pc += 1;
                    if warp.active == 0 && !warp.pop() {
                        return Ok(Stop::Done);
                    }
                    continue;
                }
                _ if mask == 0 => {}
                Kind::Alu { op, d, a, b, c, imm } => alu::run(fast, *op, &mut warp.regs, *d, *a, *b, *c, *imm, mask),
                Kind::Setp { cmp, ty, ftz, p, q, a, b, logic, c } => {
                    let r = &mut warp.regs;
                    let yes = cmp::compare(fast, r, *cmp, *ty, *ftz, *a, *b);
                    let other = pred(r, *c);
                    r.set_pred(*p, combine(*logic, yes, other), mask);
                    r.set_pred(*q, combine(*logic, !yes, other), mask);
                }
                Kind::Ld(acc) => self.load::<CHECK>(warp, acc, mask)?,
                Kind::St(acc) => self.store::<CHECK>(warp, acc, mask)?,
                Kind::LdParam(acc) => self.load_param(warp, acc, mask)?,
                Kind::Mma(mma) => {
                    self.whole_warp::<CHECK>(warp, mask)?;
                    self.count.mma += 1;
                    super::mma::run(fast, &mut warp.regs, mma);
                }
                Kind::LdMatrix { acc, trans } => self.load_matrix::<CHECK>(warp, acc, *trans, mask)?,
                Kind::StMatrix { acc, trans } => self.store_matrix::<CHECK>(warp, acc, *trans, mask)?,
                Kind::Bar { op, id, count, p } => {
                    let arrival = self.barrier::<CHECK>(warp, *op, *id, *count, *p, mask)?;
                    warp.pc += 1;
                    return Ok(Stop::Barrier(arrival));
                }
                Kind::Brx { index, targets, join } => {
                    let row = *warp.regs.r32(*index);
                    let mut parts: Vec<(u32, u32)> = Vec::new();
                    let mut left = mask;
                    while left != 0 {
                        let i = row[left.trailing_zeros() as usize];
                        let Some(target) = targets.get(i as usize) else {
                            let lane = left.trailing_zeros();
                            let what = format!("brx.idx with index {i} of {} targets", targets.len());
                            return Err(self.fault(warp, FaultKind::OutOfBounds, Some(lane), None, what));
                        };
                        let same = super::each(left).filter(|l| row[*l] == i).fold(0u32, |m, l| m | 1 << l);
                        parts.push((*target, same));
                        left &= !same;
                    }
                    if mask != warp.active {
                        parts.push((warp.pc + 1, warp.active & !mask));
                    }
                    if let [(target, _)] = parts[..] {
                        warp.pc = target;
                    } else {
                        self.count.divergent_branches += 1;
                        warp.split(&parts, *join);
                    }
                    continue;
                }
                Kind::Trap => {
                    let lane = mask.trailing_zeros();
                    return Err(self.fault(warp, FaultKind::Trap, Some(lane), None, "trap"));
                }
                other => self.rare::<CHECK>(warp, other, mask)?,
            }
            warp.pc += 1;
        }
    }

    /// The instructions that do not deserve a place in the loop above.
    #[inline(never)]
    fn rare<const CHECK: bool>(&mut self, warp: &mut Warp, kind: &Kind, mask: u32) -> Result<(), Stopped> {
        let fast = self.m.fast;
        let r = &mut warp.regs;
        match kind {
            Kind::AluMod { op, d, a, b, c, imm, mods } => {
                for (i, s) in [*a, *b, *c].into_iter().enumerate().filter(|(_, s)| *s != NONE) {
                    let mut row = *r.r32(s);
                    if mods.ftz {
                        row.iter_mut().for_each(|v| *v = float::ftz(*v));
                    }
                    *r.r32_mut(SCRATCH + i as Slot) = row;
                }
                let out = SCRATCH + 3;
                alu::run(fast, *op, r, out, SCRATCH, SCRATCH + 1, SCRATCH + 2, *imm, u32::MAX);
                let row = *r.r32(out);
                for l in super::each(mask) {
                    r.r32_mut(*d)[l] = modified(row[l], *mods);
                }
            }
            Kind::Carry { op, wide, cin, cout, d, a, b, c } => {
                carry(r, *op, *wide, *cin, *cout, [*d, *a, *b, *c], mask)
            }
            Kind::Bfi { wide, d, a, b, pos, len } => {
                for l in super::each(mask) {
                    let (p, n) = (r.r32(*pos)[l], r.r32(*len)[l]);
                    if *wide {
                        r.r64_mut(*d)[l] = alu::bfi(r.r64(*a)[l], r.r64(*b)[l], p, n, 64);
                    } else {
                        r.r32_mut(*d)[l] = alu::bfi(r.r32(*a)[l] as u64, r.r32(*b)[l] as u64, p, n, 32) as u32;
                    }
                }
            }
            Kind::Testp { what, wide, p, a } => {
                let yes = cmp::testp(r, *what, *wide, *a);
                r.set_pred(*p, yes, mask);
            }
            Kind::Cvt { spec, d, a } => cvt::run(r, spec, *d, *a, mask),
            Kind::Set { cmp, ty, ftz, float, d, a, b, logic, c } => {
                let yes = cmp::compare(fast, r, *cmp, *ty, *ftz, *a, *b);
                let yes = combine(*logic, yes, pred(r, *c));
                let one = if *float { 1f32.to_bits() } else { u32::MAX };
                for l in super::each(mask) {
                    r.r32_mut(*d)[l] = if yes >> l & 1 == 1 { one } else { 0 };
                }
            }
            Kind::Selp { wide, d, a, b, p } => {
                let p = pred(r, *p);
                if *wide {
                    let (x, y) = (*r.r64(*a), *r.r64(*b));
                    let d = r.r64_mut(*d);
                    for l in 0..LANES {
                        let v = if p >> l & 1 == 1 { x[l] } else { y[l] };
                        d[l] = if mask >> l & 1 == 1 { v } else { d[l] };
                    }
                } else {
                    let (x, y) = (*r.r32(*a), *r.r32(*b));
                    let d = r.r32_mut(*d);
                    for l in 0..LANES {
                        let v = if p >> l & 1 == 1 { x[l] } else { y[l] };
                        d[l] = if mask >> l & 1 == 1 { v } else { d[l] };
                    }
                }
            }
            Kind::Pred { op, d, a, b } => {
                let v = combine(*op, pred(r, *a), pred(r, *b));
                r.set_pred(*d, v, mask);
            }
            Kind::Pack { d, wide, parts, bits } => {
                let mut out = [0u64; LANES];
                for (i, s) in parts.iter().enumerate() {
                    let row = r.r32(*s);
                    for l in 0..LANES {
                        let v = row[l] as u64 & (u64::MAX >> (64 - bits));
                        out[l] |= v << (bits * i as u32);
                    }
                }
                for l in super::each(mask) {
                    if *wide {
                        r.r64_mut(*d)[l] = out[l];
                    } else {
                        r.r32_mut(*d)[l] = out[l] as u32;
                    }
                }
            }
            Kind::Unpack { a, wide, parts, bits } => {
                let whole: [u64; LANES] = if *wide { *r.r64(*a) } else { r.r32(*a).map(u64::from) };
                for (i, s) in parts.iter().enumerate().filter(|(_, s)| **s != NONE) {
                    for l in super::each(mask) {
                        r.r32_mut(*s)[l] = (whole[l] >> (bits * i as u32) & (u64::MAX >> (64 - bits))) as u32;
                    }
                }
            }
            Kind::Cvta { d, a, add } => {
                let from = *r.r64(*a);
                for l in super::each(mask) {
                    r.r64_mut(*d)[l] = from[l].wrapping_add(*add);
                }
            }
            Kind::IsSpace { p, a, space } => {
                let yes = super::each(mask)
                    .filter(|l| super::mem::space_of(r.r64(*a)[*l]) == *space)
                    .fold(0, |m, l| m | 1 << l);
                r.set_pred(*p, yes, mask);
            }
            Kind::Clock { d, wide } => {
                for l in super::each(mask) {
                    if *wide {
                        r.r64_mut(*d)[l] = self.clock;
                    } else {
                        r.r32_mut(*d)[l] = self.clock as u32;
                    }
                }
            }
            Kind::Atom { op, ty, acc, d, b, c } => self.atomic::<CHECK>(warp, *op, *ty, acc, *d, *b, *c, mask)?,
            Kind::CpAsync { dst, src, size, src_size, ignore } => {
                self.copy_async::<CHECK>(warp, dst, src, *size, *src_size, *ignore, mask)?;
            }
            Kind::CpCommit => warp.copies.commit(mask),
            Kind::CpWait(n) => self.copy_wait::<CHECK>(warp, Some(*n), mask),
            Kind::CpWaitAll => self.copy_wait::<CHECK>(warp, None, mask),
            Kind::Nop => {}
            other => self.lane_talk::<CHECK>(warp, other, mask)?,
        }
        Ok(())
    }

    /// `.aligned` instructions need all 32 lanes.
    #[inline(always)]
    pub(super) fn whole_warp<const CHECK: bool>(&self, warp: &Warp, mask: u32) -> Result<(), Stopped> {
        if CHECK && mask != u32::MAX && self.m.detect.absent_lanes {
            return Err(self.absent(warp, u32::MAX, mask));
        }
        Ok(())
    }

    #[cold]
    pub(super) fn absent(&self, warp: &Warp, member: u32, mask: u32) -> Stopped {
        let missing = member & !mask;
        let (lane, what) = if missing != 0 {
            (missing.trailing_zeros(), format!("lanes {missing:#010x} are named in the member mask but absent"))
        } else {
            let extra = mask & !member;
            (extra.trailing_zeros(), format!("lanes {extra:#010x} execute it but are not in its member mask"))
        };
        self.fault(warp, FaultKind::AbsentLanes, Some(lane), None, what)
    }

    fn barrier<const CHECK: bool>(
        &self,
        warp: &Warp,
        op: BarOp,
        id: Slot,
        count: Slot,
        p: Pred,
        mask: u32,
    ) -> Result<Arrival, Stopped> {
        let first = mask.trailing_zeros() as usize;
        let id = warp.regs.r32(id)[first];
        if id > 15 {
            let what = format!("barrier {id} does not exist");
            return Err(self.fault(warp, FaultKind::BarrierDivergence, Some(first as u32), None, what));
        }
        if CHECK && self.m.detect.barrier_divergence && mask != warp.exists {
            let missing = warp.exists & !mask;
            let gone = missing & !warp.live;
            let what = format!("lanes {missing:#010x} of the warp do not reach the barrier ({gone:#010x} have exited)");
            return Err(self.fault(warp, FaultKind::BarrierDivergence, Some(missing.trailing_zeros()), None, what));
        }
        let count = if count == NONE { None } else { Some(warp.regs.r32(count)[first]) };
        if count.is_some_and(|c| c == 0 || c % 32 != 0) {
            let what = format!("a barrier for {} threads", count.unwrap_or(0));
            return Err(self.fault(warp, FaultKind::BarrierDivergence, Some(first as u32), None, what));
        }
        let votes = pred(&warp.regs, p) & mask;
        Ok(Arrival { id: id as u8, count, op, votes, lanes: mask })
    }
}

#[inline(always)]
fn combine(op: Logic, a: u32, b: u32) -> u32 {
    match op {
        Logic::First => a,
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
        Logic::Not => !a,
    }
}

fn modified(bits: u32, mods: Mods) -> u32 {
    let bits = if mods.ftz { float::ftz(bits) } else { bits };
    if !mods.sat {
        return bits;
    }
    let v = f32::from_bits(bits);
    // A NaN saturates to zero.
    if v >= 1.0 {
        1f32.to_bits()
    } else if v > 0.0 {
        bits
    } else {
        0
    }
}

fn carry(r: &mut Regs, op: CarryOp, wide: bool, cin: bool, cout: bool, rows: [Slot; 4], mask: u32) {
    let [d, a, b, c] = rows;
    let bits = if wide { 64 } else { 32 };
    let get = |r: &Regs, s: Slot, l: usize| if wide { r.r64(s)[l] } else { r.r32(s)[l] as u64 };
    for l in super::each(mask) {
        let flag = (cin && r.carry >> l & 1 == 1) as u128;
        let (x, y, z) = (get(r, a, l), get(r, b, l), get(r, c, l));
        let product = match op {
            CarryOp::MadHiS if wide => ((x as i64 as i128 * y as i64 as i128) as u128) >> 64,
            CarryOp::MadHiS => ((x as u32 as i32 as i64 * y as u32 as i32 as i64) as u64 >> 32) as u128,
            CarryOp::MadHiU => (x as u128 * y as u128) >> bits,
            _ => (x as u128 * y as u128) & ((1 << bits) - 1),
        };
        let sum = match op {
            CarryOp::Add => x as u128 + y as u128 + flag,
            // The flag is a borrow here: a + !b + !borrow.
            CarryOp::Sub => (x as u128).wrapping_sub(y as u128).wrapping_sub(flag),
            _ => product + z as u128 + flag,
        };
        if cout {
            let out = (sum >> bits & 1) as u32;
            r.carry = r.carry & !(1 << l) | out << l;
        }
        if wide {
            r.r64_mut(d)[l] = sum as u64;
        } else {
            r.r32_mut(d)[l] = sum as u32;
        }
    }
}
