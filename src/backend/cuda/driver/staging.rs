//! Pinned memory that uploads pass through, so that the caller's bytes may change and the host runs ahead: a ring of pieces,
//! each with the event after which it is free again.

use super::libcuda::call;
use crate::{Result, backend::cuda::launch::Address};
use cudarc::driver::sys;
use rayon::prelude::*;
use std::ptr;

/// Pieces of the ring, and bytes of each.
const STAGES: usize = 4;
const STAGE_BYTES: usize = 4 << 20;
/// Bytes of the whole ring.
pub(super) const RING_BYTES: usize = STAGES * STAGE_BYTES;
/// A piece of a copy into pinned memory that one thread makes.
const COPY_BYTES: usize = 256 << 10;
/// `CU_EVENT_DISABLE_TIMING`.
const NO_TIMING: u32 = 2;

/// The ring. Every method needs the device's context to be current.
pub(super) struct Staging {
    base: Address,
    events: [sys::CUevent; STAGES],
    /// The piece in use and how much of it is taken.
    stage: usize,
    used: usize,
}

impl Staging {
    /// Over [`RING_BYTES`] of pinned memory at `base`, which outlives it.
    pub fn new(base: Address) -> Result<Self> {
        let mut ring = Self { base, events: [ptr::null_mut(); STAGES], stage: 0, used: 0 };
        for event in &mut ring.events {
            if let Err(e) = call!(cuEventCreate(event, NO_TIMING)) {
                ring.destroy();
                return Err(e);
            }
        }
        Ok(ring)
    }

    /// Queues a copy of `data` to the device; waits only where the whole ring is on its way.
    pub fn send(&mut self, dst: Address, data: &[u8], stream: sys::CUstream) -> Result<()> {
        for (i, piece) in data.chunks(STAGE_BYTES).enumerate() {
            let (pinned, event) = self.room(piece.len())?;
            // SAFETY: `room` gave this part of pinned memory, which the host may write; nothing else uses it until it is
            // given again, which is after `event`.
            let room = unsafe { std::slice::from_raw_parts_mut(pinned as *mut u8, piece.len()) };
            if piece.len() > COPY_BYTES {
                room.par_chunks_mut(COPY_BYTES)
                    .zip(piece.par_chunks(COPY_BYTES))
                    .for_each(|(to, from)| to.copy_from_slice(from));
            } else {
                room.copy_from_slice(piece);
            }
            call!(cuMemcpyAsync(dst + (i * STAGE_BYTES) as u64, pinned, piece.len(), stream))?;
            call!(cuEventRecord(event, stream))?;
        }
        Ok(())
    }

    /// Room for `len` ≤ [`STAGE_BYTES`] bytes, free again after the event, which the caller records.
    fn room(&mut self, len: usize) -> Result<(Address, sys::CUevent)> {
        if self.used + len > STAGE_BYTES {
            (self.stage, self.used) = ((self.stage + 1) % STAGES, 0);
            call!(cuEventSynchronize(self.events[self.stage]))?;
        }
        let at = self.base + (self.stage * STAGE_BYTES + self.used) as u64;
        self.used += len.next_multiple_of(64);
        Ok((at, self.events[self.stage]))
    }

    /// Gives the events back.
    pub fn destroy(&mut self) {
        for event in self.events.iter_mut().filter(|e| !e.is_null()) {
            let _ = call!(cuEventDestroy_v2(*event));
            *event = ptr::null_mut();
        }
    }
}
