//! The device's global memory: allocations with bounds, validity bits and, during a launch, a record of which block
//! touched what.
//!
//! Addresses are never given out twice and allocations lie apart, so an access past an end or to freed memory hits
//! nothing and is reported. Kernels' accesses are relaxed atomics of their own width: blocks run on several host
//! threads, and a kernel with a data race must not become undefined behaviour of the machine.

use crate::detect::global::BlockShadow;
use crate::error::Error;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Address of the first allocation.
const FIRST: u64 = 0x7_0000_0000;
/// Unmapped bytes after each allocation.
const RED_ZONE: u64 = 4096;
/// Alignment of allocations, as `cuMemAlloc` gives at least.
const ALIGN: u64 = 512;

pub(crate) struct Alloc {
    pub base: u64,
    pub len: u64,
    words: Box<[AtomicU64]>,
    /// One bit a byte: somebody wrote it.
    valid: Box<[AtomicU64]>,
    /// Kernels must not write here (`.const`).
    pub read_only: bool,
    shadow: OnceLock<BlockShadow>,
}

fn atomics(n: u64, fill: u64) -> Box<[AtomicU64]> {
    (0..n).map(|_| AtomicU64::new(fill)).collect()
}

impl Alloc {
    fn ptr(&self, off: u64, size: u64) -> *mut u8 {
        assert!(off + size <= self.words.len() as u64 * 8);
        // SAFETY: the offset was just checked against the words' bytes.
        unsafe { self.words.as_ptr().cast::<u8>().cast_mut().add(off as usize) }
    }

    /// Reads `size` (1, 2, 4, 8) bytes at `off`.
    #[inline(always)]
    pub fn load(&self, off: u64, size: u32) -> u64 {
        let p = self.ptr(off, size as u64);
        if !off.is_multiple_of(size as u64) {
            return (0..size as u64).fold(0, |v, i| v | self.load(off + i, 1) << (8 * i));
        }
        // SAFETY: `p` points to `size` bytes inside atomics (interior mutable), aligned to `size` because the words
        // are 8-aligned and `off` is a multiple; all accesses during a launch are atomic.
        unsafe {
            match size {
                1 => AtomicU8::from_ptr(p).load(Relaxed) as u64,
                2 => AtomicU16::from_ptr(p.cast()).load(Relaxed) as u64,
                4 => AtomicU32::from_ptr(p.cast()).load(Relaxed) as u64,
                _ => AtomicU64::from_ptr(p.cast()).load(Relaxed),
            }
        }
    }

    /// Writes `size` (1, 2, 4, 8) bytes at `off`.
    #[inline(always)]
    pub fn store(&self, off: u64, size: u32, v: u64) {
        let p = self.ptr(off, size as u64);
        if !off.is_multiple_of(size as u64) {
            (0..size as u64).for_each(|i| self.store(off + i, 1, v >> (8 * i)));
            return;
        }
        // SAFETY: as in `load`.
        unsafe {
            match size {
                1 => AtomicU8::from_ptr(p).store(v as u8, Relaxed),
                2 => AtomicU16::from_ptr(p.cast()).store(v as u16, Relaxed),
                4 => AtomicU32::from_ptr(p.cast()).store(v as u32, Relaxed),
                _ => AtomicU64::from_ptr(p.cast()).store(v, Relaxed),
            }
        }
    }

    /// Replaces a value atomically; `f` gives the new one, the old one is returned.
    pub fn update(&self, off: u64, size: u32, f: impl Fn(u64) -> u64) -> u64 {
        let p = self.ptr(off, size as u64);
        assert!(off.is_multiple_of(size as u64));
        macro_rules! update {
            ($atomic:ty, $t:ty) => {{
                // SAFETY: as in `load`; the alignment was just asserted.
                let a = unsafe { <$atomic>::from_ptr(p.cast()) };
                let mut old = a.load(Relaxed);
                loop {
                    match a.compare_exchange_weak(old, f(old as u64) as $t, Relaxed, Relaxed) {
                        Ok(v) => return v as u64,
                        Err(v) => old = v,
                    }
                }
            }};
        }
        match size {
            2 => update!(AtomicU16, u16),
            4 => update!(AtomicU32, u32),
            _ => update!(AtomicU64, u64),
        }
    }

    /// Whether all bytes of a range were written; at most 32 of them.
    #[inline(always)]
    pub fn is_valid(&self, off: u64, len: u32) -> bool {
        let ones = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
        let (w, bit) = ((off / 64) as usize, off % 64);
        let mut have = self.valid[w].load(Relaxed) >> bit;
        if bit + len as u64 > 64 {
            have |= self.valid[w + 1].load(Relaxed) << (64 - bit);
        }
        have & ones == ones
    }

    /// Notes that a range of at most 32 bytes was written.
    #[inline(always)]
    pub fn mark_valid(&self, off: u64, len: u32) {
        let ones = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
        let (w, bit) = ((off / 64) as usize, off % 64);
        let low = ones << bit;
        if self.valid[w].load(Relaxed) & low != low {
            self.valid[w].fetch_or(low, Relaxed);
        }
        if bit + len as u64 > 64 {
            self.valid[w + 1].fetch_or(ones >> (64 - bit), Relaxed);
        }
    }

    fn mark(&self, mut off: u64, end: u64) {
        while off < end {
            let n = (end - off).min(32);
            self.mark_valid(off, n as u32);
            off += n;
        }
    }

    pub fn shadow(&self) -> &BlockShadow {
        self.shadow.get_or_init(|| BlockShadow::new(self.len))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the words are initialised and live as long as `self`. The host reads them only between launches
        // (`Vm::launch` borrows the machine mutably), so nobody writes meanwhile.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.len as usize) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.len as usize) }
    }
}

