//! Happens-before for shared memory, byte by byte.
//!
//! The block has one clock that ticks when a barrier completes or a warp arrives at one. Each byte remembers its last
//! writer (warp and time) and its readers since (warps and the time of the latest). A barrier that all warps pass
//! orders everything before it, so only what happened since the last such barrier can race. Barriers of part of the
//! block (named ones) are followed with a vector clock a warp: `known[x][y]` is the time up to which warp x knows what
//! warp y did. Lanes of one warp run in lock step and do not race with each other across instructions.

use std::collections::HashMap;

const ATOMIC: u32 = 1 << 5;
const PENDING: u32 = 1 << 6;
const TIME: u32 = 7;

/// A mistake found at a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    Unwritten,
    /// A `cp.async` destination that was not waited for.
    Pending,
    /// A race with another warp, which wrote (or read).
    Race {
        warp: u32,
        wrote: bool,
    },
}

pub(crate) struct SharedShadow {
    writer: Vec<u32>,
    read_time: Vec<u32>,
    readers: Vec<u32>,
    now: u32,
    /// Time of the last barrier of the whole block.
    since: u32,
    known: Vec<[u32; 32]>,
    /// Exact read times where one time for all readers will not do (named barriers only).
    exact: HashMap<usize, [u32; 32]>,
    pub unwritten: bool,
    pub race: bool,
    pub pending: bool,
}

impl SharedShadow {
    pub fn new(bytes: usize, warps: usize) -> SharedShadow {
        SharedShadow {
            writer: vec![0; bytes],
            read_time: vec![0; bytes],
            readers: vec![0; bytes],
            now: 1,
            since: 1,
            known: vec![[0; 32]; warps],
            exact: HashMap::new(),
            unwritten: true,
            race: true,
            pending: true,
        }
    }

    /// A new block begins.
    pub fn reset(&mut self) {
        self.writer.fill(0);
        self.read_time.fill(0);
        self.readers.fill(0);
        self.known.iter_mut().for_each(|k| *k = [0; 32]);
        self.exact.clear();
        self.now = 1;
        self.since = 1;
    }

    /// A warp arrives at a barrier; gives the time up to which its deeds count as before the barrier. One that
    /// arrives without waiting goes on, so the clock must tick.
    pub fn arrive(&mut self, goes_on: bool) -> u32 {
        self.now += goes_on as u32;
        self.now - goes_on as u32
    }

    /// A barrier of the whole block completes.
    pub fn full_barrier(&mut self) {
        self.now += 1;
        self.since = self.now;
        self.exact.clear();
    }

    /// A barrier of some warps completes: those who waited learn what those who arrived did.
    pub fn partial_barrier(&mut self, arrived: &[(u32, u32)], waiting: u32) {
        let mut all = [0; 32];
        for &(w, time) in arrived {
            for (a, k) in all.iter_mut().zip(&self.known[w as usize]) {
                *a = (*a).max(*k);
            }
            all[w as usize] = all[w as usize].max(time);
        }
        for (_, known) in self.known.iter_mut().enumerate().filter(|(w, _)| waiting >> w & 1 == 1) {
            for (k, a) in known.iter_mut().zip(&all) {
                *k = (*k).max(*a);
            }
        }
        self.now += 1;
    }

    /// Warp `x` reads `len` bytes at `off`.
    #[inline(always)]
    pub fn read(&mut self, x: u32, off: usize, len: usize) -> Result<(), (usize, Problem)> {
        let (now, since) = (self.now, self.since);
        let writer = &self.writer[off..off + len];
        let read_time = &mut self.read_time[off..off + len];
        let readers = &mut self.readers[off..off + len];
        let mut slow = false;
        for (w, t) in writer.iter().zip(read_time.iter()) {
            slow |= *w == 0;
            slow |= *w & PENDING != 0;
            slow |= (*w >> TIME >= since) & (*w & 31 != x);
            slow |= (*t >= since) & (*t != now);
        }
        if slow {
            return self.read_slow(x, off, len);
        }
        let bit = 1 << x;
        for (t, r) in read_time.iter_mut().zip(readers) {
            *r = if *t == now { *r | bit } else { bit };
            *t = now;
        }
        Ok(())
    }

    #[cold]
    fn read_slow(&mut self, x: u32, off: usize, len: usize) -> Result<(), (usize, Problem)> {
        for i in off..off + len {
            self.after_write(x, i, false).map_err(|p| (i, p))?;
            let (t, mask) = (self.read_time[i], self.readers[i]);
            if t >= self.since && t != self.now {
                // Readers whose reads this warp knows are ordered before any write that comes after this read.
                let left = (0..self.known.len() as u32)
                    .filter(|y| mask >> y & 1 == 1 && *y != x && self.known[x as usize][*y as usize] < t)
                    .fold(0u32, |m, y| m | 1 << y);
                if left != 0 || self.exact.contains_key(&i) {
                    let times = self
                        .exact
                        .entry(i)
                        .or_insert_with(|| std::array::from_fn(|y| if left >> y & 1 == 1 { t } else { 0 }));
                    times[x as usize] = self.now;
                }
                self.readers[i] = left | 1 << x;
            } else {
                if let Some(times) = self.exact.get_mut(&i) {
                    times[x as usize] = self.now;
                }
                self.readers[i] = if t == self.now { mask | 1 << x } else { 1 << x };
            }
            self.read_time[i] = self.now;
        }
        Ok(())
    }

