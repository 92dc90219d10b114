//! Lanes that talk to each other: shuffles, votes, matches, reductions.

use super::warp::pred;
use super::{Ctx, Stopped, Warp, each};
use crate::decode::inst::{Kind, NONE, ReduxOp, ShflMode, VoteMode};
use crate::regs::{LANES, Slot};

impl Ctx<'_> {
    /// Checks a member mask: every executing lane names the same lanes, itself among them, and all are here.
    fn members<const CHECK: bool>(&self, warp: &Warp, slot: Slot, mask: u32) -> Result<u32, Stopped> {
        let row = warp.regs.r32(slot);
        let member = row[mask.trailing_zeros() as usize];
        if CHECK && self.m.detect.absent_lanes {
            if each(mask).any(|l| row[l] != member) {
                // Groups with masks of their own may run together (as after match.sync): each must be complete.
                let mut left = mask;
                while left != 0 {
                    let own = row[left.trailing_zeros() as usize];
                    let group = each(mask).filter(|l| row[*l] == own).fold(0u32, |m, l| m | 1 << l);
                    if own != group {
                        return Err(self.absent(warp, own, group));
                    }
                    left &= !group;
                }
                return Ok(mask);
            }
            if member != mask {
                return Err(self.absent(warp, member, mask));
            }
        }
        Ok(member)
    }

    pub(super) fn lane_talk<const CHECK: bool>(
        &mut self,
        warp: &mut Warp,
        kind: &Kind,
        mask: u32,
    ) -> Result<(), Stopped> {
        match kind {
            Kind::Shfl { mode, d, p, a, b, c, mask: member } => {
                self.members::<CHECK>(warp, *member, mask)?;
                let r = &mut warp.regs;
                let (src, by, clamp) = (*r.r32(*a), *r.r32(*b), *r.r32(*c));
                let mut inside = 0u32;
                for l in each(mask) {
                    let (by, c) = (by[l] & 31, clamp[l]);
                    let (limit, seg) = (c & 31, c >> 8 & 31);
                    let max = (l as u32 & seg) | (limit & !seg);
                    let min = l as u32 & seg;
                    let (from, ok) = match mode {
                        ShflMode::Up => {
                            let j = l as i32 - by as i32;
                            (j, j >= max as i32)
                        }
                        ShflMode::Down => (l as i32 + by as i32, l as u32 + by <= max),
                        ShflMode::Bfly => ((l as u32 ^ by) as i32, (l as u32 ^ by) <= max),
                        ShflMode::Idx => {
                            let j = min | (by & !seg);
                            (j as i32, j <= max)
                        }
                    };
                    let from = if ok { from as usize & 31 } else { l };
                    inside |= (ok as u32) << l;
                    r.r32_mut(*d)[l] = src[from];
                }
                r.set_pred(*p, inside, mask);
            }
            Kind::Vote { mode, d, p, a, mask: member } => {
                self.members::<CHECK>(warp, *member, mask)?;
                // Groups with different masks vote apart.
                let row = *warp.regs.r32(*member);
                let votes = pred(&warp.regs, *a) & mask;
                let mut left = mask;
                while left != 0 {
                    let own = row[left.trailing_zeros() as usize];
                    let group = each(left).filter(|l| row[*l] == own).fold(0u32, |m, l| m | 1 << l);
                    left &= !group;
                    let yes = votes & group;
                    let result = match mode {
                        VoteMode::All => yes == group,
                        VoteMode::Any => yes != 0,
                        VoteMode::Uni => yes == 0 || yes == group,
                        VoteMode::Ballot => {
                            each(group).for_each(|l| warp.regs.r32_mut(*d)[l] = yes);
                            continue;
                        }
                    };
                    warp.regs.set_pred(*p, if result { u32::MAX } else { 0 }, group);
                }
            }
            Kind::Match { all, wide, d, p, a, mask: member } => {
                self.members::<CHECK>(warp, *member, mask)?;
                let r = &mut warp.regs;
                let v: [u64; LANES] = if *wide { *r.r64(*a) } else { r.r32(*a).map(u64::from) };
                let same = |l: usize| each(mask).filter(|o| v[*o] == v[l]).fold(0u32, |m, o| m | 1 << o);
                let uniform = same(mask.trailing_zeros() as usize) == mask;
                for l in each(mask) {
                    r.r32_mut(*d)[l] = if !all {
                        same(l)
                    } else if uniform {
                        mask
                    } else {
                        0
                    };
                }
                r.set_pred(*p, if uniform { u32::MAX } else { 0 }, mask);
            }
            Kind::Redux { op, signed, d, a, mask: member } => {
                self.members::<CHECK>(warp, *member, mask)?;
                let (rows, v) = (*warp.regs.r32(*member), *warp.regs.r32(*a));
                let mut left = mask;
                while left != 0 {
                    let own = rows[left.trailing_zeros() as usize];
                    let group = each(left).filter(|l| rows[*l] == own).fold(0u32, |m, l| m | 1 << l);
                    left &= !group;
                    let fold = |x: u32, y: u32| match (op, signed) {
                        (ReduxOp::Add, _) => x.wrapping_add(y),
                        (ReduxOp::Min, false) => x.min(y),
                        (ReduxOp::Max, false) => x.max(y),
                        (ReduxOp::Min, true) => (x as i32).min(y as i32) as u32,
                        (ReduxOp::Max, true) => (x as i32).max(y as i32) as u32,
                        (ReduxOp::And, _) => x & y,
                        (ReduxOp::Or, _) => x | y,
                        (ReduxOp::Xor, _) => x ^ y,
                    };
                    let total = each(group).map(|l| v[l]).reduce(fold).unwrap_or(0);
                    each(group).for_each(|l| warp.regs.r32_mut(*d)[l] = total);
                }
            }
            Kind::Elect { d, p, mask: member } => {
                let m = self.members::<CHECK>(warp, *member, mask)?;
                let leader = m.trailing_zeros();
                for l in each(mask) {
                    warp.regs.r32_mut(*d)[l] = leader;
                }
                warp.regs.set_pred(*p, 1u32.checked_shl(leader).unwrap_or(0), mask);
            }
            Kind::WarpSync { mask: member } => {
                self.members::<CHECK>(warp, *member, mask)?;
            }
            Kind::ActiveMask { d } => {
                let d = *d;
                if d != NONE {
                    each(mask).for_each(|l| warp.regs.r32_mut(d)[l] = mask);
                }
            }
            Kind::MovMatrix { d, a } => {
                self.whole_warp::<CHECK>(warp, mask)?;
                let row = *warp.regs.r32(*a);
                let matrix = std::array::from_fn(|r| std::array::from_fn(|c| row[4 * r + c]));
                *warp.regs.r32_mut(*d) = super::matrix::spread(&matrix, true);
            }
            // Everything else is handled in the instruction loop.
            _ => {}
        }
        Ok(())
    }
}
