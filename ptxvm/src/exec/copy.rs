//! `cp.async`: copies whose data arrive in shared memory only when their thread waits for them.
//!
//! The source is read when the copy is issued, the destination keeps its old bytes until the wait; so a kernel that
//! forgets the wait computes with old data here, even with the detectors off.

use super::mem::addresses;
use super::{Ctx, Stopped, Warp, each};
use crate::count;
use crate::decode::inst::{Access, NONE, Pred};
use crate::detect::global::Touch;
use crate::regs::{LANES, Slot};

/// One issued instruction's copies that have not arrived.
struct Batch {
    mask: u32,
    size: u32,
    /// The group of each lane's copy.
    group: [u32; LANES],
    dst: [u32; LANES],
    data: [[u8; 16]; LANES],
}

/// A warp's copies in flight.
#[derive(Default)]
pub(crate) struct Copies {
    batches: Vec<Batch>,
    spare: Vec<Batch>,
    /// Number of each lane's open group, that is, of groups committed.
    open: [u32; LANES],
}

impl Copies {
    /// Lanes with copies in flight.
    pub fn in_flight(&self) -> u32 {
        self.batches.iter().fold(0, |m, b| m | b.mask)
    }

    pub fn commit(&mut self, mask: u32) {
        each(mask).for_each(|l| self.open[l] += 1);
    }
}

impl Ctx<'_> {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn copy_async<const CHECK: bool>(
        &mut self,
        warp: &mut Warp,
        dst: &Access,
        src: &Access,
        size: u32,
        src_size: Slot,
        ignore: Pred,
        mask: u32,
    ) -> Result<(), Stopped> {
        let mut to = addresses(&warp.regs, dst);
        let from = addresses(&warp.regs, src);
        // The destination may be given as a generic address.
        each(mask).for_each(|l| {
            if super::mem::space_of(to[l]) == crate::parse::ast::Space::Shared {
                to[l] -= crate::decode::SHARED_WINDOW;
            }
        });
        let skip = super::warp::pred(&warp.regs, ignore);
        let lens: [u32; LANES] = std::array::from_fn(|l| match src_size {
            _ if skip >> l & 1 == 1 => 0,
            NONE => size,
            s => warp.regs.r32(s)[l].min(size),
        });
        let reading = each(mask).filter(|l| lens[*l] > 0).fold(0u32, |m, l| m | 1 << l);
        if CHECK {
            self.aligned(warp, &to, mask, size)?;
            self.aligned(warp, &from, reading, size)?;
        }
        if self.m.count_memory {
            if reading != 0 {
                self.count.global_load_requests += 1;
                self.count.global_load_sectors += count::sectors(&from, reading, size);
                self.count.global_load_bytes += each(reading).map(|l| lens[l] as u64).sum::<u64>();
            }
            let (actual, ideal) = count::wavefronts(&to, mask, size);
            self.count.async_wavefronts += actual;
            self.count.async_wavefronts_ideal += ideal;
        }
        let mut batch = warp.copies.spare.pop().unwrap_or(Batch {
            mask: 0,
            size,
            group: [0; LANES],
            dst: [0; LANES],
            data: [[0; 16]; LANES],
        });
        (batch.mask, batch.size, batch.group) = (0, size, warp.copies.open);
        for l in each(mask) {
            batch.data[l] = [0; 16];
            if lens[l] > 0
                && let Some((i, off)) = self.global::<CHECK>(warp, l, from[l], lens[l], Touch::Read, false)?
            {
                let a = &self.m.global.allocs[i];
                let mut at = 0;
                while at < lens[l] {
                    // Whole words when possible; a ragged source size ends bytewise.
                    let n = if lens[l] - at >= 8 {
                        8
                    } else if lens[l] - at >= 4 {
                        4
                    } else {
                        1
                    };
                    let v = a.load(off + at as u64, n);
                    super::mem::write_le(&mut batch.data[l][at as usize..], n, v);
                    at += n;
                }
            }
            let Some(at) = self.shared_at(warp, l, to[l], size)? else { continue };
            if CHECK
                && let Some(s) = &mut self.shadow
                && let Err(p) = s.start_copy(warp.id, at, size as usize)
            {
                return Err(self.shared_problem(warp, l, p, true));
            }
            batch.dst[l] = at as u32;
            batch.mask |= 1 << l;
        }
        warp.copies.batches.push(batch);
        Ok(())
    }

    /// Waits until at most `allow` of a lane's latest groups are in flight; `None`: for everything.
    pub(super) fn copy_wait<const CHECK: bool>(&mut self, warp: &mut Warp, allow: Option<u32>, mask: u32) {
        let Warp { copies, id, .. } = warp;
        let mut kept = 0;
        for n in 0..copies.batches.len() {
            let batch = &mut copies.batches[n];
            for l in each(batch.mask & mask) {
                let arrives = allow.is_none_or(|a| batch.group[l].saturating_add(a) < copies.open[l]);
                if arrives {
                    let (at, size) = (batch.dst[l] as usize, batch.size as usize);
                    self.shared[at..at + size].copy_from_slice(&batch.data[l][..size]);
                    if CHECK && let Some(s) = &mut self.shadow {
                        s.land_copy(*id, at, size);
                    }
                    batch.mask &= !(1 << l);
                }
            }
            if batch.mask != 0 {
                copies.batches.swap(kept, n);
                kept += 1;
            }
        }
        let done = copies.batches.split_off(kept);
        copies.spare.extend(done);
    }
}
