//! Loads and stores.

use super::{Ctx, Stopped, Warp, each};
use crate::count;
use crate::decode::inst::{Access, NONE};
use crate::decode::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW};
use crate::detect::global::{MAX_BLOCKS, Touch};
use crate::detect::shared::Problem;
use crate::error::FaultKind;
use crate::parse::ast::Space;
use crate::regs::{LANES, Regs, Slot};

/// The space that a generic address belongs to.
pub(super) fn space_of(addr: u64) -> Space {
    match addr {
        SHARED_WINDOW..LOCAL_WINDOW => Space::Shared,
        LOCAL_WINDOW..PARAM_WINDOW => Space::Local,
        a if (PARAM_WINDOW..PARAM_WINDOW + WINDOW).contains(&a) => Space::Param,
        _ => Space::Global,
    }
}

#[inline(always)]
pub(super) fn addresses(r: &Regs, acc: &Access) -> [u64; LANES] {
    let mut out = [0; LANES];
    if acc.base32 {
        let row = r.r32(acc.base);
        for l in 0..LANES {
            out[l] = (row[l] as u64).wrapping_add(acc.offset as u64) & 0xffff_ffff;
        }
    } else {
        let row = r.r64(acc.base);
        for l in 0..LANES {
            out[l] = row[l].wrapping_add(acc.offset as u64);
        }
    }
    out
}

/// Splits generic accesses by space, taking off the window's base; calls `f` for each space in use.
#[inline(always)]
pub(super) fn by_space<E>(
    acc: &Access,
    mut addr: [u64; LANES],
    mask: u32,
    mut f: impl FnMut(Space, &[u64; LANES], u32) -> Result<(), E>,
) -> Result<(), E> {
    if acc.space != Space::Generic {
        return f(acc.space, &addr, mask);
    }
    let mut left = mask;
    while left != 0 {
        let space = space_of(addr[left.trailing_zeros() as usize]);
        let same = each(left).filter(|l| space_of(addr[*l]) == space).fold(0u32, |m, l| m | 1 << l);
        let base = match space {
            Space::Shared => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            Space::Param => PARAM_WINDOW,
            _ => 0,
        };
        each(same).for_each(|l| addr[l] -= base);
        f(space, &addr, same)?;
        left &= !same;
    }
    Ok(())
}

#[inline(always)]
fn extend(v: u64, size: u32, signed: bool) -> u64 {
    if !signed {
        return v;
    }
    let shift = 64 - 8 * size;
    ((v << shift) as i64 >> shift) as u64
}

#[inline(always)]
fn put(r: &mut Regs, slot: Slot, width: u32, lane: usize, v: u64) {
    match width {
        64 => r.r64_mut(slot)[lane] = v,
        16 => r.r32_mut(slot)[lane] = v as u16 as u32,
        _ => r.r32_mut(slot)[lane] = v as u32,
    }
}

#[inline(always)]
fn get(r: &Regs, slot: Slot, width: u32, lane: usize) -> u64 {
    if width == 64 { r.r64(slot)[lane] } else { r.r32(slot)[lane] as u64 }
}

/// Little-endian bytes of host memory as a number.
#[inline(always)]
pub(super) fn read_le(bytes: &[u8], size: u32) -> u64 {
    match size {
        1 => bytes[0] as u64,
        2 => u16::from_le_bytes([bytes[0], bytes[1]]) as u64,
        4 => u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as u64,
        _ => u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]),
    }
}

#[inline(always)]
pub(super) fn write_le(bytes: &mut [u8], size: u32, v: u64) {
    bytes[..size as usize].copy_from_slice(&v.to_le_bytes()[..size as usize]);
}

