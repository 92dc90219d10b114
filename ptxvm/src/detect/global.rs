//! Which block touched which global byte during a launch.
//!
//! One 64-bit cell for each 4 bytes: who wrote which of them, who read which of them, and which were read by several.
//! A cell is changed by compare-and-swap, so of two conflicting accesses one always sees the other. Cells that this
//! cannot express (bytes of one word written by different blocks, say) move to an exact side table.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Blocks beyond this number are not tracked.
pub(crate) const MAX_BLOCKS: u64 = (1 << 24) - 2;
const ID: u64 = (1 << 24) - 1;
const SPILLED: u64 = u64::MAX;
const MANY: u32 = u32::MAX;

/// Writer and reader of one byte, as block number + 1.
#[derive(Clone, Copy, Default)]
struct Exact {
    writer: u32,
    reader: u32,
}

pub(crate) struct BlockShadow {
    cells: Box<[AtomicU64]>,
    spilled: Mutex<HashMap<u64, [Exact; 4]>>,
}

/// A cell taken apart: writer id and bytes; last reader id and its bytes; bytes read by several.
#[derive(Clone, Copy)]
struct Cell {
    writer: u64,
    written: u64,
    reader: u64,
    read: u64,
    many: u64,
}

impl Cell {
    #[inline(always)]
    fn unpack(v: u64) -> Cell {
        Cell { writer: v & ID, written: v >> 24 & 15, reader: v >> 28 & ID, read: v >> 52 & 15, many: v >> 56 & 15 }
    }

    #[inline(always)]
    fn pack(self) -> u64 {
        self.writer | self.written << 24 | self.reader << 28 | self.read << 52 | self.many << 56
    }

    fn exact(self) -> [Exact; 4] {
        std::array::from_fn(|i| {
            let bit = 1 << i;
            Exact {
                writer: if self.written & bit != 0 { self.writer as u32 } else { 0 },
                reader: if self.many & bit != 0 {
                    MANY
                } else if self.read & bit != 0 {
                    self.reader as u32
                } else {
                    0
                },
            }
        })
    }
}

/// How an access touches memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Write,
    /// An atomic operation: conflicts with plain accesses of other blocks but not with atomics; not recorded.
    Atomic,
}

/// The other party of a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Other {
    /// Its linear block number; `None`: several blocks.
    pub block: Option<u32>,
    /// It wrote (otherwise it read).
    pub wrote: bool,
}

impl BlockShadow {
    pub fn new(len: u64) -> BlockShadow {
        let zeros = vec![0u64; len.div_ceil(4) as usize].into_boxed_slice();
        // SAFETY: AtomicU64 has the size, alignment and bit validity of u64; zeroed pages thus stay untouched.
        let cells = unsafe { Box::from_raw(Box::into_raw(zeros) as *mut [AtomicU64]) };
        BlockShadow { cells, spilled: Mutex::default() }
    }

    /// Records that `block` touches `len` bytes at `off`; says who else did, if that is a conflict.
    #[inline(always)]
    pub fn touch(&self, block: u32, off: u64, len: u32, how: Touch) -> Option<Other> {
        let me = block as u64 + 1;
        let mut at = off;
        let end = off + len as u64;
        while at < end {
            let word = at / 4;
            let first = at % 4;
            let n = (4 - first).min(end - at);
            let bytes = ((1 << n) - 1) << first;
            let other = self.word(me, word, bytes, how);
            if other.is_some() {
                return other;
            }
            at += n;
        }
        None
    }