    fn after_write(&self, x: u32, i: usize, write: bool) -> Result<(), Problem> {
        let w = self.writer[i];
        let (time, y) = (w >> TIME, w & 31);
        if w == 0 {
            return if !write && self.unwritten { Err(Problem::Unwritten) } else { Ok(()) };
        }
        if w & PENDING != 0 && self.pending {
            return Err(Problem::Pending);
        }
        if self.race && time >= self.since && y != x && self.known[x as usize][y as usize] < time {
            return Err(Problem::Race { warp: y, wrote: true });
        }
        Ok(())
    }

    /// Warp `x` writes (or atomically updates) `len` bytes at `off`.
    #[inline(always)]
    pub fn write(&mut self, x: u32, off: usize, len: usize, atomic: bool) -> Result<(), (usize, Problem)> {
        let since = self.since;
        let mut slow = false;
        for i in off..off + len {
            let w = self.writer[i];
            slow |= w & PENDING != 0;
            slow |= (w >> TIME >= since) & (w & 31 != x);
            slow |= (self.read_time[i] >= since) & (self.readers[i] & !(1 << x) != 0);
        }
        if slow {
            self.write_slow(x, off, len, atomic)?;
        }
        let mark = self.now << TIME | if atomic { ATOMIC } else { 0 } | x;
        for i in off..off + len {
            self.writer[i] = mark;
            self.read_time[i] = 0;
        }
        Ok(())
    }

    #[cold]
    fn write_slow(&mut self, x: u32, off: usize, len: usize, atomic: bool) -> Result<(), (usize, Problem)> {
        for i in off..off + len {
            if !(atomic && self.writer[i] & ATOMIC != 0) {
                self.after_write(x, i, true).map_err(|p| (i, p))?;
            }
            let t = self.read_time[i];
            if self.race && t >= self.since {
                for y in (0..self.known.len() as u32).filter(|y| self.readers[i] >> y & 1 == 1 && *y != x) {
                    let t = self.exact.get(&i).map_or(t, |times| times[y as usize]);
                    if self.known[x as usize][y as usize] < t {
                        return Err((i, Problem::Race { warp: y, wrote: false }));
                    }
                }
            }
            self.exact.remove(&i);
        }
        Ok(())
    }

    /// The bytes that an atomic operation reads must have been written.
    pub fn atomic_read(&self, off: usize, len: usize) -> Result<(), (usize, Problem)> {
        match (off..off + len).find(|i| self.unwritten && self.writer[*i] == 0) {
            Some(i) => Err((i, Problem::Unwritten)),
            None => Ok(()),
        }
    }

    /// Warp `x` starts an asynchronous copy into `len` bytes at `off`.
    pub fn start_copy(&mut self, x: u32, off: usize, len: usize) -> Result<(), (usize, Problem)> {
        self.write(x, off, len, false)?;
        self.writer[off..off + len].iter_mut().for_each(|w| *w |= PENDING);
        Ok(())
    }

    /// The data of such a copy arrive.
    pub fn land_copy(&mut self, x: u32, off: usize, len: usize) {
        self.writer[off..off + len].fill(self.now << TIME | x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_barriers_order_everything() {
        let mut s = SharedShadow::new(64, 4);
        assert_eq!(s.read(0, 0, 4), Err((0, Problem::Unwritten)));
        s.write(0, 0, 4, false).unwrap();
        s.read(0, 0, 4).unwrap();
        assert_eq!(s.read(1, 2, 1), Err((2, Problem::Race { warp: 0, wrote: true })));
        s.full_barrier();
        s.read(1, 0, 4).unwrap();
        s.read(2, 0, 4).unwrap();
        assert_eq!(s.write(1, 0, 4, false), Err((0, Problem::Race { warp: 2, wrote: false })));
        s.full_barrier();
        s.write(1, 0, 2, false).unwrap();
        s.write(3, 2, 2, false).unwrap();
        s.write(2, 8, 4, true).unwrap();
        s.write(3, 8, 4, true).unwrap();
        assert!(s.read(1, 8, 4).is_err());
    }

    #[test]
    fn named_barriers_order_their_own() {
        let mut s = SharedShadow::new(64, 3);
        s.write(0, 0, 4, false).unwrap();
        let (a, b) = (s.arrive(false), s.arrive(false));
        s.partial_barrier(&[(0, a), (1, b)], 0b11);
        s.read(1, 0, 4).unwrap();
        assert!(s.read(2, 0, 4).is_err());
        // Two readers that arrive one after the other, then the writer again.
        let t1 = s.arrive(true);
        s.read(0, 0, 4).unwrap();
        let t0 = s.arrive(true);
        s.partial_barrier(&[(0, t0), (1, t1)], 0b1);
        s.write(0, 0, 4, false).unwrap();
    }

    #[test]
    fn copies_are_pending_until_they_land() {
        let mut s = SharedShadow::new(64, 2);
        s.start_copy(0, 0, 16).unwrap();
        assert_eq!(s.read(0, 4, 4), Err((4, Problem::Pending)));
        s.land_copy(0, 0, 16);
        s.read(0, 4, 4).unwrap();
        assert_eq!(s.read(1, 4, 4), Err((4, Problem::Race { warp: 0, wrote: true })));
        s.full_barrier();
        s.read(1, 4, 4).unwrap();
    }
}