impl Ctx<'_> {
    #[cold]
    fn out_of_bounds(&self, warp: &Warp, lane: usize, addr: u64, len: u32, space: Space) -> Stopped {
        let detail = match space {
            Space::Shared => format!("the block has {} bytes of shared memory", self.shared.len()),
            Space::Local => format!("the thread has {} bytes of local memory", self.m.code.local_bytes),
            Space::Param => format!("the kernel has {} bytes of parameters", self.m.params.len()),
            _ => {
                let allocs = &self.m.global.allocs;
                let i = allocs.partition_point(|a| a.base <= addr);
                match i.checked_sub(1).map(|i| &allocs[i]) {
                    Some(a) if a.read_only && addr < a.base + a.len => "constant memory is read-only".to_string(),
                    Some(a) if addr < a.base + a.len => {
                        format!("it begins {} bytes before the allocation's end", a.base + a.len - addr)
                    }
                    Some(a) if addr - (a.base + a.len) < 1 << 20 => {
                        format!("{} bytes behind the end of an allocation of {} bytes", addr - (a.base + a.len), a.len)
                    }
                    _ => "no allocation is near".to_string(),
                }
            }
        };
        let what = format!("{len} bytes out of bounds in {space:?} memory: {detail}");
        self.fault(warp, FaultKind::OutOfBounds, Some(lane as u32), Some(addr), what)
    }

    /// Alignment of every active lane.
    #[inline(always)]
    pub(super) fn aligned(&self, warp: &Warp, addr: &[u64; LANES], mask: u32, to: u32) -> Result<(), Stopped> {
        let low = (to - 1) as u64;
        let mut any = 0;
        for (l, a) in addr.iter().enumerate() {
            any |= if mask >> l & 1 == 1 { a & low } else { 0 };
        }
        if any == 0 || !self.m.detect.alignment {
            return Ok(());
        }
        let lane = each(mask).find(|l| addr[*l] & low != 0).unwrap_or(0);
        let what = format!("the address is no multiple of {to}");
        Err(self.fault(warp, FaultKind::Misaligned, Some(lane as u32), Some(addr[lane]), what))
    }

    /// The allocation and offset of a global access, with all checks; `None` if it is out of bounds and that is not
    /// looked for.
    #[inline(always)]
    pub(super) fn global<const CHECK: bool>(
        &self,
        warp: &mut Warp,
        lane: usize,
        addr: u64,
        len: u32,
        how: Touch,
        strong: bool,
    ) -> Result<Option<(usize, u64)>, Stopped> {
        let d = &self.m.detect;
        let Some(i) = self.m.global.find(addr, warp.hint) else {
            return if d.bounds { Err(self.out_of_bounds(warp, lane, addr, len, Space::Global)) } else { Ok(None) };
        };
        warp.hint = i;
        let a = &self.m.global.allocs[i];
        let off = addr - a.base;
        if off + len as u64 > a.len || (a.read_only && how != Touch::Read) {
            return if d.bounds { Err(self.out_of_bounds(warp, lane, addr, len, Space::Global)) } else { Ok(None) };
        }
        if CHECK {
            if how != Touch::Write && d.uninitialised_global && !a.is_valid(off, len) {
                let what = format!("{len} bytes are read that nobody wrote (all of them or some)");
                return Err(self.fault(warp, FaultKind::Uninitialised, Some(lane as u32), Some(addr), what));
            }
            if d.block_race
                && !strong
                && (self.number as u64) < MAX_BLOCKS
                && !a.read_only
                && let Some(other) = a.shadow().touch(self.number, off, len, how)
            {
                return Err(self.block_race(warp, lane, addr, how, other));
            }
        }
        if how != Touch::Read {
            a.mark_valid(off, len);
        }
        Ok(Some((i, off)))
    }

    #[cold]
    fn block_race(
        &self,
        warp: &Warp,
        lane: usize,
        addr: u64,
        how: Touch,
        other: crate::detect::global::Other,
    ) -> Stopped {
        let deed = match how {
            Touch::Read => "reads",
            Touch::Write => "writes",
            Touch::Atomic => "atomically updates",
        };
        let who = match other.block {
            Some(b) => {
                let [x, y, _] = self.m.grid;
                format!("block ({},{},{})", b % x, b / x % y, b / x / y)
            }
            None => "several other blocks".to_string(),
        };
        let what = format!("the block {deed} what {who} {}", if other.wrote { "wrote" } else { "read" });
        self.fault(warp, FaultKind::BlockRace, Some(lane as u32), Some(addr), what)
    }

    #[cold]
    pub(super) fn shared_problem(&self, warp: &Warp, lane: usize, at: (usize, Problem), write: bool) -> Stopped {
        let (addr, problem) = at;
        let deed = if write { "written" } else { "read" };
        let (kind, what) = match problem {
            Problem::Unwritten => (FaultKind::Uninitialised, "a shared byte is read that nobody wrote".to_string()),
            Problem::Pending => (
                FaultKind::AsyncPending,
                format!("a shared byte is {deed} while a cp.async copy into it has not been waited for"),
            ),
            Problem::Race { warp: other, wrote } => (
                FaultKind::SharedRace,
                format!(
                    "a shared byte is {deed} that warp {other} {} with no barrier between",
                    if wrote { "wrote" } else { "read" }
                ),
            ),
        };
        self.fault(warp, kind, Some(lane as u32), Some(addr as u64), what)
    }

    /// Shared offset with bounds check; `None` as in [`Ctx::global`].
    #[inline(always)]
    pub(super) fn shared_at(&self, warp: &Warp, lane: usize, addr: u64, len: u32) -> Result<Option<usize>, Stopped> {
        let size = self.shared.len() as u64;
        if addr >= size || size - addr < len as u64 {
            return if self.m.detect.bounds {
                Err(self.out_of_bounds(warp, lane, addr, len, Space::Shared))
            } else {
                Ok(None)
            };
        }
        Ok(Some(addr as usize))
    }

    fn local_at(&self, warp: &Warp, lane: usize, addr: u64, len: u32) -> Result<Option<usize>, Stopped> {
        let size = self.m.code.local_bytes as u64;
        if addr >= size || size - addr < len as u64 {
            return if self.m.detect.bounds {
                Err(self.out_of_bounds(warp, lane, addr, len, Space::Local))
            } else {
                Ok(None)
            };
        }
        Ok(Some(addr as usize + lane * size as usize))
    }

    fn count_access(&mut self, space: Space, addr: &[u64; LANES], mask: u32, len: u32, store: bool) {
        if !self.m.count_memory {
            return;
        }
        let c = &mut self.count;
        match space {
            Space::Global => {
                let sectors = count::sectors(addr, mask, len);
                let bytes = (mask.count_ones() * len) as u64;
                if store {
                    c.global_store_requests += 1;
                    c.global_store_sectors += sectors;
                    c.global_store_bytes += bytes;
                } else {
                    c.global_load_requests += 1;
                    c.global_load_sectors += sectors;
                    c.global_load_bytes += bytes;
                }
            }
            Space::Shared => {
                let (actual, ideal) = count::wavefronts(addr, mask, len);
                c.shared_wavefronts += actual;
                c.shared_wavefronts_ideal += ideal;
            }
            Space::Local => c.local_accesses += 1,
            _ => {}
        }
    }

    pub(super) fn load<const CHECK: bool>(&mut self, warp: &mut Warp, acc: &Access, mask: u32) -> Result<(), Stopped> {
        let addr = addresses(&warp.regs, acc);
        by_space(acc, addr, mask, |space, addr, mask| self.load_space::<CHECK>(warp, acc, space, addr, mask))
    }

    fn load_space<const CHECK: bool>(
        &mut self,
        warp: &mut Warp,
        acc: &Access,
        space: Space,
        addr: &[u64; LANES],
        mask: u32,
    ) -> Result<(), Stopped> {
        let len = acc.size * acc.count;
        if CHECK {
            self.aligned(warp, addr, mask, len)?;
        }
        self.count_access(space, addr, mask, len, false);
        for l in each(mask) {
            let a = addr[l];
            match space {
                Space::Global | Space::Const | Space::Generic => {
                    let at = self.global::<CHECK>(warp, l, a, len, Touch::Read, acc.strong)?;
                    for e in 0..acc.count {
                        let slot = acc.regs[e as usize];
                        if slot != NONE {
                            let v = at.map_or(0, |(i, off)| {
                                self.m.global.allocs[i].load(off + (e * acc.size) as u64, acc.size)
                            });
                            put(&mut warp.regs, slot, acc.width, l, extend(v, acc.size, acc.signed));
                        }
                    }
                }
                _ => {
                    let (bytes, at): (&[u8], _) = match space {
                        Space::Shared => {
                            let at = self.shared_at(warp, l, a, len)?;
                            // Volatile and relaxed reads may race; whoever uses them knows.
                            if CHECK
                                && !acc.strong
                                && let (Some(s), Some(at)) = (&mut self.shadow, at)
                                && let Err(p) = s.read(warp.id, at, len as usize)
                            {
                                return Err(self.shared_problem(warp, l, p, false));
                            }
                            (&self.shared, at)
                        }
                        Space::Local => {
                            let at = self.local_at(warp, l, a, len)?;
                            (&warp.local, at)
                        }
                        _ => {
                            let size = self.m.params.len() as u64;
                            if a >= size || size - a < len as u64 {
                                return Err(self.out_of_bounds(warp, l, a, len, Space::Param));
                            }
                            (self.m.params, Some(a as usize))
                        }
                    };
                    let mut values = [0u64; 8];
                    if let Some(at) = at {
                        for e in 0..acc.count {
                            values[e as usize] = read_le(&bytes[at + (e * acc.size) as usize..], acc.size);
                        }
                    }
                    for (slot, v) in acc.regs.iter().zip(values).take(acc.count as usize).filter(|(s, _)| **s != NONE) {
                        put(&mut warp.regs, *slot, acc.width, l, extend(v, acc.size, acc.signed));
                    }
                }
            }
        }
        Ok(())
    }

    /// A parameter by name: the same for every lane.
    pub(super) fn load_param(&mut self, warp: &mut Warp, acc: &Access, mask: u32) -> Result<(), Stopped> {
        let base = warp.regs.r64(acc.base)[0].wrapping_add(acc.offset as u64);
        let len = (acc.size * acc.count) as u64;
        if base.checked_add(len).is_none_or(|end| end > self.m.params.len() as u64) {
            let lane = mask.trailing_zeros() as usize;
            return Err(self.out_of_bounds(warp, lane, base, len as u32, Space::Param));
        }
        for e in 0..acc.count as usize {
            let at = base as usize + e * acc.size as usize;
            let v = extend(read_le(&self.m.params[at..], acc.size), acc.size, acc.signed);
            if acc.regs[e] != NONE {
                each(mask).for_each(|l| put(&mut warp.regs, acc.regs[e], acc.width, l, v));
            }
        }
        Ok(())
    }

    pub(super) fn store<const CHECK: bool>(&mut self, warp: &mut Warp, acc: &Access, mask: u32) -> Result<(), Stopped> {
        let addr = addresses(&warp.regs, acc);
        by_space(acc, addr, mask, |space, addr, mask| self.store_space::<CHECK>(warp, acc, space, addr, mask))
    }

    fn store_space<const CHECK: bool>(
        &mut self,
        warp: &mut Warp,
        acc: &Access,
        space: Space,
        addr: &[u64; LANES],
        mask: u32,
    ) -> Result<(), Stopped> {
        let len = acc.size * acc.count;
        if CHECK {
            self.aligned(warp, addr, mask, len)?;
        }
        self.count_access(space, addr, mask, len, true);
        for l in each(mask) {
            let a = addr[l];
            let value = |e: u32| get(&warp.regs, acc.regs[e as usize], acc.width, l);
            match space {
                Space::Global | Space::Generic => {
                    if let Some((i, off)) = self.global::<CHECK>(warp, l, a, len, Touch::Write, acc.strong)? {
                        for e in 0..acc.count {
                            let v = get(&warp.regs, acc.regs[e as usize], acc.width, l);
                            self.m.global.allocs[i].store(off + (e * acc.size) as u64, acc.size, v);
                        }
                    }
                }
                Space::Shared => {
                    let Some(at) = self.shared_at(warp, l, a, len)? else { continue };
                    if CHECK
                        && let Some(s) = &mut self.shadow
                        && let Err(p) = s.write(warp.id, at, len as usize, acc.strong)
                    {
                        return Err(self.shared_problem(warp, l, p, true));
                    }
                    for e in 0..acc.count {
                        write_le(&mut self.shared[at + (e * acc.size) as usize..], acc.size, value(e));
                    }
                }
                Space::Local => {
                    let Some(at) = self.local_at(warp, l, a, len)? else { continue };
                    for e in 0..acc.count {
                        let v = get(&warp.regs, acc.regs[e as usize], acc.width, l);
                        write_le(&mut warp.local[at + (e * acc.size) as usize..], acc.size, v);
                    }
                }
                _ => {
                    let what = "a store to read-only memory";
                    return Err(self.fault(warp, FaultKind::OutOfBounds, Some(l as u32), Some(a), what));
                }
            }
        }
        if CHECK && space == Space::Shared && self.m.detect.shared_race {
            // Two lanes that stored different values to one place: one of them does not find its own again.
            for l in each(mask) {
                let Some(at) = self.shared_at(warp, l, addr[l], len)? else { continue };
                for e in 0..acc.count {
                    let mine = get(&warp.regs, acc.regs[e as usize], acc.width, l) & (u64::MAX >> (64 - 8 * acc.size));
                    if read_le(&self.shared[at + (e * acc.size) as usize..], acc.size) != mine {
                        let what = "another lane of the warp stores a different value to the same place in the same instruction";
                        return Err(self.fault(warp, FaultKind::SharedRace, Some(l as u32), Some(addr[l]), what));
                    }
                }
            }
        }
        Ok(())
    }
}