/// All allocations, in ascending order of address.
#[derive(Default)]
pub(crate) struct Global {
    pub allocs: Vec<Alloc>,
    next: u64,
}

impl Global {
    pub fn alloc(&mut self, len: u64, read_only: bool) -> Result<u64, Error> {
        if len > 1 << 36 {
            return Err(Error::new(0, format!("allocation of {len} bytes")));
        }
        let base = if self.next == 0 { FIRST } else { self.next };
        self.next = (base + len + RED_ZONE).next_multiple_of(ALIGN);
        // Fresh memory is all ones: NaN in every float format.
        let words = atomics(len.div_ceil(8), u64::MAX);
        let valid = atomics(len.div_ceil(64), 0);
        self.allocs.push(Alloc { base, len, words, valid, read_only, shadow: OnceLock::new() });
        Ok(base)
    }

    pub fn free(&mut self, base: u64) -> Result<(), Error> {
        match self.allocs.binary_search_by_key(&base, |a| a.base) {
            Ok(i) => {
                self.allocs.remove(i);
                Ok(())
            }
            Err(_) => Err(Error::new(0, format!("{base:#x} is not the start of an allocation"))),
        }
    }

    /// Index of the allocation that holds `addr`.
    #[inline(always)]
    pub fn find(&self, addr: u64, hint: usize) -> Option<usize> {
        if let Some(a) = self.allocs.get(hint)
            && addr.wrapping_sub(a.base) < a.len
        {
            return Some(hint);
        }
        let i = self.allocs.partition_point(|a| a.base <= addr);
        (i > 0 && addr - self.allocs[i - 1].base < self.allocs[i - 1].len).then(|| i - 1)
    }

    fn range(&self, addr: u64, len: u64) -> Result<(usize, u64), Error> {
        let bad = || Error::new(0, format!("{len} bytes at {addr:#x} lie in no allocation"));
        // An empty range may stand at an allocation's end.
        let i = self.find(addr, 0).or_else(|| if len == 0 { self.find(addr.wrapping_sub(1), 0) } else { None });
        let Some(i) = i else { return Err(bad()) };
        let off = addr - self.allocs[i].base;
        if off.checked_add(len).is_none_or(|end| end > self.allocs[i].len) {
            return Err(bad());
        }
        Ok((i, off))
    }

    pub fn write(&mut self, addr: u64, data: &[u8]) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        let (i, off) = self.range(addr, data.len() as u64)?;
        let a = &mut self.allocs[i];
        a.bytes_mut()[off as usize..off as usize + data.len()].copy_from_slice(data);
        a.mark(off, off + data.len() as u64);
        Ok(())
    }

    pub fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Error> {
        if out.is_empty() {
            return Ok(());
        }
        let (i, off) = self.range(addr, out.len() as u64)?;
        out.copy_from_slice(&self.allocs[i].bytes()[off as usize..off as usize + out.len()]);
        Ok(())
    }

    /// Whether every byte of a range was written by somebody.
    pub fn written(&self, addr: u64, len: u64) -> Result<bool, Error> {
        if len == 0 {
            return Ok(true);
        }
        let (i, off) = self.range(addr, len)?;
        Ok((0..len).all(|b| self.allocs[i].is_valid(off + b, 1)))
    }

    pub fn fill(&mut self, addr: u64, value: u8, len: u64) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        let (i, off) = self.range(addr, len)?;
        let a = &mut self.allocs[i];
        a.bytes_mut()[off as usize..(off + len) as usize].fill(value);
        a.mark(off, off + len);
        Ok(())
    }

    /// Copies within the device; the validity of each byte goes with it.
    pub fn copy(&mut self, dst: u64, src: u64, len: u64) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        let (s, s_off) = self.range(src, len)?;
        let (d, d_off) = self.range(dst, len)?;
        let data = self.allocs[s].bytes()[s_off as usize..(s_off + len) as usize].to_vec();
        let valid: Vec<bool> = (0..len).map(|b| self.allocs[s].is_valid(s_off + b, 1)).collect();
        let a = &mut self.allocs[d];
        a.bytes_mut()[d_off as usize..(d_off + len) as usize].copy_from_slice(&data);
        for (b, v) in valid.into_iter().enumerate() {
            let at = d_off + b as u64;
            let bit = 1 << (at % 64);
            let word = a.valid[(at / 64) as usize].get_mut();
            *word = if v { *word | bit } else { *word & !bit };
        }
        Ok(())
    }

    /// Forgets which block touched what: a new launch begins.
    pub fn new_launch(&mut self) {
        self.allocs.iter_mut().for_each(|a| a.shadow = OnceLock::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_have_bounds_and_validity() {
        let mut g = Global::default();
        let a = g.alloc(100, false).unwrap();
        let b = g.alloc(100, false).unwrap();
        assert!(b >= a + 100 + RED_ZONE);
        assert!(g.write(a + 90, &[1; 11]).is_err());
        g.write(a + 60, &[1; 10]).unwrap();
        assert!(g.written(a + 60, 10).unwrap());
        assert!(!g.written(a + 59, 10).unwrap());
        g.copy(b, a + 55, 10).unwrap();
        assert!(!g.written(b, 10).unwrap() && g.written(b + 5, 5).unwrap());
        g.free(a).unwrap();
        assert!(g.free(a).is_err() && g.read(a, &mut [0]).is_err());
        assert_eq!(g.find(b + 99, 0), Some(0));
        assert_eq!(g.find(b + 100, 0), None);
    }
}