    #[inline(always)]
    fn word(&self, me: u64, word: u64, bytes: u64, how: Touch) -> Option<Other> {
        let cell = &self.cells[word as usize];
        let mut cur = cell.load(SeqCst);
        loop {
            if cur == SPILLED {
                return self.slow(me, word, bytes, how, None);
            }
            let mut c = Cell::unpack(cur);
            if c.writer != me && c.written & bytes != 0 {
                return Some(Other { block: Some(c.writer as u32 - 1), wrote: true });
            }
            if how != Touch::Read {
                if c.reader != me && c.read & bytes != 0 {
                    return Some(Other { block: Some(c.reader as u32 - 1), wrote: false });
                }
                if c.many & bytes != 0 {
                    return Some(Other { block: None, wrote: false });
                }
            }
            let mut spill = false;
            match how {
                Touch::Atomic => return None,
                Touch::Write if c.written == 0 || c.writer == me => {
                    c.writer = me;
                    c.written |= bytes;
                }
                Touch::Write => spill = true,
                Touch::Read if c.read == 0 || c.reader == me => {
                    let new = bytes & !c.many;
                    if new != 0 {
                        c.reader = me;
                        c.read |= new;
                    }
                }
                Touch::Read => {
                    c.many |= c.read & bytes;
                    c.read &= !c.many;
                    let new = bytes & !c.many;
                    if new != 0 && c.read == 0 {
                        c.reader = me;
                        c.read = new;
                    } else {
                        spill = new != 0;
                    }
                }
            }
            if spill {
                return self.slow(me, word, bytes, how, Some(cur));
            }
            let new = c.pack();
            if new == cur {
                return None;
            }
            match cell.compare_exchange_weak(cur, new, SeqCst, SeqCst) {
                Ok(_) => return None,
                Err(v) => cur = v,
            }
        }
    }

    #[cold]
    fn slow(&self, me: u64, word: u64, bytes: u64, how: Touch, spill: Option<u64>) -> Option<Other> {
        let me = me as u32;
        let mut table = match self.spilled.lock() {
            Ok(t) => t,
            Err(poisoned) => poisoned.into_inner(),
        };
        if spill.is_some() {
            // Whoever holds the lock moves the cell; its latest content counts.
            let old = self.cells[word as usize].swap(SPILLED, SeqCst);
            if old != SPILLED {
                table.insert(word, Cell::unpack(old).exact());
            }
        }
        let exact = table.entry(word).or_default();
        for (_, e) in exact.iter_mut().enumerate().filter(|(i, _)| bytes >> i & 1 == 1) {
            if e.writer != 0 && e.writer != me {
                return Some(Other { block: Some(e.writer - 1), wrote: true });
            }
            if how != Touch::Read && e.reader != 0 && e.reader != me {
                return Some(Other { block: (e.reader != MANY).then(|| e.reader - 1), wrote: false });
            }
            match how {
                Touch::Write => e.writer = me,
                Touch::Read => e.reader = if e.reader == 0 || e.reader == me { me } else { MANY },
                Touch::Atomic => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_may_share_words_but_not_bytes() {
        let s = BlockShadow::new(64);
        assert_eq!(s.touch(0, 0, 2, Touch::Write), None);
        assert_eq!(s.touch(1, 2, 2, Touch::Write), None);
        assert_eq!(s.touch(1, 2, 2, Touch::Read), None);
        assert_eq!(s.touch(0, 3, 1, Touch::Read), Some(Other { block: Some(1), wrote: true }));
        assert_eq!(s.touch(0, 1, 1, Touch::Write), None);
    }

    #[test]
    fn readers_are_remembered() {
        let s = BlockShadow::new(64);
        for block in 0..5 {
            for at in 0..4 {
                assert_eq!(s.touch(block, 2 * at, 2, Touch::Read), None);
            }
        }
        assert_eq!(s.touch(2, 4, 1, Touch::Write), Some(Other { block: None, wrote: false }));
        assert_eq!(s.touch(2, 8, 4, Touch::Read), None);
        assert_eq!(s.touch(3, 8, 4, Touch::Write), Some(Other { block: Some(2), wrote: false }));
        assert_eq!(s.touch(2, 8, 4, Touch::Write), None);
        assert_eq!(s.touch(2, 12, 4, Touch::Write), None);
        assert_eq!(s.touch(3, 12, 4, Touch::Atomic), Some(Other { block: Some(2), wrote: true }));
        assert_eq!(s.touch(3, 16, 4, Touch::Atomic), None);
        assert_eq!(s.touch(4, 16, 4, Touch::Atomic), None);
    }
}
