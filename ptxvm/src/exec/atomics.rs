//! `atom` and `red`.

use super::mem::{addresses, by_space, read_le, write_le};
use super::{Ctx, Stopped, Warp, each};
use crate::decode::inst::{Access, AtomOp, NONE};
use crate::detect::global::Touch;
use crate::error::FaultKind;
use crate::float::{self, Round};
use crate::parse::ast::{Space, Ty};
use crate::regs::Slot;

fn apply(op: AtomOp, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    let wide = ty.bits() == 64;
    let signed = |v: u64| if wide { v as i64 } else { v as u32 as i32 as i64 };
    let pair = |f: fn(u16, u16) -> u16| {
        (f((old >> 16) as u16, (b >> 16) as u16) as u64) << 16 | f(old as u16, b as u16) as u64
    };
    let add_half = |x: u16, y: u16| {
        let (s, e) = float::two_sum(float::f16_to_f32(x) as f64, float::f16_to_f32(y) as f64);
        float::to_f16(s, e, Round::Near)
    };
    let add_bf = |x: u16, y: u16| {
        let (s, e) = float::two_sum(float::bf16_to_f32(x) as f64, float::bf16_to_f32(y) as f64);
        float::to_bf16(s, e, Round::Near)
    };
    match (op, ty) {
        (AtomOp::Add, Ty::F32) => (f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits() as u64,
        (AtomOp::Add, Ty::F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (AtomOp::Add, Ty::F16) => add_half(old as u16, b as u16) as u64,
        (AtomOp::Add, Ty::Bf16) => add_bf(old as u16, b as u16) as u64,
        (AtomOp::Add, Ty::F16x2) => pair(add_half),
        (AtomOp::Add, Ty::Bf16x2) => pair(add_bf),
        (AtomOp::Add, _) => old.wrapping_add(b),
        (AtomOp::Min, t) if t.signed() => signed(old).min(signed(b)) as u64,
        (AtomOp::Max, t) if t.signed() => signed(old).max(signed(b)) as u64,
        (AtomOp::Min, _) => old.min(b),
        (AtomOp::Max, _) => old.max(b),
        (AtomOp::And, _) => old & b,
        (AtomOp::Or, _) => old | b,
        (AtomOp::Xor, _) => old ^ b,
        (AtomOp::Exch, _) => b,
        (AtomOp::Cas, _) => {
            if old == b {
                c
            } else {
                old
            }
        }
        (AtomOp::Inc, _) => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        (AtomOp::Dec, _) => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}

impl Ctx<'_> {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn atomic<const CHECK: bool>(
        &mut self,
        warp: &mut Warp,
        op: AtomOp,
        ty: Ty,
        acc: &Access,
        d: Slot,
        b: Slot,
        c: Slot,
        mask: u32,
    ) -> Result<(), Stopped> {
        let addr = addresses(&warp.regs, acc);
        let wide = acc.size == 8;
        let low = u64::MAX >> (64 - 8 * acc.size);
        by_space(acc, addr, mask, |space, addr, mask| {
            // Atomics must be aligned for the host as well.
            let to = acc.size as u64;
            if let Some(l) = each(mask).find(|l| !addr[*l].is_multiple_of(to)) {
                let what = format!("the address is no multiple of {to}");
                return Err(self.fault(warp, FaultKind::Misaligned, Some(l as u32), Some(addr[l]), what));
            }
            for l in each(mask) {
                let get = |s: Slot| match (s, wide) {
                    (NONE, _) => 0,
                    (s, true) => warp.regs.r64(s)[l],
                    (s, false) => warp.regs.r32(s)[l] as u64 & low,
                };
                let (vb, vc) = (get(b), get(c));
                let old = match space {
                    Space::Global => {
                        self.count.global_atomics += 1;
                        match self.global::<CHECK>(warp, l, addr[l], acc.size, Touch::Atomic, false)? {
                            Some((i, off)) => {
                                self.m.global.allocs[i].update(off, acc.size, |old| apply(op, ty, old, vb, vc))
                            }
                            None => 0,
                        }
                    }
                    Space::Shared => match self.shared_at(warp, l, addr[l], acc.size)? {
                        Some(at) => {
                            if CHECK && let Some(s) = &mut self.shadow {
                                let first =
                                    if op == AtomOp::Exch { Ok(()) } else { s.atomic_read(at, acc.size as usize) };
                                if let Err(p) = first.and_then(|()| s.write(warp.id, at, acc.size as usize, true)) {
                                    return Err(self.shared_problem(warp, l, p, true));
                                }
                            }
                            let old = read_le(&self.shared[at..], acc.size);
                            write_le(&mut self.shared[at..], acc.size, apply(op, ty, old, vb, vc));
                            old
                        }
                        None => 0,
                    },
                    _ => {
                        let what = "an atomic operation on memory that is neither global nor shared";
                        return Err(self.fault(warp, FaultKind::OutOfBounds, Some(l as u32), Some(addr[l]), what));
                    }
                };
                if d != NONE {
                    if wide {
                        warp.regs.r64_mut(d)[l] = old;
                    } else {
                        warp.regs.r32_mut(d)[l] = old as u32;
                    }
                }
            }
            Ok(())
        })
    }
}
